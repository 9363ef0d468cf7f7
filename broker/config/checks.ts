// What no option shows alone: addresses that take one another's port, and the files that options name, which
// must be what they are for.
import { storeKindOf, storeKinds, type Option } from '../../bridge/index.ts'
import { options, type Config, type ListenerConfig, type OptionName } from './options.ts'
import { readText, usage } from './sources.ts'
import { OperatorError } from '../operator-errors.ts'
import { sniProblem, tlsProblems } from './tls-files.ts'

const tlsNames = ['tlsCert', 'tlsKey', 'tlsCa', 'tlsCrl'] as const

/** Where an option stands, as an error names it. */
export type PlaceOf = (name: OptionName) => string

export interface PlacedListener {
  readonly listener: ListenerConfig
  /** Options that it has for itself, by their names. */
  readonly own: ReadonlySet<string>
  readonly at: (name: OptionName | 'url') => string
}

const defaultPorts: Readonly<Record<string, number>> = {
  'mqtt:': 1883,
  'mqtts:': 8883,
  'ws:': 80,
  'wss:': 443,
  'http:': 80,
  'https:': 443,
}

/** The port of an address to listen on; 0 is any that is free. */
export const portOf = (url: URL): number =>
  url.port === '' ? (defaultPorts[url.protocol] ?? 0) : Number(url.port)

const isSecure = (url: string): boolean => /^(mqtts|wss):/.test(url)
const isWebSocket = (url: string): boolean => /^wss?:/.test(url)

/** Listeners whose protocol and options do not fit. */
export function transportProblems(
  listeners: readonly PlacedListener[],
  nameOf: (name: OptionName) => string,
): OperatorError[] {
  const problems: OperatorError[] = []
  const told = new Set<string>()
  for (const { listener, own, at } of listeners) {
    const { url } = listener
    const missing = isSecure(url)
      ? (['tlsCert', 'tlsKey'] as const).filter((name) => listener[name] === undefined).map(nameOf)
      : []
    const needs = missing.join(' and ')
    if (missing.length > 0 && (own.size > 0 || !told.has(needs)))
      problems.push(usage(at('url'), url, `needs ${needs}`, `Add ${needs}, each with a PEM file`))
    if (own.size === 0) told.add(needs) // that it holds for all is said once
    for (const name of [...tlsNames, 'tlsSniCert', 'tlsSniKey'] as const)
      if (own.has(name) && !isSecure(url))
        problems.push(
          usage(
            at(name),
            undefined,
            `is for TLS, and ${url} has none`,
            'Write mqtts:// or wss://, or leave it out',
          ),
        )
    if (own.has('wsOrigins') && !isWebSocket(url))
      problems.push(
        usage(
          at('wsOrigins'),
          undefined,
          `is for WebSocket, and ${url} is none`,
          'Leave it out, or write ws:// or wss://',
        ),
      )
  }
  return problems
}

/** Addresses to listen on that would take one another's port. */
export function addressProblems(
  { admin = 'off' }: Partial<Config>,
  listeners: readonly PlacedListener[],
  at: PlaceOf,
): OperatorError[] {
  const all = [
    ...listeners.map(({ listener, at: place }) => [place('url'), listener.url] as const),
    ...(admin === 'off' ? [] : [[at('admin'), admin] as const]),
  ]
  const isEvery = (host: string): boolean => host === '0.0.0.0' || host === '[::]'
  const problems: OperatorError[] = []
  all.forEach(([place, address], i) => {
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
        usage(place, address, `has the port of ${same[1]}`, 'Give each address a port of its own'),
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
          const value = config[name as keyof Config]
          return value !== undefined && value !== schema.safeParse(undefined).data
        })
        .map(([name, { secret }]) =>
          usage(
            at(name as OptionName),
            secret === undefined ? config[name as keyof Config] : undefined,
            problem,
            hint,
          ),
        ),
    )
}

/** Workers are nodes of one cluster. */
export function workerProblems(config: Partial<Config>, at: PlaceOf): OperatorError[] {
  const { workers = 1 } = config
  const { alone } = storeKindOf(config)
  if (workers === 1 || alone === undefined) return []
  return [usage(at('workers'), workers, alone.problem, alone.hint)]
}

/** A listener of a tenant whose clients would be in none. */
export function tenantProblems(
  { tenants }: Partial<Config>,
  listeners: readonly PlacedListener[],
): OperatorError[] {
  if (tenants !== 'off') return []
  return listeners
    .filter(({ listener }) => listener.tenant !== undefined)
    .map(({ listener, at }) =>
      usage(
        at('tenant'),
        listener.tenant,
        'is of tenants, and there are none',
        'Write tenants: on, or leave it out',
      ),
    )
}

/** The text of a key may stand where the name of its file belongs. */
const looksLikeFile = (text: string): boolean =>
  /^[.~]{0,2}\//.test(text) || /\.(pem|key|crt|cer|der)$/.test(text)

/** The text of a file, or undefined with what is wrong among the problems. */
export function textOf(
  name: OptionName,
  path: string,
  place: string,
  problems: OperatorError[],
): string | undefined {
  const { secret, contentProblem }: Option = options[name]
  try {
    const text = readText(path, place, secret === true || (secret === 'unless-path' && !looksLikeFile(path)))
    const wrong = contentProblem?.(text)
    if (wrong !== undefined) problems.push(usage(place, undefined, wrong.problem, wrong.hint))
    return text
  } catch (error) {
    if (!(error instanceof OperatorError)) throw error
    problems.push(error)
    return undefined
  }
}

