// Whether a request may use the admin API. With tokens: who brings one, or shows a certificate that stands among them, as its role says. Without: the endpoint is on
// loopback alone, and MQTT itself lets in everybody there, so that the API opens nothing that was not open; and no web
// page that a browser on this machine shows, whose requests come from here, too. No state but the tokens.
import type { IncomingMessage } from 'node:http'
import { certificateOf } from '../access/certificate.ts'
import { isLoopback } from '../config/listener-chains.ts'
import type { Config } from '../config/config.ts'
import type { Bearer, Role, Tokens } from './tokens.ts'

export interface Refused {
  readonly status: 401 | 403
  readonly error: string
  readonly hint: string
}

/** Who asks where nobody is asked for a token. */
const anybody: Bearer = { name: 'loopback', role: 'write' }
const tokensHint =
  'Write a file of tokens (`write admin TOKEN`), name it with --admin-tokens-file, and send Authorization: Bearer TOKEN'

/** A browser says where a request comes from; what is no browser says nothing. */
const isOfPage = ({ headers }: IncomingMessage): boolean =>
  headers.origin !== undefined || !['none', undefined].includes(headers['sec-fetch-site'])

const commonNameOf = ({ socket }: IncomingMessage): string | undefined => certificateOf(socket)?.commonName

/** Whether only this machine reaches the endpoint, and MQTT asks nobody who he is. */
export const isOpenFor = ({
  admin,
  listeners,
  rulesFile,
  aclFile,
  adminTokensFile,
  storedRules,
}: Config): boolean =>
  admin !== 'off' &&
  isLoopback(new URL(admin)) &&
  [rulesFile, aclFile, adminTokensFile].every((file) => file === undefined) &&
  storedRules !== 'on' &&
  listeners.every(
    ({ authentication, tlsCa }) =>
      tlsCa === undefined && authentication?.every((link) => link === 'anonymous') === true,
  )

export class Guard {
  readonly #isOpen: () => boolean
  tokens: Tokens | undefined

  /** @param isOpen whether who has no token may do everything */
  constructor(isOpen: () => boolean) {
    this.#isOpen = isOpen
  }

  /** Who asks, or why the request is refused. */
  check(request: IncomingMessage, role: Role): Bearer | Refused {
    if (this.tokens !== undefined) {
      const bearer = this.tokens.bearerOf(request.headers.authorization)
      const shown = bearer === undefined ? this.tokens.ofCertificate(commonNameOf(request)) : undefined
      if (shown !== undefined && isOfPage(request))
        // a browser shows its certificate to whichever page asks
        return { status: 403, error: 'web pages may not use the API by certificate', hint: tokensHint }
      const by = bearer ?? shown
      if (by === undefined)
        return {
          status: 401,
          error: 'this needs a token, or a certificate, and the request has none that is known',
          hint: 'Send Authorization: Bearer TOKEN, with a token of the file that --admin-tokens-file names',
        }
      if (role === 'write' && by.role !== 'write')
        return {
          status: 403,
          error: `${by.name} may read, and this changes something`,
          hint: 'Use a token, or a certificate, of role write',
        }
      return by
    }
    if (!this.#isOpen())
      return {
        status: 403,
        error:
          'there are no tokens, and the API is open without them only on loopback, where MQTT lets in everybody, too',
        hint: tokensHint,
      }
    if (isOfPage(request))
      return { status: 403, error: 'web pages may not use the API without a token', hint: tokensHint }
    return anybody
  }
}
