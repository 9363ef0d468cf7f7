// Other builds than this one, for nodes that stand beside its nodes: the version that was released last, as it was packed
// then (test/fault/released/), and one that is newer than this one. Each is a folder of the built dist/, so that what they
// import is found in this repository. State: those folders, removed with the builds.
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { built } from './cluster.ts'

const packed = fileURLToPath(
  new URL(
    `${import.meta.url.endsWith('.ts') ? '../../' : '../../../'}test/fault/released/aedes-cluster.tgz`,
    import.meta.url,
  ),
)
const program = 'dist/aedes-cluster.js'

export interface Build extends Disposable {
  /** What a node of it runs. */
  readonly program: string
}

function folderOf(name: string): { readonly folder: string } & Disposable {
  const folder = mkdtempSync(built(`${name}-`))
  return { folder, [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }) }
}

/** The version that was released last. */
export function released(): Build {
  const made = folderOf('released')
  execFileSync('tar', ['-xzf', packed, '-C', made.folder, '--strip-components=1'])
  return { ...made, program: join(made.folder, program) }
}

/**
 * This build, changed in one thing: it knows one version of records more, and once all nodes read that, each message that
 * it writes has a field that must be understood.
 */
const changes: readonly (readonly [what: RegExp, by: string])[] = [
  [/(recordVersions = \{\s*min: 1,\s*max: )2\b/g, '$13'],
  [/this\.records = records;/g, 'this.records = globalThis.recordsWritten = records;'],
  [
    /at \+= payload\.copy\(bytes, at\);/g,
    `if (globalThis.recordsWritten >= 3) {
        bytes[start + 5] |= flagFields;
        at += Buffer.from([0, 0, 0, 6, 0x81, 0, 0, 0, 1, 7]).copy(bytes, at);
      }
      at += payload.copy(bytes, at);`,
  ],
  [/= this\.#room\(5 \+/g, '= this.#room(10 + 5 +'],
  [/\(bytes\[at\] & mustUnderstand\) === 0/g, '((bytes[at] & mustUnderstand) === 0 || bytes[at] === 0x81)'],
]

/** A version that comes after this one, and writes what this one cannot read. */
export function newer(): Build {
  const made = folderOf('newer')
  mkdirSync(join(made.folder, 'dist'))
  const left = new Set(changes)
  for (const name of readdirSync(built('.')).filter((name) => /\.c?js$/.test(name))) {
    let text = readFileSync(built(name), 'utf8')
    for (const change of changes) {
      const changed = text.replace(...change)
      if (changed !== text) left.delete(change)
      text = changed
    }
    writeFileSync(join(made.folder, 'dist', name), text)
  }
  for (const [what] of left) throw new Error(`nothing in this build is like ${what}`)
  cpSync(built('bridge/redis/lua'), join(made.folder, 'dist/bridge/redis/lua'), { recursive: true })
  writeFileSync(
    join(made.folder, 'package.json'),
    '{"name":"aedes-cluster","version":"99.0.0","type":"module"}\n',
  )
  return { ...made, program: join(made.folder, program) }
}
