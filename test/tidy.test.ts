// The house rules that a machine can check: who imports what, no cycles, documents that equal the code.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize } from 'node:path'
import { describe, expect, test } from 'vitest'
import { tableIn, tables, writeTable } from './support/tables.ts'

const sources = ['broker', 'bridge']
  .flatMap((folder) =>
    readdirSync(folder, { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
  )
  .filter((file) => file.endsWith('.ts') && !file.endsWith('.d.ts'))

interface Import {
  readonly from: string
  readonly to: string
  readonly typeOnly: boolean
}

const imports: Import[] = sources.flatMap((from) =>
  [...readFileSync(from, 'utf8').matchAll(/^(?:import|export) (type )?(?:[^'";]* from )?'([^']+)'/gm)].map(
    ([, type, to]) => ({
      from,
      typeOnly: type !== undefined,
      to: to!.startsWith('.') ? normalize(join(dirname(from), to!)) : to!,
    }),
  ),
)

describe('who may import what', () => {
  test('bridge/ never imports broker/; broker/ imports only bridge/index.ts', () => {
    expect(imports.filter(({ from, to }) => from.startsWith('bridge/') && to.startsWith('broker/'))).toEqual(
      [],
    )
    expect(
      imports.filter(
        ({ from, to }) => from.startsWith('broker/') && to.startsWith('bridge/') && to !== 'bridge/index.ts',
      ),
    ).toEqual([])
  })

  test('each runtime dependency is imported by one file or folder', () => {
    const homes: Record<string, string[]> = {
      aedes: ['broker/aedes/engine.ts'],
      'aedes-persistence-redis': ['bridge/import/import.ts'],
      ioredis: ['bridge/redis/redis.ts', 'bridge/redis/stock-redis.ts'],
      'mqemitter-redis': ['bridge/control/emitter.ts'],
      'mqtt-packet': ['broker/aedes/packets.ts'],
      'prom-client': ['broker/observe/metrics.ts'],
      ws: ['broker/listeners/websocket.ts'],
      yaml: ['broker/config/config.ts', 'broker/config/file.ts'],
      zod: [
        'bridge/option.ts',
        'bridge/redis/options.ts',
        'bridge/memory/options.ts',
        'bridge/import/options.ts',
        'broker/config/options.ts',
        'broker/cli/up.ts',
        'broker/cli/help.ts',
      ],
    }
    const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      dependencies: Record<string, string>
    }
    expect(Object.keys(homes).sort()).toEqual(Object.keys(dependencies).sort())
    const foreign = imports.filter(
      ({ to, typeOnly }) => !typeOnly && !to.includes('/') && !to.startsWith('node:'),
    )
    for (const { from, to } of foreign) expect(homes[to], `${from} imports ${to}`).toContain(from)
    for (const name of Object.keys(homes))
      expect(
        foreign.map(({ to }) => to),
        `${name} is a dependency that nothing imports`,
      ).toContain(name)
  })

  test('no cycles, not of types either', () => {
    const edges = new Map<string, string[]>()
    for (const { from, to } of imports)
      if (to.endsWith('.ts')) edges.set(from, [...(edges.get(from) ?? []), to])
    const done = new Set<string>()
    const walk = (file: string, path: readonly string[]): void => {
      expect(path, 'a cycle of imports').not.toContain(file)
      if (done.has(file)) return
      for (const next of edges.get(file) ?? []) walk(next, [...path, file])
      done.add(file)
    }
    for (const file of edges.keys()) walk(file, [])
  })

  test('what two scripts do stands once: no five lines of one are in another', () => {
    const seen = new Map<string, string>()
    const folder = 'bridge/redis/lua'
    for (const file of readdirSync(folder)) {
      const lines = readFileSync(join(folder, file), 'utf8')
        .split('\n')
        .map((line) => line.trim())
        .filter((line) => line !== '' && line !== 'end' && !line.startsWith('--') && !line.startsWith('#!'))
      for (let i = 0; i + 5 <= lines.length; i++) {
        const some = lines.slice(i, i + 5).join('\n')
        expect(seen.get(some) ?? file, some).toBe(file)
        seen.set(some, file)
      }
    }
  })

  test('one policy for trying again: nobody else counts its own pauses', () => {
    const own = sources.filter((file) =>
      /retryStrategy: \(\w|\* 2 \*\* (tries|attempt)/i.test(readFileSync(file, 'utf8')),
    )
    expect(own).toEqual(['bridge/pace/retry.ts'])
  })

  test('a node knows no store by its name: which files of broker/ say Redis outside their comments, and why', () => {
    const reasons = {
      'broker/cli/embedded-redis.ts': 'the Redis that `up` brings',
      'broker/cli/up.ts': 'starts it, and names it to its nodes',
      'broker/cli/packages.ts': 'how it is installed',
      'broker/cli/import.ts': 'what it moves stands in a Redis, and so its messages say',
      'broker/cli/help.ts': 'what the program is, in words',
      'broker/errors.ts': 'the words of exit codes',
      'broker/config/sources.ts': 'a name with redis in it may stand before a password',
    }
    const code = (file: string): string =>
      readFileSync(file, 'utf8').replaceAll(/\/\*\*?[^]*?\*\/|^\s*\/\/.*$| \/\/ .*$/gm, '')
    const naming = sources.filter((file) => file.startsWith('broker/') && /redis/i.test(code(file)))
    expect(naming.sort()).toEqual(Object.keys(reasons).sort())
  })

  test('only main.ts touches process.exit, signals and argv; only config.ts and the commands see the environment', () => {
    const uses = (pattern: RegExp): string[] =>
      sources.filter((file) => pattern.test(readFileSync(file, 'utf8')))
    expect(uses(/process\.(exit|argv|on|once)\b/)).toEqual(['broker/main.ts'])
    expect(uses(/process\.env\b/).filter((file) => !file.startsWith('broker/cli/'))).toEqual([])
  })
})

describe('documents equal the code', () => {
  test.each(['broker', 'bridge'])(
    'the map in %s/README.md names what is there, and every folder',
    (folder) => {
      const map = /^\| folder, file \|[^]*?\n\n/m.exec(readFileSync(`${folder}/README.md`, 'utf8'))?.[0] ?? ''
      const named = [...map.matchAll(/`([\w-]+(?:[/.][\w-]+)*(?:\.[a-z]+|\/))`/g)].map(([, name]) => name!)
      expect(named.length).toBeGreaterThan(20)
      expect(named.filter((name) => !existsSync(join(folder, name)))).toEqual([])
      const there = readdirSync(folder, { withFileTypes: true })
      for (const entry of there) if (entry.isDirectory()) expect(named).toContain(`${entry.name}/`)
    },
  )

  test.each([
    'statements',
    'options',
    'up',
    'exit-codes',
    'metrics',
    'errors',
    'keys',
    'scripts',
    'channels',
  ])('table %s', async (name) => {
    const { file, text } = (await tables())[name]!
    if (process.env.UPDATE_TABLES === '1') writeTable(file, name, text)
    expect(tableIn(file, name)).toBe(text)
  })

  test('ARCHITECTURE.md says why each dependency is there', () => {
    const { dependencies, devDependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as Record<
      'dependencies' | 'devDependencies',
      Record<string, string>
    >
    const text = readFileSync('ARCHITECTURE.md', 'utf8')
    for (const name of [...Object.keys(dependencies), ...Object.keys(devDependencies)])
      expect(text, name).toContain(`\`${name}\``)
  })

  test('the README begins with the two commands, and they exist', () => {
    const { scripts } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      scripts: Record<string, string>
    }
    const first = /```sh\n([^`]*)```/.exec(readFileSync('README.md', 'utf8'))?.[1] ?? ''
    expect(first).toMatch(/^npm ci && npm start\b.*\nnpm ci && npm test\b/)
    expect(Object.keys(scripts)).toEqual(expect.arrayContaining(['start', 'test']))
  })

  test('every file begins with what it owns', () => {
    for (const file of sources)
      expect(readFileSync(file, 'utf8').replace(/^#!.*\n/, ''), file).toMatch(/^\/\/ /)
  })

  test('no download address, no path of a machine', () => {
    const lock = readFileSync('package-lock.json', 'utf8')
    expect(lock).not.toMatch(/"resolved":/)
    expect(
      readFileSync('npm-shrinkwrap.json', 'utf8'),
      'the package ships a copy: cp package-lock.json npm-shrinkwrap.json',
    ).toBe(lock)
    const tracked = execFileSync('git', ['ls-files'], { encoding: 'utf8' })
      .trim()
      .split('\n')
      .filter((file) => file !== 'test/tidy.test.ts')
    for (const file of tracked)
      expect(readFileSync(file, 'utf8'), file).not.toMatch(
        /\/(work|root)\/(main|shared)|\/root\/\.|\/home\/[a-z]+\//,
      )
  })
})
