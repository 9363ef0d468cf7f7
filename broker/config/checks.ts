// What no option shows alone: addresses that take one another's port, and the files that options name, which
// must be what they are for.
import type { Config, OptionName } from './config.ts'
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

/** What says how Redis is used has no meaning without one, and the other way round. */
export function storeProblems(
  { redis, stateFile, redisPasswordFile, durabilityReplicas = 0 }: Partial<Config>,
  at: PlaceOf,
): OperatorError[] {
  const without = (name: OptionName): OperatorError =>
    usage(
      at(name),
      undefined,
      'is about Redis, and no Redis is named',
      'Name it with --redis, or leave this out',
    )
  return [
    ...(redis !== undefined && stateFile !== undefined
      ? [
          usage(
            at('stateFile'),
            stateFile,
            'is for a node without Redis',
            'Leave it out, or --redis: a cluster keeps all in Redis',
          ),
        ]
      : []),
    ...(redis === undefined && redisPasswordFile !== undefined ? [without('redisPasswordFile')] : []),
    ...(redis === undefined && durabilityReplicas > 0 ? [without('durabilityReplicas')] : []),
  ]
}

/** The text of a key may stand where the name of its file belongs. */
const looksLikeFile = (text: string): boolean =>
  /^[.~]{0,2}\//.test(text) || /\.(pem|key|crt|cer|der)$/.test(text)

/** What the files that options name must be for a node to start. */
export function fileProblems(config: Partial<Config>, at: PlaceOf): OperatorError[] {
  const problems: OperatorError[] = []
  const texts = new Map<OptionName, string>()
  for (const name of ['tlsCert', 'tlsKey', 'tlsCa', 'redisPasswordFile'] as const) {
    const file = config[name]
    if (file === undefined) continue
    try {
      texts.set(
        name,
        readText(file, at(name), name === 'redisPasswordFile' || (name === 'tlsKey' && !looksLikeFile(file))),
      )
    } catch (error) {
      if (!(error instanceof OperatorError)) throw error
      problems.push(error)
    }
  }
  if (texts.get('redisPasswordFile')?.split('\n')[0]!.trim() === '')
    problems.push(
      usage(
        at('redisPasswordFile'),
        undefined,
        'names a file whose first line is empty',
        'Write the password into its first line',
      ),
    )
  for (const { option, problem, hint } of tlsProblems(Object.fromEntries(texts)))
    problems.push(usage(at(option), config[option], problem, hint))
  return problems
}
