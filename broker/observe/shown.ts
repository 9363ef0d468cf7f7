// What may be shown of a text that somebody gave us: in an error line, in a log, in the title of the process.
// A secret may stand in any of them, since people put one in the wrong place: as user information of a URL,
// as the text of a key instead of its file.
import { shownAddress } from '../../bridge/index.ts'

const charactersMax = 100

/** Says no more than who the user is. */
const isHidden = (userInformation: string): boolean => /^[^:/@]*:\*\*\*$/.test(userInformation)

/**
 * A value without the user information of a URL: what stands before its last `@`. A password may hold any
 * character.
 */
function withoutUserInformation(value: string): string {
  const [, scheme = '', userInformation] = /^\s*([a-z][a-z0-9+.-]*:\/\/)?([^]*)@/i.exec(value) ?? []
  if (
    userInformation === undefined ||
    isHidden(userInformation) ||
    (scheme === '' && !userInformation.includes(':'))
  )
    return value
  return `${scheme}***@${value.slice(value.lastIndexOf('@') + 1)}`
}

const pem = /-----BEGIN[^-]*-----[^]*?(?:-----END[^-]*-----|$)/g
const urlInText = /([a-z][a-z0-9+.-]*:\/\/)(?!\/)([^\s"'`<>]*)@/gi // `file:///…/@scope` is none

/** Text of several lines without the secrets that can be told by their looks. */
export const withoutSecrets = (text: string): string =>
  text
    .replaceAll(pem, '***')
    .replaceAll(urlInText, (whole, scheme: string, userInformation: string) =>
      isHidden(userInformation) ? whole : `${scheme}***@`,
    )

const control = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]+/g

/** As one line without control characters, which could write over what a terminal shows. */
export const inOneLine = (text: string): string => text.replaceAll(control, ' ')

/** A value in an error line; what may be shown stays as it is. */
export function shown(value: unknown): string {
  const text = Array.isArray(value)
    ? value.map(shown).join(',')
    : typeof value === 'string'
      ? value
      : (JSON.stringify(value) ?? String(value))
  // the text of a key or certificate where the name of its file belongs
  if (text.includes('-----BEGIN')) return '***'
  if (text.length > charactersMax) return `(${text.length} characters)`
  const address = shownAddress(text)
  if (address !== undefined) return inOneLine(address)
  return inOneLine(withoutUserInformation(text).replace(/[?#].+/s, (query) => `${query[0]!}…`)) // ?password=…
}

/**
 * The stack of a bug of ours and those of its causes; not the other properties: ioredis' errors hold the
 * arguments of the command.
 */
export function stackOf(error: unknown): string {
  if (!(error instanceof Error)) return withoutSecrets(`not an Error: ${String(error)}`)
  const cause =
    error.cause === undefined || error.cause === error ? '' : `\ncaused by: ${stackOf(error.cause)}`
  return withoutSecrets(error.stack ?? error.message) + cause
}
