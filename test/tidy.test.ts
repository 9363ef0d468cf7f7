// The house rules that a machine can check: who imports what, no cycles, documents that equal the code.
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join, normalize } from 'node:path'
import { describe, expect, test } from 'vitest'
import { keyTable } from '../bridge/redis/keys.ts'
import { refusalCauses } from '../broker/access/refusals.ts'
import { options } from '../broker/config/config.ts'
import { logEvents } from '../broker/observe/log-events.ts'
import { scriptTable, scriptText, type ScriptName } from '../bridge/redis/scripts.ts'
import { folders, headOf, nounOf, plainWrites, tableIn, tables, writeTable } from './support/tables.ts'

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
      '@fastify/swagger': ['broker/admin/api.ts'],
      fastify: ['broker/admin/api.ts'],
      aedes: ['broker/aedes/engine.ts'],
      'aedes-persistence-redis': ['bridge/import/stock-import.ts'],
      jose: ['broker/access/jwt.ts'],
      ioredis: ['bridge/redis/redis.ts', 'bridge/redis/stock-redis.ts'],
      'mqemitter-redis': ['bridge/control/emitter.ts'],
      'mqtt-packet': ['broker/aedes/aedes-packets.ts'],
      'prom-client': ['broker/observe/metrics.ts', 'broker/observe/traffic-metrics.ts'],
      ws: ['broker/listeners/websocket.ts'],
      yaml: ['broker/config/config.ts', 'broker/config/file.ts'],
      zod: [
        'bridge/option.ts',
        'bridge/redis/options.ts',
        'bridge/memory/options.ts',
        'bridge/import/options.ts',
        'broker/config/options.ts',
        'broker/config/foreign-options.ts',
        'broker/cli/up.ts',
        'broker/cli/help.ts',
      ],
    }
    const { dependencies } = JSON.parse(readFileSync('package.json', 'utf8')) as {
      dependencies: Record<string, string>
    }
    expect(Object.keys(homes).sort()).toEqual(Object.keys(dependencies).sort())
    const foreign = imports.filter(
      ({ to, typeOnly }) => !typeOnly && /^(?:@[^/]+\/)?[^/.]+$/.test(to) && !to.startsWith('node:'),
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

  test('what two scripts do stands once: no six lines of one are in another', () => {
    const seen = new Map<string, string>()
    const folder = 'bridge/redis/lua'
    for (const file of readdirSync(folder)) {
      const lines = readFileSync(join(folder, file), 'utf8')
        .split('\n')
        .map((line) => line.trim())
        .filter((line) => line !== '' && line !== 'end' && !line.startsWith('--') && !line.startsWith('#!'))
      for (let i = 0; i + 6 <= lines.length; i++) {
        const some = lines.slice(i, i + 6).join('\n')
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
      'broker/cli/import-command.ts': 'what it moves stands in a Redis, and so its messages say',
      'broker/cli/backup-command.ts': 'what it backs up stands in a Redis, and so its messages say',
      'broker/cli/operate.ts': '`doctor --repair` looks through one',
      'broker/cli/bans-command.ts': 'where the bans of several nodes are, and so its messages say',
      'broker/cli/passwd.ts': 'users of the cluster are in its Redis',
      'broker/cli/help.ts': 'what the program is, in words',
      'broker/operator-errors.ts': 'the words of exit codes',
      'broker/config/sources.ts': 'a name with redis in it may stand before a password',
    }
    const code = (file: string): string =>
      readFileSync(file, 'utf8').replaceAll(/\/\*\*?[^]*?\*\/|^\s*\/\/.*$| \/\/ .*$/gm, '')
    const naming = sources.filter((file) => file.startsWith('broker/') && /redis(?!patch)/i.test(code(file)))
    expect(naming.sort()).toEqual(Object.keys(reasons).sort())
  })

  test('only main.ts touches process.exit, signals and argv; only config.ts and the commands see the environment', () => {
    const uses = (pattern: RegExp): string[] =>
      sources.filter((file) => pattern.test(readFileSync(file, 'utf8')))
    expect(uses(/process\.(exit|argv|on|once)\b/)).toEqual(['broker/main.ts'])
    expect(uses(/process\.env\b/).filter((file) => !file.startsWith('broker/cli/'))).toEqual([])
  })
})

