// What is said of a configuration that is wrong: all of it at once, a line each, by the place where it
// stands; and never a secret. loadConfig is what `node`, `check`, `import` and createNode ask;
// test/cluster/cli.test.ts runs some of it as a process.
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { inspect } from 'node:util'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { createNode, type NodeOptions } from '../../broker/index.ts'
import { parseArguments } from '../../broker/cli/arguments.ts'
import { nodeFlags } from '../../broker/cli/node-command.ts'
import {
  environmentNameOf,
  flagOf,
  loadConfig,
  options,
  showConfig,
  sourceOf,
} from '../../broker/config/config.ts'
import type { Option } from '../../bridge/index.ts'
import { OperatorError } from '../../broker/operator-errors.ts'
import { stackOf } from '../../broker/observe/shown.ts'
import { limits } from '../../broker/config/limits.ts'
import { changeable, changeTo } from '../../broker/config/reload.ts'
import { tlsProblems } from '../../broker/config/tls-files.ts'
import { makeCertificates, type Certificates } from '../support/certificates.ts'

let folder = ''
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-config-'))
})
afterAll(() => rmSync(folder, { recursive: true, force: true }))

function file(text: string, name = 'node.yaml'): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

/** What the operator reads, line by line, and all else that an error holds. */
function linesOf(load: () => unknown): string[] {
  try {
    load()
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error
    expect(error.exitCode).toBe(2)
    expect(error.message).toBe(error.lines.join('\n'))
    everything += inspect(error, { depth: 9 })
    return error.lines
  }
  return []
}
let everything = ''
beforeEach(() => {
  everything = ''
})

const byFlags =
  (...argv: string[]) =>
  (): unknown => {
    const { values, problems } = parseArguments(argv, nodeFlags)
    return loadConfig(values, {}, problems)
  }
const byEnvironment = (environment: Record<string, string>) => (): unknown => loadConfig({}, environment)
const byFile = (text: string) => (): unknown => loadConfig({ config: file(text) }, {})

