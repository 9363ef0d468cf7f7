// Who is asked who comes by a listener: the chain that is written down, or what is configured; and where nothing is, a
// listener that only this machine reaches lets everybody in, and no other does. No state.
import { linkNames, type LinkName } from '../access/link-names.ts'
import type { OperatorError } from '../operator-errors.ts'
import type { PlacedListener } from './checks.ts'
import type { Config, OptionName } from './options.ts'
import { usage } from './sources.ts'

/** Whether only this machine can reach an address that is listened on. */
export const isLoopback = ({ hostname }: URL): boolean => /^(localhost|127(\.\d+){3}|\[::1\])$/.test(hostname)

/** What a link asks; without it nobody is. */
const needs: Readonly<Partial<Record<LinkName, readonly (keyof Config)[]>>> = {
  'password-file': ['passwordFile'],
  'stored-users': ['storedUsers'],
  scram: ['passwordFile', 'storedUsers'],
  jwt: ['jwtKeyFile', 'jwtKeysUrl'],
  webhook: ['webhookUrl'],
}

const isConfigured = (name: LinkName, config: Partial<Config>): boolean =>
  needs[name]?.some((option) => config[option] !== undefined && config[option] !== 'off') === true

/** The chain that what is configured makes. */
const configuredOf = (config: Partial<Config>): LinkName[] =>
  linkNames.filter((name) => isConfigured(name, config))

const everybody: readonly LinkName[] = ['anonymous']
const byCertificate: readonly LinkName[] = ['certificate']

/** The chain of connections that the program hands in. */
export function handedInChain(config: Config): readonly LinkName[] {
  const configured = configuredOf(config)
  return config.authentication ?? (configured.length > 0 ? configured : everybody)
}

/**
 * Gives each listener its chain.
 * @param elsewhere of a listener that others can reach, where nothing is configured: a program with hooks has some
 */
export function authenticationProblems(
  config: Partial<Config>,
  listeners: readonly PlacedListener[],
  nameOf: (name: OptionName) => string,
  elsewhere: readonly LinkName[] | undefined,
): OperatorError[] {
  const problems: OperatorError[] = []
  const configured = configuredOf(config)
  const missing = new Set<LinkName>()
  let isTold = false
  for (const { listener, own, at } of listeners) {
    const { url, authentication, tlsCa } = listener as Partial<typeof listener> & { readonly url: string }
    const chain =
      authentication ??
      (configured.length > 0
        ? configured
        : tlsCa !== undefined
          ? byCertificate
          : isLoopback(new URL(url))
            ? everybody
            : elsewhere)
    if (chain === undefined) {
      const written = `${nameOf('authentication')} anonymous`
      if (own.size > 0 || !isTold)
        problems.push(
          usage(
            at('url'),
            url,
            'can be reached by others, and nobody is asked who he is',
            `Name a file of users (${nameOf('passwordFile')} FILE), write ${written} to let everybody in, or listen on loopback alone`,
          ),
        )
      isTold ||= own.size === 0
    }
    if (authentication?.includes('certificate') === true && tlsCa === undefined)
      problems.push(
        usage(
          at('authentication'),
          undefined,
          `names certificate, and ${url} asks for none`,
          `Add ${nameOf('tlsCa')}, the authority of the certificates`,
        ),
      )
    for (const name of authentication ?? [])
      if (needs[name] !== undefined && !isConfigured(name, config) && !missing.has(name)) {
        missing.add(name)
        const options = needs[name].map((option) => nameOf(option as OptionName)).join(' or ')
        problems.push(
          usage(at('authentication'), undefined, `names ${name}, which needs ${options}`, `Add ${options}`),
        )
      }
    ;(listener as { authentication: readonly LinkName[] }).authentication = chain ?? everybody
  }
  return problems
}
