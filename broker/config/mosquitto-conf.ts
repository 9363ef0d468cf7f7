// A mosquitto.conf as our configuration: what of it has its like here, and a line about each setting that has none. What
// Mosquitto means by a file that leaves something out is written down, where our nodes mean something else. No state.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { LinkName } from '../access/link-names.ts'
import { inSections } from './sections.ts'

interface Setting {
  readonly key: string
  readonly value: string
  readonly place: string
}

/** What was read, by file and line; files of `include_dir` in their order. */
function settingsOf(path: string, text: string, readMore: (folder: string) => [string, string][]): Setting[] {
  return text.split(/\r?\n/).flatMap((raw, i): Setting[] => {
    const line = raw.trim()
    if (line === '' || line.startsWith('#')) return []
    const [, key = '', value = ''] = /^(\S+)\s*(.*)$/s.exec(line)! // also a lone CR
    const place = `${path}:${i + 1}`
    if (key !== 'include_dir') return [{ key, value, place }]
    return readMore(value).flatMap(([file, more]) => settingsOf(file, more, readMore))
  })
}

const readFolder = (folder: string): [string, string][] =>
  readdirSync(folder)
    .filter((name) => name.endsWith('.conf'))
    .sort()
    .map((name) => [join(folder, name), readFileSync(join(folder, name), 'utf8')])

interface ListenerConf {
  readonly place: string
  readonly port: string
  readonly host: string | undefined
  readonly values: Map<string, Setting>
}

/** Settings that are about the listener above them. */
const ofListener = new Set([
  ...['protocol', 'cafile', 'certfile', 'keyfile', 'require_certificate', 'max_connections'],
  ...['use_identity_as_username', 'use_subject_as_username', 'bind_address', 'crlfile'],
])
/** The same where `per_listener_settings` is true. */
const ofListenerThen = new Set(['allow_anonymous', 'password_file', 'acl_file'])

/** Settings that say what our nodes do anyway, or that are about the process itself. */
const asHere = new Set([
  ...['user', 'pid_file', 'set_tcp_nodelay', 'allow_zero_length_clientid', 'allow_duplicate_messages'],
  ...['log_dest', 'log_timestamp', 'log_timestamp_format', 'connection_messages', 'per_listener_settings'],
  ...['autosave_interval', 'autosave_on_changes', 'persistence_location', 'persistence_file'],
])

const whyNot = new Map([
  [
    'use_subject_as_username',
    'the user name of a certificate is its common name, alternative name or fingerprint',
  ],
  ['crlfile', 'nobody is asked for a certificate there (require_certificate)'],
  ['mount_point', 'no listener has a part of the topics for itself'],
  ['queue_qos0_messages', 'QoS 0 is never queued'],
  ['plugin', 'plugins of Mosquitto are not run: write hooks (broker/EMBEDDING.md)'],
  ['auth_plugin', 'plugins of Mosquitto are not run: write hooks (broker/EMBEDDING.md)'],
  ['use_username_as_clientid', "a session is its user's alone here (access.sessionTakeover)"],
  ['log_type', 'write log.level'],
])
const bridgeKeys =
  /^(connection|address|addresses|topic|bridge_.*|remote_.*|local_.*|start_type|notifications.*|try_private|cleansession|clientid|restart_timeout|round_robin|threshold|idle_timeout|keepalive_interval)$/

export interface Taken {
  /** As deploy/config/node.yaml has it. */
  readonly config: Readonly<Record<string, unknown>>
  /** What could not be taken over, each by its place. */
  readonly left: readonly string[]
}

const isTrue = (setting: Setting | undefined): boolean => setting?.value === 'true'
const units = new Map([
  ['h', 3_600],
  ['d', 86_400],
  ['w', 7 * 86_400],
  ['m', 30 * 86_400],
  ['y', 365 * 86_400],
])

/** Numbers, by the option that each is; undefined: as many as it likes. */
const numbers = new Map<string, { readonly option: string; readonly unbounded: string }>([
  ['max_inflight_messages', { option: 'inFlightMax', unbounded: '0' }],
  ['max_queued_messages', { option: 'queueMessagesMax', unbounded: '0' }],
  ['max_queued_bytes', { option: 'queueBytesMax', unbounded: '0' }],
  ['max_packet_size', { option: 'packetBytesMax', unbounded: '0' }],
  ['message_size_limit', { option: 'packetBytesMax', unbounded: '0' }],
  ['max_keepalive', { option: 'keepAliveSecondsMax', unbounded: '0' }],
  ['max_topic_alias', { option: 'topicAliasMax', unbounded: 'none' }],
])