describe('no error shows a secret', () => {
  const secret = 'hunter2'
  /** How people write one where it does not belong, or not like that. */
  const allTexts = [
    `redis//:${secret}@host:6379`,
    `redis:/:${secret}@host`,
    `:${secret}@host:6379`,
    `redis://:${secret}:host:6379`,
    `redis://user:${secret}@host:port`,
    `redis://user:${secret}@host:99999`,
    `http://user:${secret}@host/`,
    `redis://:pa/${secret}@host`,
    `redis://user:1/${secret}@host`,
    `redis://:a@${secret}@host:x`,
    `redis://host:6379?password=${secret}`,
    `redis://host:6379/0#${secret}`,
    `redis+sentinel://user:1234/${secret}@host`,
    `redis+cluster://:${secret}@a,b/2`,
    `unix://user:${secret}@`,
    `mqtt://user:${secret}@0.0.0.0:1883`,
    `ws://:${secret}@[::1]/`,
    `user:${secret} with space@host`,
    `redis://:line\n${secret}@host:x`,
    `-----BEGIN PRIVATE KEY-----\n${secret}\n-----END PRIVATE KEY-----`,
    `{"password":"${secret}"}@:@`,
  ]
  /** Of each option some, others at each start; all of them by SECRETS=all. */
  const first = Math.floor(Math.random() * 8)
  const some = allTexts.filter((_, i) => i % 8 === first)
  const { SECRETS, TEST_BRIEF } = process.env
  const texts = SECRETS === 'all' ? allTexts : TEST_BRIEF === undefined ? some : some.slice(0, 1)
  /** In its section, of the node and of a listener. */
  const inSection = (name: string, text: string): (() => unknown)[] => {
    const { at, ofListener }: Option = options[name as keyof typeof options]
    const [section, key] = at?.split('.') ?? []
    if (section === undefined) return []
    const value = `${section}: { ${key}: ${JSON.stringify(text)} }`
    return [
      byFile(`${value}\n`),
      byFile(`${section}:\n  x${key}: ${JSON.stringify(text)}\n`),
      ...(ofListener === true ? [byFile(`listeners: [{ url: "ws://127.0.0.1:1", ${value} }]\n`)] : []),
    ]
  }
  test.each(Object.keys(options))('%s, as a flag, in the environment, in a file and in code', (name) => {
    for (const text of texts) {
      for (const load of [
        byFlags(flagOf(name), text),
        byFlags(`${flagOf(name)}=${text}`),
        byEnvironment({ [environmentNameOf(name)]: text }),
        byFile(`${name}: ${JSON.stringify(text)}\n`),
        byFile(`${name}: [${JSON.stringify(text)}, {}]\n`),
        ...(texts.indexOf(text) < 3 ? inSection(name, text) : []),
        () => loadConfig({ [name]: text }, {}, [], (one) => one),
        () => loadConfig({ [name]: [text] }, {}, [], (one) => one),
      ]) {
        const lines = linesOf(load)
        expect(lines.length, text).toBeGreaterThan(0)
        expect(lines.join('\n')).not.toContain(secret)
        for (const line of lines) {
          expect(line).toMatch(/: .+\. \S/) // what is wrong, and what to do
          expect(line, 'in our words, not as a schema has it').not.toContain('is not valid (')
        }
      }
    }
    expect(everything).not.toContain(secret)
  })

  const misplaced: [how: string, load: () => unknown][] = [
    ...[
      '--redis-password',
      '--redisPassword',
      '--password',
      '--pw',
      '--pass',
      '--pass-word',
      '--redis_password',
      '--tls-key-passphrase',
      '--id-',
      '--token',
      '-p',
      '-a',
    ].flatMap((flag): [string, () => unknown][] => [
      [`${flag} VALUE`, byFlags(flag, secret)],
      [`${flag}=VALUE`, byFlags(`${flag}=${secret}`)],
      [`${flag}VALUE`, byFlags(`${flag}:${secret}`)],
    ]),
    ['a word alone', byFlags(secret)],
    ['an address alone', byFlags(`redis://:${secret}@host`)],
    ['a colon for =', byFlags(`--redis:redis://:${secret}@host`)],
    ['a password file that is the password', byFlags('--redis-password-file', secret)],
    ['a key that is the passphrase', byFlags('--tls-key', secret)],
    ...[
      'REDIS_PASSWORD',
      'PASSWORD',
      'PW',
      'PASS',
      'REDIS_PASS',
      'REDDIS',
      'REDIS_URL',
      'TLS_KEY_PASSPHRASE',
      'TOKEN',
    ].map((name): [string, () => unknown] => [
      `AEDES_CLUSTER_${name}`,
      byEnvironment({ [`AEDES_CLUSTER_${name}`]: secret }),
    ]),
    ['AEDES_CLUSER_REDIS', byEnvironment({ AEDES_CLUSER_REDIS: secret })],
    ['lower case', byEnvironment({ aedes_cluster_redis: secret })],
    ['the password file of the environment', byEnvironment({ AEDES_CLUSTER_REDIS_PASSWORD_FILE: secret })],
    ...[
      'redisPassword',
      'password',
      'pw',
      'pass',
      'pin',
      'reddis',
      'redis-password',
      'redis_password',
      'tlsKeyPassphrase',
      'auth',
      'key',
      'adminToken',
    ].map((name): [string, () => unknown] => [`the key ${name}`, byFile(`${name}: ${secret}\n`)]),
    ['a mapping', byFile(`redis:\n  host: h\n  password: ${secret}\n`)],
    ['a mapping of what is none', byFile(`access: { user: u, password: ${secret} }`)],
    ['a list of mappings', byFile(`listen:\n  - url: mqtt://127.0.0.1:1\n    password: ${secret}\n`)],
    ['a list', byFile(`redis: [redis://:${secret}@a, redis://:${secret}@b]`)],
    ['no YAML: a bracket', byFile(`redis: [redis://:${secret}@h`)],
    ['no YAML: an alias', byFile(`redis: *${secret}`)],
    ['no YAML: a tag', byFile(`redis: !${secret} x`)],
    ['no YAML: a quote', byFile(`redis: "redis://:${secret}@h`)],
    ['no YAML: behind a quote', byFile(`redis: "redis://" ${secret}`)],
    ['no YAML: a second colon', byFile(`redis: a: ${secret}`)],
    ['no YAML: a tab', byFile(`redis:\n\t- ${secret}`)],
    ['no YAML: an escape', byFile(`redis: "\\${secret}"`)],
    ['no mapping', byFile(`redis://:${secret}@h`)],
    ['no mapping: a list', byFile(`- redis://:${secret}@h`)],
    ['a key with spaces', byFile(`redis //:${secret}@h: 6379`)],
    ['twice', byFile(`redis: redis://:${secret}@h\nredis: redis://:${secret}@h\n`)],
    ['two documents', byFile(`redis: redis://a\n---\nredis: redis://:${secret}@h\n`)],
    ['the file itself', byFlags('--config', `redis://:${secret}@h`)],
    ['the file of the environment', byEnvironment({ AEDES_CLUSTER_CONFIG: `redis://:${secret}@h` })],
  ]
  test.each(misplaced)('%s', (_how, load) => {
    const lines = linesOf(load)
    expect(lines.length).toBeGreaterThan(0)
    expect(lines.join('\n') + everything).not.toContain(secret)
  })

  test('the stack of a bug shows where, not the command with its arguments nor an address', () => {
    const reply = Object.assign(new Error(`WRONGPASS at redis://:${secret}@host`), {
      command: { name: 'auth', args: ['u', secret] },
    })
    const stack = stackOf(new TypeError('x is not a function', { cause: reply }))
    expect(stack).toMatch(
      /TypeError: x is not a function\n +at [^]*caused by: Error: WRONGPASS at redis:\/\/\*\*\*@host\n +at /,
    )
    expect(stack).not.toContain(secret)
  })
})

