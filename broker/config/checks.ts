// What no option shows alone: addresses that take one another's port, and the files that options name, which
// must be what they are for.
import { storeKindOf, storeKinds, type Option } from '../../bridge/index.ts'
import { options, type Config, type OptionName } from './options.ts'
import { readText, usage } from './sources.ts'
import { OperatorError } from '../errors.ts'
import { tlsProblems } from './tls-files.ts'

/** Where an option stands, as an error names it; of a list, the entry `value`. */
export type PlaceOf = (name: OptionName, value?: string) => string

const defaultPorts: Readonly<Record<string, number>> = {
  'mqtt:': 1883,
  'mqtts:': 8883,
  'ws:': 80,
  'wss:': 443,
  'http:': 80,
}

/** The port of an address to listen on; 0 is any that is free. */
export const portOf = (url: URL): number =>
  url.port === '' ? (defaultPorts[url.protocol] ?? 0) : Number(url.port)

/** Addresses to listen on that would take one another's port. */
export function addressProblems(config: Partial<Config>, at: PlaceOf): OperatorError[] {
  const { listen = [], admin = 'off' } = config
  const all = [
    ...listen.map((address) => ['listen', address] as const),
    ...(admin === 'off' ? [] : [['admin', admin] as const]),
  ]
  const isEvery = (host: string): boolean => host === '0.0.0.0' || host === '[::]'
  const problems: OperatorError[] = []
  all.forEach(([name, address], i) => {
    const url = new URL(address)
    const port = portOf(url)
    const same = all.slice(0, i).find(([, other]) => {
      const { hostname } = new URL(other)
      return (
        port !== 0 &&
        portOf(new URL(other)) === port &&
        (hostname === url.hostname || isEvery(hostname) || isEvery(url.hostname))
      )
    })
    if (same !== undefined)
      problems.push(
        usage(
          at(name, address),
          address,
          `has the port of ${same[1]}`,
          'Give each address a port of its own',
        ),
      )
  })
  return problems
}

/** What says how a store is used has no meaning with another one. */
export function storeProblems(config: Partial<Config>, at: PlaceOf): OperatorError[] {
  const used = storeKindOf(config)
  return storeKinds
    .filter((kind) => kind !== used)
    .flatMap(({ options, unused: { problem, hint } }) =>
      Object.entries(options)
        .filter(([, { needsStore }]) => needsStore === true)
        .filter(([name, { schema }]) => {
          const value = config[name as OptionName]
          return value !== undefined && value !== schema.safeParse(undefined).data
        })
        .map(([name, { secret }]) =>
          usage(
            at(name as OptionName),
            secret === undefined ? config[name as OptionName] : undefined,
            problem,
            hint,
          ),
        ),
    )
}

/** The text of a key may stand where the name of its file belongs. */
const looksLikeFile = (text: string): boolean =>
  /^[.~]{0,2}\//.test(text) || /\.(pem|key|crt|cer|der)$/.test(text)

/** What the files that options name must be for a node to start. */
export function fileProblems(config: Partial<Config>, at: PlaceOf): OperatorError[] {
  const problems: OperatorError[] = []
  const texts = new Map<string, string>()
  for (const [name, { file, secret, contentProblem }] of Object.entries<Option>(options)) {
    const path = config[name as OptionName]
    if (file !== true || typeof path !== 'string') continue
    try {
      const text = readText(
        path,
        at(name as OptionName),
        secret === true || (secret === 'unless-path' && !looksLikeFile(path)),
      )
      texts.set(name, text)
      const wrong = contentProblem?.(text)
      if (wrong !== undefined)
        problems.push(usage(at(name as OptionName), undefined, wrong.problem, wrong.hint))
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error
      problems.push(error)
    }
  }
  for (const { option, problem, hint } of tlsProblems(Object.fromEntries(texts)))
    problems.push(usage(at(option), config[option], problem, hint))
  return problems
}
