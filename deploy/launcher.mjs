#!/usr/bin/env node
// Runs the program, aedes-cluster.cjs beside it, with what V8 made of it when it was built: compiling is a
// third of what a start costs. That is a file for each version of Node: the checksums of the program and of
// the rest, and the rest. V8 takes it only from its own version, run with the same flags, and trusts it
// blindly: a file that is damaged, or of another build, is passed by. Without it the program is compiled as
// any other. WRITE_COMPILED, of deploy/bundle.mjs, has it written.
import { readFileSync, writeFileSync } from 'node:fs'
import { createRequire, Module } from 'node:module'
import { fileURLToPath } from 'node:url'
import { Script } from 'node:vm'
import { crc32 } from 'node:zlib'

const filename = fileURLToPath(new URL('./aedes-cluster.cjs', import.meta.url))
const source = readFileSync(filename)
const compiled = `${filename}.${process.version}`
const head = 8

/** @param {Buffer} data */
function checksums(data) {
  const sums = Buffer.alloc(head)
  sums.writeUInt32LE(crc32(source), 0)
  sums.writeUInt32LE(crc32(data), 4)
  return sums
}

function read() {
  try {
    const file = readFileSync(compiled)
    const data = file.subarray(head)
    return checksums(data).equals(file.subarray(0, head)) ? data : undefined
  } catch {
    return undefined // it was not built here
  }
}

const isWritten = process.env.WRITE_COMPILED !== undefined
const cachedData = isWritten ? undefined : read()
const script = new Script(Module.wrap(source.latin1Slice()), { filename, cachedData })
if (isWritten)
  process.on('exit', () => {
    const data = script.createCachedData()
    writeFileSync(compiled, Buffer.concat([checksums(data), data]))
  })
const program = new Module(filename)
const require = createRequire(filename)
require.cache[filename] = program // its further files ask for it by this name
const folder = fileURLToPath(new URL('.', import.meta.url))
script.runInThisContext()(program.exports, require, program, filename, folder)