test('all that is wrong is said at once, each by where it stands', () => {
  const config = file(
    'id: a b\nlisten:\n  - mqtt://127.0.0.1:1\n  - http://127.0.0.1:2\nprefx: x\nleaseMs: 5s\nadmin: off\nadmin: off\n',
  )
  const { values, problems } = parseArguments(
    ['--config', config, '--lisen', 'mqtt://h', '--shutdown-ms', '1e3', '--tls-ca', 'none.pem'],
    nodeFlags,
  )
  const lines = linesOf(() =>
    loadConfig(
      values,
      { AEDES_CLUSTER_PACKET_BYTES_MAX: '1MB', AEDES_CLUSTER_PREFX: 'x', OTHER: 'y' },
      problems,
    ),
  )
  const starts = [
    '--lisen: is not an option. Did you mean --listen?',
    `${config}:5:1 prefx=x: is not an option. Did you mean prefix?`,
    `${config}:8:1 admin: stands in line 7 already.`,
    'AEDES_CLUSTER_PREFX=x: is not an option. Did you mean AEDES_CLUSTER_PREFIX?',
    `${config}:1:5 id=a b: has more than 64 characters, or others than letters`,
    `${config}:4:5 listen=http://127.0.0.1:2: has another scheme than mqtt://, mqtts://, ws://, wss://.`,
    'AEDES_CLUSTER_PACKET_BYTES_MAX=1MB: is not a whole number in digits alone. Use a number from 1024 to 268435455',
    '--shutdown-ms=1e3: is not a whole number in digits alone.',
    `${config}:6:10 leaseMs=5s: is not a whole number in digits alone.`,
    '--tls-ca=none.pem: cannot be read (ENOENT).',
  ]
  expect(lines.sort().map((line, i) => line.slice(0, starts.sort()[i]?.length))).toEqual(starts)
})