export function readMosquitto(path: string, text: string, readMore = readFolder): Taken {
  const left: string[] = []
  const leave = ({ place, key }: Setting, why: string): void => void left.push(`${place} ${key}: ${why}`)
  const settings = settingsOf(path, text, readMore)
  const isPerListener = settings.some((one) => one.key === 'per_listener_settings' && isTrue(one))
  const first: ListenerConf = { place: path, port: '1883', host: undefined, values: new Map() }
  const listeners: ListenerConf[] = []
  const all = new Map<string, Setting>()
  let [isBridge, port] = [false, first.port]
  for (const setting of settings) {
    const { key, value, place } = setting
    if (key === 'listener') {
      const [number = '', host] = value.split(/\s+/)
      if (number === '0') leave(setting, 'sockets of Unix are not listened on')
      else listeners.push({ place, port: number, host, values: new Map() })
    } else if (key === 'port') port = value
    else if (key === 'connection') isBridge = true
    const [current = first] = listeners.slice(-1)
    if (key === 'listener' || key === 'port') continue
    if (isBridge && bridgeKeys.test(key)) {
      if (key === 'connection')
        leave(setting, 'bridges are not taken over: Mosquitto may be bridged to a node')
    } else if (ofListener.has(key) || (isPerListener && ofListenerThen.has(key)))
      current.values.set(key, setting)
    else all.set(key, setting)
  }
  if (first.values.size > 0 || port !== '1883' || listeners.length === 0)
    listeners.unshift({ ...first, port, host: first.values.get('bind_address')?.value })
  // with no listener Mosquitto lets everybody in, on this machine alone
  const isLocal = !settings.some(({ key }) => key === 'listener' || key === 'port' || key === 'bind_address')
  const config: Record<string, unknown> = {}
  for (const name of ['password_file', 'acl_file']) {
    const named = [all, ...listeners.map(({ values }) => values)]
      .map((values) => values.get(name))
      .filter((one) => one !== undefined)
    if (named.length > 0) config[name === 'password_file' ? 'passwordFile' : 'aclFile'] = named[0]!.value
    for (const other of named.slice(1))
      if (other.value !== named[0]!.value) leave(other, `one for all listeners is there: ${named[0]!.value}`)
  }
  takeGlobals(all, config, leave)
  const ours = listeners.map((listener) =>
    listenerOf(listener, isPerListener ? listener.values : all, isLocal, leave),
  )
  return { config: { listeners: ours, ...inSections(config) }, left }
}

function takeGlobals(
  all: ReadonlyMap<string, Setting>,
  config: Record<string, unknown>,
  leave: (setting: Setting, why: string) => void,
): void {
  for (const setting of all.values()) {
    const { key, value } = setting
    const number = numbers.get(key)
    if (number !== undefined) {
      if (value === number.unbounded) {
        if (key !== 'max_keepalive') leave(setting, `${number.option} has a bound here, whose default stays`)
      } else if (/^\d+$/.test(value)) config[number.option] = Number(value)
      else leave(setting, 'is no number')
    } else if (key === 'persistent_client_expiration') {
      const [, count, unit] = /^(\d+)([hdwmy])$/.exec(value) ?? []
      if (count === undefined) leave(setting, 'is no time')
      else config.sessionExpirySecondsMax = Math.min(Number(count) * units.get(unit!)!, 0xfffffffe)
    } else if (key === 'persistence') {
      if (!isTrue(setting)) continue
      config.stateFile = join(all.get('persistence_location')?.value ?? '.', 'aedes-cluster.state')
      leave(
        setting,
        `sessions and messages in its file are not read; those of this node stand in ${String(config.stateFile)}, unless a cluster keeps them`,
      )
    } else if (key === 'sys_interval' || key === 'retain_available') leave(setting, 'has nothing like it')
    else if (!asHere.has(key) && !ofListenerThen.has(key))
      leave(setting, whyNot.get(key) ?? 'is not known here')
  }
}

function listenerOf(
  { port, host, place, values }: ListenerConf,
  access: ReadonlyMap<string, Setting>,
  isLocal: boolean,
  leave: (setting: Setting, why: string) => void,
): Record<string, unknown> {
  const [cert, key, ca, crl] = ['certfile', 'keyfile', 'cafile', 'crlfile'].map(
    (name) => values.get(name)?.value,
  )
  const isTls = cert !== undefined && key !== undefined
  const asks = isTrue(values.get('require_certificate'))
  const protocol = values.get('protocol')?.value === 'websockets' ? 'ws' : 'mqtt'
  const at = host ?? (isLocal ? '127.0.0.1' : '0.0.0.0')
  const own: Record<string, unknown> = {
    url: `${protocol}${isTls ? 's' : ''}://${at.includes(':') ? `[${at}]` : at}:${port}`,
  }
  if (isTls)
    Object.assign(own, {
      tlsCert: cert,
      tlsKey: key,
      ...(asks &&
        ca !== undefined && {
          tlsCa: ca,
          tlsClients: 'certificate',
          ...(crl !== undefined && { tlsCrl: crl }),
        }),
    })
  const max = values.get('max_connections')
  if (max !== undefined && Number(max.value) > 0) own.connectionsMax = Number(max.value)
  for (const name of ['use_subject_as_username', 'crlfile']) {
    const setting = values.get(name)
    const isTaken = name === 'crlfile' && isTls && asks
    if (setting !== undefined && setting.value !== 'false' && !isTaken) leave(setting, whyNot.get(name)!)
  }
  const links: LinkName[] = [
    ...(asks && isTrue(values.get('use_identity_as_username')) ? (['certificate'] as const) : []),
    ...(access.has('password_file') ? (['password-file'] as const) : []),
    ...(isTrue(access.get('allow_anonymous')) || (isLocal && !access.has('allow_anonymous'))
      ? (['anonymous'] as const)
      : []),
  ]
  if (links.length > 0) own.authentication = links
  else
    leave(
      { key: 'allow_anonymous', value: '', place },
      'nobody may connect there, since there is no password_file: say who may (authentication)',
    )
  return inSections(own)
}
