// Puts the program and all that it uses into one file, dist/aedes-cluster.cjs: a node starts with a third of
// the CPU that 400 small files cost it. dist/aedes-cluster.js (deploy/launcher.mjs) runs it, with what V8 made
// of it here. What a module reads beside itself it finds where it stood before. The library
// (dist/broker/index.js) stays as it is.
import { execFileSync } from 'node:child_process'
import { chmodSync, copyFileSync, writeFileSync } from 'node:fs'
import { relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { rolldown } from 'rolldown'

const dist = fileURLToPath(new URL('../dist', import.meta.url))
const launcher = `${dist}/aedes-cluster.js`

const placed = {
  name: 'import.meta.url as it was',
  transform(code, id) {
    if (!id.startsWith(dist) || !code.includes('import.meta.url')) return undefined
    return code.replaceAll(
      'import.meta.url',
      `new URL(${JSON.stringify(`./${relative(dist, id)}`)}, import.meta.url).href`,
    )
  },
}

const bundle = await rolldown({
  input: { 'aedes-cluster': `${dist}/broker/main.js` },
  platform: 'node',
  plugins: [placed],
  logLevel: 'silent',
})
const { output } = await bundle.generate({
  format: 'cjs',
  strict: true, // as modules are
  entryFileNames: '[name].cjs',
  chunkFileNames: 'aedes-cluster-[name].cjs',
})
await bundle.close()
const ascii = (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
for (const { fileName, code } of output)
  // V8 keeps ASCII in half the memory, and need not decode it
  writeFileSync(`${dist}/${fileName}`, code.replace(/^#!.*/, '').replaceAll(/[^\0-\x7f]/g, ascii))
copyFileSync(fileURLToPath(new URL('launcher.mjs', import.meta.url)), launcher)
chmodSync(launcher, 0o755)
execFileSync(process.execPath, [launcher, '--version'], { env: { WRITE_COMPILED: '1' }, stdio: 'ignore' })