const wrong: [what: string, load: () => unknown, says: RegExp[]][] = [
  ['workers that share no store', byFlags('--workers', '2'), [/^--workers=2: needs Redis.*Add --redis/]],
  ['an empty value of a flag', byFlags('--id='), [/^--id: has no value/]],
  ['a flag behind a flag', byFlags('--id', '--prefix', 'x'), [/^--id: has no value/]],
  ['an empty variable', byEnvironment({ AEDES_CLUSTER_ID: '' }), [/^AEDES_CLUSTER_ID: has no value/]],
  [
    'an empty file name',
    byEnvironment({ AEDES_CLUSTER_CONFIG: '' }),
    [/^AEDES_CLUSTER_CONFIG: has no value/],
  ],
  [
    'empty values in a file',
    byFile('id:\nprefix: ~\nlisten: [mqtt://127.0.0.1:1, ""]\nredis: ""\n'),
    [
      /:1:\d+ id: has no value/,
      /:4:\d+ redis: has no value/,
      /:2:9 prefix: has no value/,
      /:3:\d+ listen: has no value/,
    ],
  ],
  ['an empty list', byFile('listen: []'), [/:1:9 listen=.*: is not valid/]],
  [
    'keys of every object',
    byFile('__proto__: x\nconstructor: y\ntoString: z\n'),
    [/:1:1 __proto__.*not an option/, /:2:1 constructor.*not an option/, /:3:1 toString.*not an option/],
  ],
  [
    'flags of every object',
    byFlags('--constructor', 'x', '--to-string=y', '--__proto__=z'),
    [/^--constructor: is not an option/, /^--to-string: is not an option/, /: is not an option/],
  ],
  [
    'keys of sections',
    byFile(
      [
        'tls:\n  certt: x\n  packetBytesMax: 1',
        'redis:\n  host: h\n  leaseMs: 1',
        'limits:\n  packetByteMax: 1\n  leaseMs: 5\n  connectTimeoutMs: 0',
        'log: loud\nrights:\n  user: u',
        'admin:\n  url: ftp://h\n  hosts: [a, "b c"]\n',
      ].join('\n'),
    ),
    [
      /:2:3 tls\.certt: is not an option\. Did you mean tls\.cert\?/,
      /:3:3 tls\.packetBytesMax: is not an option\. Did you mean limits\.packetBytesMax\?/,
      /:5:3 redis\.host: is not an option\. The section redis has url, passwordFile, prefix, timeoutMs,/,
      /:6:12 redis\.leaseMs=1: is less than 3000/,
      /:8:3 limits\.packetByteMax: is not an option\. Did you mean limits\.packetBytesMax\?/,
      /:9:3 limits\.leaseMs: is not an option\. Did you mean redis\.leaseMs\?/,
      /:10:21 limits\.connectTimeoutMs=0: is less than 1\. Use a number of milliseconds/,
      /:11:6 log: is a section\. Write its options below it/,
      /:12:1 rights: is not an option/,
      /:15:8 admin\.url=ftp:\/\/h: has another scheme/,
      /:16:14 admin\.hosts=b c: is not a host name/,
    ],
  ],
  [
    'keys of listeners',
    byFile(
      [
        'listeners:',
        '  - url: mqtt://127.0.0.1:1',
        '    tls: { cert: /nowhere.pem }',
        '    limits: { packetBytesMax: 1, sessionsMax: 5, connectTimoutMs: 1 }',
        '  - { url: "mqtts://127.0.0.1:1", websocket: { origins: [https://a.example] } }',
        '  - { uri: "ws://h" }',
        '  - [mqtt://127.0.0.1:3]',
        '  - http://127.0.0.1:4',
        'listen: mqtt://127.0.0.1:5',
      ].join('\n'),
    ),
    [
      /:3:18 listeners\[0\]\.tls\.cert: is for TLS, and mqtt:\/\/127\.0\.0\.1:1 has none\. Write mqtts:/,
      /:3:18 listeners\[0\]\.tls\.cert=\/nowhere\.pem: cannot be read \(ENOENT\)/,
      /:4:31 listeners\[0\]\.limits\.packetBytesMax=1: is less than 1024/,
      /:4:34 listeners\[0\]\.limits\.sessionsMax: holds for the whole node\. Write it in the section limits at the top/,
      /:4:50 listeners\[0\]\.limits\.connectTimoutMs: is not an option\. Did you mean limits\.connectTimeoutMs\?/,
      /:5:12 listeners\[1\]\.url=mqtts:\/\/127\.0\.0\.1:1: needs tls\.cert and tls\.key\. Add/,
      /:5:12 listeners\[1\]\.url=mqtts:\/\/127\.0\.0\.1:1: has the port of mqtt:/,
      /:5:57 listeners\[1\]\.websocket\.origins: is for WebSocket, and mqtts:\/\/127\.0\.0\.1:1 is none/,
      /:6:5 listeners\[2\]: has no url\. Write url/,
      /:6:7 listeners\[2\]\.uri: is not an option of a listener\. Did you mean url\?/,
      /:7:5 listeners\[3\]: must be a mapping/,
      /:8:5 listeners=http:\/\/127\.0\.0\.1:4: has another scheme/,
      /:9:9 listen: stands beside `listeners`/,
    ],
  ],
  [
    'an option in its section and at the top, a section twice, no list of listeners',
    byFile('leaseMs: 5000\nredis: { leaseMs: 6000 }\nlog:\nlog: { level: info }\nlisteners: mqtt://h\n'),
    [
      /:2:19 redis\.leaseMs: says the same as \S+:1:10 leaseMs\. Remove one/,
      /:4:1 log: stands in line 3 already/,
      /:5:1 listeners: is not a list/,
    ],
  ],
  [
    'aliases that make nine lines a million values',
    byFile(
      `x:\n  - &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n${'bcdefg'
        .split('')
        .map((name, i) => `  - &${name} [${`*${'abcdef'[i]}, `.repeat(9)}]\n`)
        .join('')}`,
    ),
    [/ x\S*: is more than 100000 values/, /:1:1 x: is not an option/],
  ],
  [
    'one more, and each is too deep: that is said once',
    byFile(
      `x:\n  - &a [1, 1, 1, 1]\n${'bcdefghi'
        .split('')
        .map((name, i) => `  - &${name} [${`*${'abcdefgh'[i]}, `.repeat(3)}]\n`)
        .join('')}`,
    ),
    [/: is too deep/, /:1:1 x: is not an option/],
  ],
  [
    'an alias without its anchor',
    byFile('id: *b\n'),
    [/:1:5 id: is not YAML \(an alias/, /:1:5 id: has no value/],
  ],
  [
    'far too many brackets',
    byFile(`id: ${'['.repeat(5_000)}`),
    [/nested too deep/, ...Array.from({ length: 4 }, () => /is not YAML/)],
  ],
  ['UTF-16', byFile('i\0d\0:\0 \0a\0'), [/node\.yaml: is not UTF-8\. Save it as UTF-8/]],
  ['no listener', byFile('listeners: []'), [/:1:12 listeners: names no listener/]],
  [
    'a mapping for a value',
    byFile('redis: { url: {} }\nid: [a]\n'),
    [/:1:15 redis\.url: must be a value, not a mapping/, /:2:6 id: must be one value/],
  ],
  [
    'more digits than a number has',
    byFlags('--shutdown-ms', '99999999999999999999'),
    [/^--shutdown-ms=9+: is not a whole number/],
  ],
  [
    'more than a timer takes',
    byFlags('--shutdown-ms', '2147483648'),
    [/^--shutdown-ms=2147483648: is more than 86400000\. Use a number of milliseconds/],
  ],
  [
    'a level that is none',
    byFlags('--log-level', 'loud'),
    [/^--log-level=loud: is not a level\. Use debug, info/],
  ],
  [
    'an address without scheme, with a path, with a query',
    byFlags('--listen', '0.0.0.0:1883', '--listen', 'mqtt://h:1/x', '--listen', 'ws://h:1/x?y=z'),
    [/^--listen=0\.0\.0\.0:1883: is not a URL/, /: has a path, which/, /: has something after/],
  ],
  [
    'one port twice',
    byFlags(
      '--listen',
      'mqtt://127.0.0.1:1883',
      '--listen',
      'ws://0.0.0.0:1883',
      '--authentication',
      'anonymous',
      '--admin',
      'http://127.0.0.1:1883',
    ),
    [/^--listen=ws:.*has the port of mqtt:/, /^--admin=http:.*has the port of mqtt:/],
  ],
  [
    'a default port twice',
    byFile('listen: mqtt://127.0.0.1, mqtt://127.0.0.1:1883'),
    [/:1:9 listen=mqtt:\/\/127\.0\.0\.1:1883: has the port of/],
  ],
  [
    'TLS without its files',
    byEnvironment({ AEDES_CLUSTER_LISTEN: 'mqtts://127.0.0.1:1' }),
    [/^AEDES_CLUSTER_LISTEN=mqtts:.*needs --tls-cert and --tls-key\. Add/],
  ],
  ['a folder as a file', byFlags('--config', '/'), [/^--config=\/: cannot be read \(EISDIR\)/]],
  ['control characters', byFlags('--id', 'a\u001b[2Jb\r\nc'), [/^--id=a \[2Jb c: has more/]],
]
test.each(wrong)('%s', (_what, load, says) => {
  const lines = linesOf(load)
  expect(lines).toHaveLength(says.length)
  for (const pattern of says)
    expect(
      lines.filter((line) => pattern.test(line)),
      `${pattern.source} in ${lines.join('\n')}`,
    ).not.toEqual([])
})

test('numbers are digits, whatever the source and the option', () => {
  let turn = 0 // each text of each option by one of the sources, each source for each option
  const every = process.env.TEST_BRIEF === undefined ? 3 : 8
  const first = Math.floor(Math.random() * every) // others at each start
  const numbers = Object.entries(options).filter(([, { shape }]) =>
    ['ms', 's', 'bytes', 'count'].includes(shape),
  )
  for (const [name, { shape }] of numbers.filter((_, i) => i % every === first)) {
    turn++
    for (const text of [
      '10s',
      '1e4',
      '0x4000',
      '4_096',
      '1,000',
      '4096.0',
      ' 4096',
      '+4096',
      '-1',
      'NaN',
      'Infinity',
      'true',
    ]) {
      const loads = [
        byFlags(`${flagOf(name)}=${text}`),
        byEnvironment({ [environmentNameOf(name)]: text }),
        byFile(`${name}: ${text.trim() === text ? text : JSON.stringify(text)}`),
      ]
      expect(linesOf(loads[turn++ % 3]!), `${name} (${shape}) ${text}`).toHaveLength(1)
    }
    for (const value of [NaN, Infinity, 4096.5, -1, true, {}, 1e300])
      expect(
        linesOf(() => loadConfig({ [name]: value }, {})),
        `${name} ${inspect(value)}`,
      ).toHaveLength(1)
  }
})

test('what looks like a number or a truth value in YAML is the text that it looks like; a list may be one text', () => {
  const config = loadConfig(
    {
      config: file(
        'id: 007\nprefix: on\nlisten: mqtt://127.0.0.1:1, ws://127.0.0.1:2/mqtt\nadmin: off\nleaseMs: "5000"\n',
      ),
    },
    {},
  )
  expect(config).toMatchObject({
    id: '007',
    prefix: 'on',
    listeners: [{ url: 'mqtt://127.0.0.1:1' }, { url: 'ws://127.0.0.1:2/mqtt' }],
    admin: 'off',
    leaseMs: 5_000,
  })
  expect(sourceOf(config, 'listen', 'ws://127.0.0.1:2/mqtt')).toMatch(/node\.yaml:3:9 listen$/)
  expect(sourceOf(config, 'redis')).toBe('--redis')
})

test('what Kubernetes puts into the environment for a service called aedes-cluster is not ours', () => {
  expect(
    loadConfig(
      {},
      {
        AEDES_CLUSTER_SERVICE_HOST: '10.0.0.1',
        AEDES_CLUSTER_SERVICE_PORT: '1883',
        AEDES_CLUSTER_SERVICE_PORT_MQTT: '1883',
        AEDES_CLUSTER_PORT: 'tcp://10.0.0.1:1883',
        AEDES_CLUSTER_PORT_1883_TCP: 'tcp://10.0.0.1:1883',
        AEDES_CLUSTER_PORT_1883_TCP_PROTO: 'tcp',
        AEDES_CLUSTER_PORT_1883_TCP_PORT: '1883',
        AEDES_CLUSTER_PORT_1883_TCP_ADDR: '10.0.0.1',
        AEDES_CLUSTER_ADMIN_SERVICE_HOST: '10.0.0.2',
        AEDES_CLUSTER_ADMIN_PORT: 'tcp://10.0.0.2:18083',
        AEDES_OTHER: 'x',
      },
    ),
  ).toEqual(loadConfig({}, {}))
  expect(linesOf(byEnvironment({ AEDES_CLUSTER_PORT: '1884' }))).toHaveLength(1)
})

test('sections and the names of options are one configuration, in a file and in code', () => {
  const flat = loadConfig(
    {
      id: 'a',
      listen: ['mqtt://127.0.0.1:1', 'ws://127.0.0.1:2'],
      redis: 'redis://:p@h',
      leaseMs: 5_000,
      adminHosts: ['x.example'],
      admin: 'off',
      packetBytesMax: 2_048,
    },
    {},
  )
  const sections = {
    id: 'a',
    listeners: ['mqtt://127.0.0.1:1', { url: 'ws://127.0.0.1:2' }],
    redis: { url: 'redis://:p@h', leaseMs: 5_000 },
    admin: { url: 'off', hosts: ['x.example'] },
    limits: { packetBytesMax: 2_048 },
  } satisfies NodeOptions
  expect(loadConfig(sections, {})).toEqual(flat)
  expect(byFile(stringify(sections))()).toEqual(flat)
  const shown = showConfig(flat)
  expect(shown).not.toContain('redis://:p@h')
  expect(byFile(shown.replace('redis://:***@h', 'redis://:p@h'))()).toEqual(flat)
})

test('the compiler knows sections and their keys', () => {
  const options: NodeOptions[] = [
    // @ts-expect-error a slip of the finger
    { limits: { packetByteMax: 1 } },
    // @ts-expect-error another type
    { redis: { leaseMs: '5 s' } },
    // @ts-expect-error of the whole node
    { listeners: [{ url: 'mqtt://127.0.0.1:1', limits: { sessionsMax: 1 } }] },
    // @ts-expect-error of a listener, and it has no url
    { listeners: [{ tls: { cert: 'x' } }] },
  ]
  for (const one of options) expect(linesOf(() => loadConfig(one, {}))).not.toEqual([])
})

test('a listener has what stands with it, and for the rest what holds for all; who says where to listen says all of it', () => {
  const text = [
    'limits: { packetBytesMax: 4096, connectionsMax: 7 }',
    'websocket: { origins: [https://a.example] }',
    'listeners:',
    '  - url: mqtt://127.0.0.1:1',
    '  - url: ws://127.0.0.1:2/mqtt',
    '    websocket: { origins: [https://b.example] }',
    '    limits: { packetBytesMax: 2048 }',
  ].join('\n')
  const config = loadConfig({ config: file(text) }, {})
  expect(config.listeners).toMatchObject([
    { url: 'mqtt://127.0.0.1:1', packetBytesMax: 4_096, connectionsMax: 7 },
    { packetBytesMax: 2_048, connectionsMax: 7, wsOrigins: ['https://b.example'] },
  ])
  expect(sourceOf(config, 'listen', 'ws://127.0.0.1:2/mqtt')).toMatch(/node\.yaml:5:10 listeners\[1\]\.url$/)
  const byFlag = loadConfig({ config: file(text), listen: 'mqtt://127.0.0.1:9' }, {})
  expect(byFlag.listeners).toMatchObject([{ url: 'mqtt://127.0.0.1:9', packetBytesMax: 4_096 }])
})

test('an error of createNode names options as code does', async () => {
  await expect(
    createNode({ limits: { packetBytesMax: 1 }, listeners: [{ url: 'x', limitz: {} }] } as never),
  ).rejects.toThrow(
    /^listeners\[0\]\.limitz: is not an option of a listener. Did you mean limits\?[^]*^limits\.packetBytesMax=1: is less[^]*^listeners\[0\]\.url=x: is not a URL/m,
  )
  await expect(createNode({ listen: ['x'], leaseMs: 1, lisen: [] } as never)).rejects.toThrow(
    /^lisen: is not an option. Did you mean listen\?[^]*^leaseMs=1: is less than 3000[^]*^listen=x: is not a URL/m,
  )
})

describe('the files of TLS', () => {
  let good: Certificates
  let other: Certificates
  beforeAll(() => {
    ;[good, other] = [makeCertificates(), makeCertificates()]
  })
  afterAll(() => {
    good[Symbol.dispose]()
    other[Symbol.dispose]()
  })
  const flags = (cert: string, key: string, ca?: string): (() => unknown) =>
    byFlags(
      '--listen',
      'mqtts://127.0.0.1:1',
      '--tls-cert',
      cert,
      '--tls-key',
      key,
      ...(ca === undefined ? [] : ['--tls-ca', ca]),
    )
  const empty = (): string => file('', 'empty.pem')
  const garbage = (): string =>
    file('-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n', 'garbage.pem')
  const garbageKey = (): string =>
    file('-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n', 'garbage.key')

  test('of a listener stand with it', () => {
    const { cert, key } = other.server
    const tls = `tls: { cert: ${good.server.cert}, key: ${good.server.key} }\n`
    const text = `${tls}listeners:\n  - { url: "mqtts://127.0.0.1:1", tls: { cert: ${cert}, key: ${key} } }\n`
    const config = loadConfig({ config: file(text) }, {})
    expect(sourceOf(config, 'tlsCert', cert)).toMatch(/node\.yaml:3:\d+ listeners\[0\]\.tls\.cert$/)
    expect(sourceOf(config, 'tlsCert', good.server.cert)).toMatch(/node\.yaml:1:\d+ tls\.cert$/)
    expect(linesOf(byFile(text.replace(`, key: ${key}`, '')))).toEqual([
      expect.stringMatching(/:1:\d+ tls\.key=\S+: does not fit the certificate of tlsCert/),
    ])
  })

  test('that are right are taken', () => {
    expect(linesOf(flags(good.server.cert, good.server.key, good.ca))).toEqual([])
  })

  test.each<[what: string, load: () => unknown, says: RegExp]>([
    [
      'a key of another certificate',
      () => flags(good.server.cert, other.server.key)(),
      /^--tls-key=\S+: does not fit the certificate of tlsCert\. /,
    ],
    [
      'swapped',
      () => flags(good.server.key, good.server.cert)(),
      /^--tls-cert=\S+: holds a private key.*swapped[^]*--tls-key=\S+: holds a certificate.*swapped/,
    ],
    [
      'empty',
      () => flags(empty(), empty(), empty())(),
      /^--tls-cert=\S+: is empty[^]*--tls-key=\S+: is empty[^]*--tls-ca=\S+: is empty/,
    ],
    [
      'garbage in PEM',
      () => flags(garbage(), garbageKey(), garbage())(),
      /^--tls-cert=\S+: certificate 1 of 1 cannot be read[^]*--tls-key=\S+: is not a private key that can be read[^]*--tls-ca=\S+: certificate 1/,
    ],
    [
      'no PEM',
      () => flags(file('no', 'no'), file('no', 'no'))(),
      /^--tls-cert=\S+: holds no certificate in PEM.*openssl x509[^]*--tls-key=\*\*\*: holds no private key|--tls-key=\S+: holds no private key/,
    ],
    [
      'a key with a passphrase',
      () => flags(good.server.cert, good.encrypted(good.server.key, 'hunter2'))(),
      /^--tls-key=\S+: is encrypted with a passphrase.*openssl pkey/,
    ],
    [
      'the issuer before the certificate',
      () => flags(good.chain(good.ca, good.server.cert), good.server.key)(),
      /^--tls-key=\S+: does not fit.*first/,
    ],
  ])('%s', (_what, load, says) => {
    const lines = linesOf(load)
    expect(lines.join('\n')).toMatch(says)
    expect(lines.join('\n')).not.toContain('hunter2')
  })

  test('a key that OpenSSL finds too short is told before anybody listens', () => {
    const [cert, key] = good.weak()
    expect(tlsProblems({ tlsCert: cert, tlsKey: key })).toMatchObject([
      { option: 'tlsCert', problem: expect.stringContaining('ERR_SSL_EE_KEY_TOO_SMALL') as string },
    ])
  })
})

test('each ceiling in limits.ts is an option with its default, or says why it is none', () => {
  const source = readFileSync(new URL('../../broker/config/limits.ts', import.meta.url), 'utf8')
  const described = new Map<string, string>()
  let comment = ''
  for (const [, text, name] of source.matchAll(/\/\*\*([\s\S]*?)\*\/|^ {2}(\w+):/gm)) {
    if (text !== undefined) comment = text
    else described.set(name!, comment.replaceAll(/\s*\*?\s+/g, ' '))
  }
  expect([...described.keys()]).toEqual(Object.keys(limits))
  const defaults = loadConfig({}, {})
  for (const [name, value] of Object.entries(limits))
    if (name in options) expect((defaults as Record<string, unknown>)[name], name).toBe(value)
    else expect(described.get(name), name).toMatch(/No option: /)
})

test('what changes while a node runs are the options that README names, also of a listener; the rest waits', () => {
  const readme = readFileSync(new URL('../../broker/README.md', import.meta.url), 'utf8')
  const signals = /## Signals\n([^]*?)\n## /.exec(readme)![1]!
  for (const name of changeable) expect(signals).toContain(`\`${name}\``)
  const url = 'mqtt://127.0.0.1:0'
  const config = loadConfig(
    { listeners: [{ url, limits: { connectionsMax: 1 } }, url], limits: { subscriptionsMax: 1 } },
    {},
  )
  const { listeners } = config
  const next = loadConfig(
    {
      listeners: [{ url, limits: { connectionsMax: 2, packetBytesMax: 2_000 } }, url],
      limits: { subscriptionsMax: 2, slowSubscriber: 'drop' },
      id: 'other',
    },
    {},
  )
  expect(changeTo(config, next)).toEqual({
    now: expect.arrayContaining(['connectionsMax', 'subscriptionsMax', 'slowSubscriber']) as string[],
    later: expect.arrayContaining(['id', 'packetBytesMax']) as string[],
  })
  expect(config).toMatchObject({
    subscriptionsMax: 2,
    listeners: [{ connectionsMax: 2 }, { slowSubscriber: 'drop' }],
  })
  expect([
    config.listeners === listeners,
    config.id === 'other',
    config.listeners[0]!.packetBytesMax,
  ]).toEqual([true, false, config.packetBytesMax])
  expect(changeTo(config, loadConfig({ listeners: [{ url }] }, {})).later).toContain('listeners')
})