/** Commands that change the key that comes first; RENAME and UNLINK change all that they name. */
const writing =
  /\bcall\('(SET|DEL|UNLINK|RENAME|EXPIRE|HSET|HSETNX|HDEL|SADD|SREM|ZADD|ZREM|RPUSH|LPOP|XADD|XTRIM)', ?([^()]*)/g

/** The nouns of the keys that the code of a script writes: each stands in a variable `<noun>Key`. */
function writtenIn(code: string): string[] {
  const written = new Set<string>()
  for (const { 1: command, 2: args, index } of code.matchAll(writing)) {
    const all = [...args!.matchAll(/\b(\w+)Key\b/g)].map(([, noun]) => noun!)
    for (const noun of /UNLINK|RENAME/.test(command!) ? all : all.slice(0, 1))
      if (noun !== 'each') written.add(noun)
      // a loop over keys: those of the list that it goes through
      else
        for (const [, each] of code
          .slice(code.lastIndexOf('ipairs({', index), code.lastIndexOf('}) do', index))
          .matchAll(/\b(\w+)Key\b/g))
          written.add(each!)
  }
  if (written.delete('newSession')) written.add('session')
  return [...written].sort()
}

describe('the head of a script says which keys it reads and writes', () => {
  const nouns = ['any', ...Object.values(keyTable).map(({ key }) => nounOf(key))]

  test.each(Object.keys(scriptTable) as ScriptName[])('%s', (name) => {
    const { keys, made, writes } = headOf(name)
    expect(keys, 'KEYS').toHaveLength(scriptTable[name].keys)
    for (const noun of [...keys, ...made, ...writes]) expect(nouns, 'a noun of keyTable').toContain(noun)
    for (const noun of writes) expect([...keys, ...made], 'WRITES: given in KEYS or MADE').toContain(noun)
    const code = scriptText(name).replaceAll(/--.*$/gm, '')
    expect(writtenIn(code), 'WRITES: what its commands change').toEqual([...writes].sort())
    const inCode = new Set(
      [...code.matchAll(/\b(\w+)Key\b/g)].map(([, noun]) => (noun === 'newSession' ? 'session' : noun!)),
    )
    inCode.delete('each')
    expect([...new Set([...keys, ...made])].sort(), 'KEYS and MADE').toEqual([...inCode].sort())
  })

  test('what is written by a command alone is listed in test/support/tables.ts', () => {
    const plainly = sources.filter(
      (file) =>
        /^bridge\/(?!redis\/|memory\/)/.test(file) &&
        /\.(?:hset|hsetnx|hdel|zadd|zrem|sadd|srem|rpush|unlink|xadd)\(\s*(?:this\.#?keys\b|key\b)/.test(
          readFileSync(file, 'utf8'),
        ),
    )
    expect(plainly.sort()).toEqual(Object.keys(plainWrites).sort())
  })
})

describe('documents equal the code', () => {
  test.each(['broker', 'bridge'])('the map in %s/README.md has every folder', (folder) => {
    const there = readdirSync(folder, { withFileTypes: true }).filter((entry) => entry.isDirectory())
    expect(Object.keys(folders[folder]!).sort()).toEqual(there.map(({ name }) => name).sort())
  })

  test.each([
    'broker',
    'bridge',
    'statements',
    'options',
    'up',
    'exit-codes',
    'refusals',
    'metrics',
    'api',
    'commands',
    'errors',
    'keys',
    'scripts',
    'channels',
    'log-events',
    'trace-steps',
    'trace-causes',
  ])('table %s', async (name) => {
    const { file, text } = (await tables())[name]!
    if (process.env.UPDATE_TABLES === '1') writeTable(file, name, text)
    expect(tableIn(file, name)).toBe(text)
  })

  test('each line of the log is an event of the table, and each event is said somewhere', () => {
    const texts = sources
      .filter((file) => file.startsWith('broker/') && !file.startsWith('broker/observe/log'))
      .map((file) => [file, readFileSync(file, 'utf8')] as const)
    for (const [file, text] of texts)
      expect(text, file).not.toMatch(/\blog\??\.(?:debug|info|warn|error|onceAMinute)\(/)
    const said = [...texts.map(([, text]) => text), readFileSync('broker/observe/log.ts', 'utf8')].join('\n')
    for (const name of Object.keys(logEvents)) expect(said, name).toContain(`'${name}'`)
  })

  test('what bounds refuse: each bound is an option or a constant, and is found where the table says', () => {
    for (const [cause, { bound, checkedIn }] of Object.entries(refusalCauses))
      for (const file of [checkedIn].flat()) {
        const text = readFileSync(`broker/${file}`, 'utf8')
        if (file !== 'access/gate.ts') expect(text, `${cause} in ${file}`).toContain(`'${cause}'`)
        for (const [name] of bound.matchAll(/\b[a-z]\w+(?:Max|Ms|Maximum)\b/g))
          expect(name in options || text.includes(`const ${name} =`), `${cause}: ${name}`).toBe(true)
      }
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

  test('files and members that a comment or a page names are there', () => {
    const tracked = execFileSync('git', ['ls-files'], { encoding: 'utf8' }).trim().split('\n')
    const gone: string[] = []
    for (const file of tracked.filter((name) => /\.(?:ts|mjs|lua|md|ya?ml)$/.test(name))) {
      const text = readFileSync(file, 'utf8')
      const spoken = file.endsWith('.md')
        ? text
        : [...text.matchAll(/^\s*(?:\/?\*|\/\/|--|#) .*$| (?:\/\/|--|#) .*$|\/\*\*.*$/gm)].join('\n')
      for (const [, name] of spoken.matchAll(
        /(?<![\w@:./])(?:\.\.?\/)*([a-z][\w-]*(?:[./][\w-]+)*\.(?:ts|mjs|lua|md))\b(?!\()/g,
      ))
        if (!tracked.some((other) => other === name || other.endsWith(`/${name}`)))
          gone.push(`${file} names ${name}, which no file is called`)
      for (const [, type, member] of spoken.matchAll(/`([A-Z]\w+)\.(#?[a-z]\w+)(?:\(\))?`/g)) {
        const homes = sources.filter((source) =>
          new RegExp(`^(?:export )?(?:class|interface|type) ${type!}\\b`, 'm').test(
            readFileSync(source, 'utf8'),
          ),
        )
        if (
          homes.length > 0 &&
          !homes.some((home) => new RegExp(`(?<![\\w.#])${member!}\\b`).test(readFileSync(home, 'utf8')))
        )
          gone.push(`${file} names ${type!}.${member!}, which is not in ${homes.join(', ')}`)
      }
    }
    expect(gone).toEqual([])
  })

  test('no two files have one name: a name says which file it is, without its folder', () => {
    const names = sources
      .map((file) => basename(file))
      .filter((name) => !/^(?:index|options)\.ts$/.test(name))
    expect(names.filter((name, at) => names.indexOf(name) !== at)).toEqual([])
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
