// Who may use the admin API: a file of tokens, a line for each, `role name token`. `read` sees, `write` acts as well; the
// name stands in the log of what was done. Where the endpoint asks for certificates (adminTlsCa) the word `certificate`
// may stand in place of a token: whoever shows one whose common name is `name`. Blank lines and lines that begin with # are
// passed by. State: the digests of the tokens; the tokens themselves are not kept.
import { createHash } from 'node:crypto'
import type { OptionProblem } from '../../bridge/index.ts'

export const roles = ['read', 'write'] as const
export type Role = (typeof roles)[number]

export interface Bearer {
  readonly name: string
  readonly role: Role
}

const digestOf = (token: string): string => createHash('sha256').update(token).digest('base64')
const linesOf = (text: string): [line: string, number: number][] =>
  text
    .split(/\r?\n/)
    .map((line, i): [string, number] => [line.trim(), i + 1])
    .filter(([line]) => line !== '' && !line.startsWith('#'))

/** In place of a token, which is longer. */
const byCertificate = 'certificate'

/** As RFC 6750 has a bearer token; short ones can be guessed. */
const entry = /^(\w+)\s+(\S{1,100})\s+([\w.~+/-]{16,500}=*|certificate)$/

/** What is wrong with a file of tokens, by the number of its line: what stands there is a secret. */
export function tokensFileProblem(text: string): Omit<OptionProblem, 'option'> | undefined {
  const seen = new Set<string>()
  const lines = linesOf(text)
  const wrong = (problem: string): Omit<OptionProblem, 'option'> => ({
    problem,
    hint: 'Write lines as `read dashboard TOKEN` or `write admin TOKEN`, each token of 16 characters at least (openssl rand -hex 24 makes one), or `write NAME certificate`',
  })
  if (lines.length === 0) return wrong('has no token')
  for (const [line, number] of lines) {
    const [, role, name, token] = entry.exec(line) ?? []
    if (token === undefined) return wrong(`line ${number} is not a role, a name and a token`)
    if (!roles.some((one) => one === role)) return wrong(`line ${number} has none of ${roles.join(', ')}`)
    const who = token === byCertificate ? `${token} ${name!}` : token
    if (seen.has(who))
      return wrong(
        `line ${number} has a ${token === byCertificate ? 'name' : 'token'} that a line before has`,
      )
    seen.add(who)
  }
  return undefined
}

export class Tokens {
  readonly #bearers: ReadonlyMap<string, Bearer>
  readonly #byName: ReadonlyMap<string, Bearer>

  /** @param text as `tokensFileProblem` finds nothing wrong with */
  constructor(text: string) {
    const [bearers, byName] = [new Map<string, Bearer>(), new Map<string, Bearer>()]
    for (const [line] of linesOf(text)) {
      const [, role, name, token] = entry.exec(line)!
      const bearer = { role: role as Role, name: name! }
      if (token === byCertificate) byName.set(name!, bearer)
      else bearers.set(digestOf(token!), bearer)
    }
    this.#bearers = bearers
    this.#byName = byName
  }

  /** Whose a certificate is that was found valid. @param commonName undefined: there is none */
  ofCertificate(commonName: string | undefined): Bearer | undefined {
    return commonName === undefined ? undefined : this.#byName.get(commonName)
  }

  /** Whose the token of an `Authorization: Bearer` is; undefined: nobody's. Compared by digests, which tell nothing. */
  bearerOf(authorization: string | undefined): Bearer | undefined {
    const [, token] = /^bearer +(\S+)$/i.exec(authorization ?? '') ?? []
    return token === undefined ? undefined : this.#bearers.get(digestOf(token))
  }
}
