// Random text for what reads texts of operators, of old installations and of those who sign tokens: users, rules, keys,
// configurations of Mosquitto, our own YAML. Each says what is wrong with a text; none throws, and none takes long.
import { readAcl, aclFileProblem } from '../../broker/access/mosquitto-acl.ts'
import { keptOf } from '../../broker/access/passwords.ts'
import { passwordFileProblem, readUsers } from '../../broker/access/password-file.ts'
import { readPermissions, readRules } from '../../broker/access/rules-file.ts'
import { readTokenKeys } from '../../broker/access/token-keys.ts'
import { tokensFileProblem } from '../../broker/admin/tokens.ts'
import { readYaml } from '../../broker/config/file.ts'
import { readMosquitto } from '../../broker/config/mosquitto-conf.ts'
import { bytes, chance, damage, names } from './fuzz.ts'
import { kept, storedRules } from './fuzz-access.ts'
import { oddJson } from './fuzz-json.ts'
import type { Random } from './random.ts'

const words = [
  ...[
    'listener',
    'port',
    'include_dir',
    'per_listener_settings',
    'password_file',
    'connection',
    'topic',
    'user',
  ],
  ...[
    'pattern',
    'read',
    'write',
    'readwrite',
    'deny',
    'allow',
    'rules:',
    '-',
    'true',
    'false',
    '1883',
    '0',
    '-1',
  ],
  ...[
    '#',
    '%c',
    '%u',
    '%{cn}',
    ':',
    '&a',
    '*a',
    '[',
    '{',
    '|',
    '>',
    '!!x',
    '"',
    "'",
    '\t',
    'max_connections',
  ],
  ...[
    'persistence',
    'persistent_client_expiration',
    '1y',
    'protocol',
    'websockets',
    'write admin',
    'prefix:',
  ],
  ...['-----BEGIN PUBLIC KEY-----', '-----END PUBLIC KEY-----', '-----BEGIN CERTIFICATE-----', 'MIIB'],
]

function odd(random: Random): string {
  switch (random.below(8)) {
    case 0:
      return oddJson(random)
    case 1:
      return `{"keys":[${oddJson(random)},{"kty":${oddJson(random)},"k":${oddJson(random)},"kid":"x"},{"kty":"RSA","n":"AQAB","e":"AQ"}]}`
    case 2:
      return `ann:${random.pick(kept)}\nbob:${random.pick(kept)}`
    case 3:
      return random.pick(storedRules)
    case 4: {
      const levels = 10 ** random.below(6)
      return random
        .pick(['[', '{a: ', '- ', '? ', '"', '*a ', '&a ', '  \n', 'a:\n '] as const)
        .repeat(levels)
    }
    case 5:
      return bytes(random, 300).toString('latin1')
    default:
      return Array.from({ length: random.below(12) }, () =>
        Array.from({ length: random.below(5) }, () => random.pick(chance(random, 6) ? names : words)).join(
          ' ',
        ),
      ).join('\n')
  }
}

const readers: Readonly<Record<string, (text: string) => unknown>> = {
  rules: (text) => readRules('rules', text),
  yaml: (text) => readYaml('node.yaml', text, []),
  permissions: (text) => {
    let value: unknown
    try {
      value = JSON.parse(text)
    } catch {
      return
    }
    readPermissions(value, 'x')
  },
  acl: (text) => (aclFileProblem(text) === undefined ? readAcl('acl', text) : undefined),
  passwords: (text) =>
    passwordFileProblem(text) === undefined
      ? [...readUsers(text).values()].map((one) => keptOf(one)?.isSlow)
      : undefined,
  tokens: tokensFileProblem,
  keys: readTokenKeys,
  mosquitto: (text) => readMosquitto('mosquitto.conf', text, () => []),
}

/** Of a text, characters; and what reading it may take: a node that does serves nobody meanwhile. */
const lengthMax = 128 * 1024
const readingMsMax = 3_000

const damaged = (random: Random, text: string): string =>
  chance(random, 3) ? damage(random, Buffer.from(text)).toString() : text

/** @returns how many texts were read */
export function fuzzFiles(seconds: number, random: Random): number {
  const end = performance.now() + seconds * 1_000
  let count = 0
  for (; performance.now() < end; count++) {
    const text = damaged(random, odd(random)).slice(0, lengthMax)
    for (const [name, read] of Object.entries(readers)) {
      const began = process.cpuUsage()
      try {
        read(text)
      } catch (error) {
        throw new Error(`${name} throws at ${text.length} characters ${JSON.stringify(text.slice(0, 300))}`, {
          cause: error,
        })
      }
      const { user, system } = process.cpuUsage(began)
      if ((user + system) / 1_000 > readingMsMax)
        throw new Error(
          `${name} takes ${(user + system) / 1_000} ms for ${text.length} characters ${JSON.stringify(text.slice(0, 300))}`,
        )
    }
  }
  return count
}
