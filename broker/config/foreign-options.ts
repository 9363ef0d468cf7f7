// Options of the links that ask somebody else who a client is (access/foreign-links.ts), and what is wrong with them that
// no option shows alone. No state.
import { z } from 'zod'
import { whole, type Option } from '../../bridge/index.ts'
import { tokenFields } from '../access/jwt-link.ts'
import { whenDownPolicies } from '../access/webhook.ts'
import { isSymmetric, readTokenKeys, tokenAlgorithms, tokenKeysProblem } from '../access/token-keys.ts'
import type { OperatorError } from '../operator-errors.ts'
import { usage } from './sources.ts'

function httpProblem(text: string): string | undefined {
  if (!URL.canParse(text)) return 'is not a URL'
  const { protocol, username, password, hash } = new URL(text)
  if (protocol !== 'http:' && protocol !== 'https:') return 'has another scheme than https://, http://'
  if (username !== '' || password !== '') return 'has a user or password, which would be in every log'
  return hash === '' ? undefined : 'has a fragment, which no server sees'
}

/** A key may stand in what is asked for. */
const withoutQuery = (url: string): string => url.replace(/\?.*/s, '?…')

const httpUrl = z.string().superRefine((text, context) => {
  const problem = httpProblem(text)
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

/** What stands in tokens, as their names and issuers are written. */
const claim = z
  .string()
  .regex(
    /^(?!.*\/\/:)[\w.~:/-]{1,256}$/,
    'has other signs than letters, digits and . _ ~ : / -, or more than 256',
  )

export const foreignOptions = {
  jwtKeyFile: {
    at: 'jwt.keyFile',
    schema: z.string().optional(),
    about:
      'file of the keys that JSON Web Tokens are verified with: public keys in PEM, a JSON Web Key Set, or for HS256, HS384 and HS512 secrets of 32 bytes or more, one on a line; the link jwt asks for it or for jwtKeysUrl',
    shape: 'file',
    secret: 'unless-path',
    hint: 'Name a readable file',
    file: true,
    contentProblem: tokenKeysProblem,
  },
  jwtKeysUrl: {
    at: 'jwt.keysUrl',
    schema: httpUrl.optional(),
    printed: withoutQuery,
    about:
      'where the JSON Web Key Set of whoever signs tokens is fetched: at the start, every ten minutes, when files are read again (SIGHUP), and when a token names a key that is not in it; whom a key let in that is not in it any more is told to go',
    shape: 'url',
    hint: 'Write https://host/path, e.g. --jwt-keys-url https://id.example/.well-known/jwks.json',
  },
  jwtKeysRefreshSeconds: {
    at: 'jwt.keysRefreshSeconds',
    schema: whole(1, 86_400).default(10),
    about: 'time between two requests to jwtKeysUrl, at least, whichever keys tokens name',
    shape: 's',
    hint: 'Use a number of seconds, from 1 to 86400',
  },
  jwtAlgorithms: {
    at: 'jwt.algorithms',
    schema: z
      .array(z.enum(tokenAlgorithms, `is none of ${tokenAlgorithms.join(', ')}`))
      .min(1)
      .default(['RS256', 'ES256', 'EdDSA']),
    about: `the algorithms that tokens may be signed with, of ${tokenAlgorithms.join(', ')}; those of a secret (HS256 and so on) stand alone; repeats`,
    shape: 'name',
    list: true,
    hint: `Write a list of ${tokenAlgorithms.join(', ')}`,
  },
  jwtIssuer: {
    at: 'jwt.issuer',
    schema: claim.optional(),
    about: 'who must have issued a token (its claim iss); without it anybody whose key it is',
    shape: 'text',
    hint: 'Write what stands in tokens as iss, e.g. https://id.example/',
  },
  jwtAudience: {
    at: 'jwt.audience',
    schema: claim.optional(),
    about:
      'whom a token must be meant for (its claim aud); without it tokens that are meant for somebody are refused',
    shape: 'text',
    hint: 'Write what stands in tokens as aud, e.g. mqtt',
  },
  jwtFrom: {
    at: 'jwt.from',
    schema: z.enum(tokenFields, `is none of ${tokenFields.join(', ')}`).default('password'),
    about: 'where CONNECT has the token: as password, or as user name',
    shape: tokenFields.join('|'),
    hint: `Use ${tokenFields.join(' or ')}`,
  },
  jwtUserClaim: {
    at: 'jwt.userClaim',
    schema: claim.default('sub'),
    about: 'claim of a token that is the user name',
    shape: 'name',
    hint: 'Write the name of a claim, e.g. sub',
  },
  jwtClientClaim: {
    at: 'jwt.clientClaim',
    schema: claim.optional(),
    about:
      'claim of a token that must be the Client Identifier (0x85 when it is not); without it the owner may have any',
    shape: 'name',
    hint: 'Write the name of a claim, e.g. client_id',
  },
  jwtRulesClaim: {
    at: 'jwt.rulesClaim',
    schema: claim.default('rules'),
    about:
      'claim of a token that says what its owner may do, a list of rules as in rulesFile; they come before those of files, and what none is about is denied',
    shape: 'name',
    hint: 'Write the name of a claim, e.g. rules',
  },
  jwtTenantClaim: {
    at: 'jwt.tenantClaim',
    schema: claim.default('tenant'),
    about: 'with tenants, claim of a token that names the tenant of its owner; a token need not have it',
    shape: 'name',
    hint: 'Write the name of a claim, e.g. tenant',
  },
  jwtLeewaySeconds: {
    at: 'jwt.leewaySeconds',
    schema: whole(0, 3_600).default(5),
    about:
      'what the clocks of this machine and of whoever signs tokens may differ by: a token ends so much later',
    shape: 's',
    hint: 'Use a number of seconds, from 0 to 3600',
  },
  jwtLifeSecondsMax: {
    at: 'jwt.lifeSecondsMax',
    schema: whole(1, 315_360_000).optional(),
    about:
      'the longest that a token may live, from when it was issued (its claim iat; without it from now) to its end (exp): one that lives for longer is refused; without this option as long as whoever signs it says. A single token cannot be taken back: its user is banned until it ends, or its key is taken away, which ends the connections of all tokens that it signed',
    shape: 's',
    hint: 'Use a number of seconds, e.g. 86400 for tokens of a day',
  },
  webhookUrl: {
    at: 'webhook.url',
    schema: httpUrl.optional(),
    printed: withoutQuery,
    about:
      'whom the link webhook asks, by POST, who a client is (broker/README.md has what it is sent and may answer)',
    shape: 'url',
    hint: 'Write https://host/path, e.g. --webhook-url https://id.example/mqtt',
  },
  webhookSecretFile: {
    at: 'webhook.secretFile',
    schema: z.string().optional(),
    about: 'file of a secret that the webhook is sent with each request (Authorization: Bearer)',
    shape: 'file',
    secret: 'unless-path',
    hint: 'Name a readable file that holds one line',
    file: true,
    contentProblem: (text) =>
      /^[\x21-\x7e]{1,4096}$/.test(text.trim())
        ? undefined
        : {
            problem: 'is not one line of letters, digits and signs',
            hint: 'Write it by openssl rand -base64 32',
          },
  },
  webhookTimeoutMs: {
    at: 'webhook.timeoutMs',
    schema: whole(1, 60_000).default(2_000),
    about: 'time that the webhook has for an answer; decisionTimeoutMs is what all links have together',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 60000',
  },
  webhookWhenDown: {
    at: 'webhook.whenDown',
    schema: z.enum(whenDownPolicies, `is none of ${whenDownPolicies.join(', ')}`).default('deny'),
    about:
      'what becomes of a client about which the webhook cannot be asked: deny (it is told to come again), or last (what was said of it within a day holds; others are told to come again)',
    shape: whenDownPolicies.join('|'),
    hint: `Use ${whenDownPolicies.join(' or ')}`,
  },
  webhookAllowedSeconds: {
    at: 'webhook.allowedSeconds',
    schema: whole(0, 86_400).default(60),
    about:
      'how long the webhook is not asked again about a client that it let in: while that one is connected, and so long after (a fifth more or less)',
    shape: 's',
    hint: 'Use a number of seconds, from 0 to 86400',
  },
  webhookRefusedSeconds: {
    at: 'webhook.refusedSeconds',
    schema: whole(0, 86_400).default(10),
    about:
      'how long the webhook is not asked again about a name and password that it refused (a fifth more or less)',
    shape: 's',
    hint: 'Use a number of seconds, from 0 to 86400',
  },
  webhookRequestsMax: {
    at: 'webhook.requestsMax',
    schema: whole(1, 1_000).default(32),
    about:
      'requests to the webhook at a time; further clients wait for 3 seconds at most, and are told to come again then',
    shape: 'count',
    hint: 'Use a number from 1 to 1000',
  },
} as const satisfies Record<string, Option>

export type ForeignOptionName = keyof typeof foreignOptions
type Given = { readonly [K in ForeignOptionName]?: unknown }

/** Options that do not fit one another. @param textOf of a file; undefined: it cannot be read, which is said elsewhere */
export function foreignProblems(
  given: Given,
  at: (name: ForeignOptionName) => string,
  textOf: (path: string) => string | undefined,
): OperatorError[] {
  const problems: OperatorError[] = []
  const wrong = (name: ForeignOptionName, problem: string, hint: string): void => {
    problems.push(usage(at(name), undefined, problem, hint))
  }
  const { jwtKeyFile: file, jwtKeysUrl: url, jwtAlgorithms } = given
  if (file !== undefined && url !== undefined)
    wrong('jwtKeysUrl', 'stands beside a file of keys', 'Keep one of the two')
  const algorithms = (jwtAlgorithms ?? []) as readonly string[]
  const secret = algorithms.filter(isSymmetric)
  if (secret.length > 0 && secret.length < algorithms.length)
    wrong(
      'jwtAlgorithms',
      'has algorithms of a secret beside those of public keys',
      'Keep one kind: a public key must never be taken for a secret',
    )
  else if (secret.length > 0 && url !== undefined)
    wrong(
      'jwtAlgorithms',
      'has algorithms of a secret, and the keys come from a URL',
      'Name a file of secrets',
    )
  const text = typeof file === 'string' ? textOf(file) : undefined
  const keys = text === undefined ? 'unknown' : readTokenKeys(text)
  if (typeof keys === 'string' || problems.length > 0) return problems
  const areSecrets = keys.some(({ key }) => key.type === 'secret')
  if (areSecrets !== secret.length > 0)
    wrong(
      'jwtAlgorithms',
      areSecrets
        ? 'has no algorithm of a secret, and the file of keys has one'
        : 'has algorithms of a secret, and the file of keys has none',
      areSecrets
        ? 'Write HS256, or name a file of public keys'
        : 'Write RS256, ES256 or EdDSA, or name a file of secrets',
    )
  return problems
}