type TlsFiles = Partial<Pick<Config, (typeof tlsNames)[number] | 'tlsSniCert' | 'tlsSniKey'>>

/** The files of TLS of a listener, or of all that have none of their own. */
function tlsFileProblems(files: TlsFiles, at: PlaceOf): OperatorError[] {
  const problems: OperatorError[] = []
  const texts = tlsNames.map((name) => {
    const file = files[name]
    return [name, file === undefined ? undefined : textOf(name, file, at(name), problems)] as const
  })
  for (const { option, problem, hint } of tlsProblems(Object.fromEntries(texts)))
    problems.push(usage(at(option), files[option], problem, hint))
  if (files.tlsCrl !== undefined && files.tlsCa === undefined)
    problems.push(
      usage(
        at('tlsCrl'),
        undefined,
        'stands without tlsCa',
        'Name the authority of the certificates of clients, too',
      ),
    )
  return [...problems, ...sniProblems(files, at)]
}

/** Each certificate has its key. */
function sniProblems({ tlsSniCert = [], tlsSniKey = [] }: TlsFiles, at: PlaceOf): OperatorError[] {
  if (tlsSniCert.length !== tlsSniKey.length)
    return [
      usage(
        at(tlsSniCert.length > tlsSniKey.length ? 'tlsSniCert' : 'tlsSniKey'),
        undefined,
        `has ${tlsSniCert.length} certificates, and there are ${tlsSniKey.length} keys`,
        'Name a key for each certificate, in the same order',
      ),
    ]
  const problems: OperatorError[] = []
  for (const [i, path] of tlsSniCert.entries()) {
    const cert = textOf('tlsSniCert', path, at('tlsSniCert'), problems)
    const key = textOf('tlsSniKey', tlsSniKey[i]!, at('tlsSniKey'), problems)
    if (cert === undefined || key === undefined) continue
    const wrong = sniProblem(cert, key)
    if (wrong !== undefined) problems.push(usage(at('tlsSniCert'), path, wrong.problem, wrong.hint))
  }
  return problems
}

const adminTls = { tlsCert: 'adminTlsCert', tlsKey: 'adminTlsKey', tlsCa: 'adminTlsCa' } as const

/** The admin endpoint's TLS: whether it has what it needs, and its files. */
function adminProblems(config: Partial<Config>, at: PlaceOf): OperatorError[] {
  const { admin = 'off', adminTlsCa, adminTokensFile, workers = 1 } = config
  const isTls = admin.startsWith('https:')
  const missing = (['adminTlsCert', 'adminTlsKey'] as const).filter((name) => config[name] === undefined)
  if (isTls && missing.length > 0)
    return missing.map((name) =>
      usage(at('admin'), admin, `needs ${at(name)}`, `Add ${at(name)} with a PEM file`),
    )
  const problems: OperatorError[] = []
  if (adminTlsCa !== undefined && !isTls)
    problems.push(
      usage(
        at('adminTlsCa'),
        undefined,
        'is for TLS, and the admin endpoint has none',
        'Write --admin https://host:port',
      ),
    )
  if (adminTlsCa !== undefined && adminTokensFile === undefined)
    problems.push(
      usage(
        at('adminTlsCa'),
        undefined,
        'stands without a file of who may do what',
        `Write lines as \`write COMMON-NAME certificate\` into a file, and name it with ${at('adminTokensFile')}`,
      ),
    )
  if (adminTlsCa !== undefined && workers > 1)
    problems.push(
      usage(
        at('adminTlsCa'),
        undefined,
        'does not work with --workers: they are asked by the process that started them, and see no certificate',
        'Use tokens, or one node for each process',
      ),
    )
  if (problems.length > 0 || !isTls) return problems
  const texts = Object.entries(adminTls).map(([tls, name]) => {
    const file = config[name]
    return [tls, file === undefined ? undefined : textOf(name, file, at(name), problems)] as const
  })
  for (const { option, problem, hint } of tlsProblems(Object.fromEntries(texts)))
    if (option !== 'tlsCrl') problems.push(usage(at(adminTls[option]), undefined, problem, hint))
  return problems
}

const isOfAdmin = (name: string): boolean => Object.values(adminTls).some((one) => one === name)

/** What the files that options name must be for a node to start. */
export function fileProblems(
  config: Partial<Config>,
  listeners: readonly PlacedListener[],
  at: PlaceOf,
): OperatorError[] {
  const problems = [...tlsFileProblems(config, at), ...adminProblems(config, at)]
  for (const { listener, own, at: place } of listeners)
    if ([...tlsNames, 'tlsSniCert', 'tlsSniKey'].some((name) => own.has(name)))
      problems.push(...tlsFileProblems(listener, place))
  for (const [name, { file }] of Object.entries<Option>(options)) {
    const path = config[name as keyof Config]
    const isRead =
      tlsNames.some((tls) => tls === name) || (isOfAdmin(name) && config.admin?.startsWith('https:'))
    if (file === true && typeof path === 'string' && isRead !== true)
      textOf(name as OptionName, path, at(name as OptionName), problems)
  }
  return problems
}
