// What a node's log says: each event by its name, at its level, with its fields, which have these names in every version.
// log.ts takes no other line. EVENTS.md beside it is this table, and a test compares the two. An event that clients can
// cause as often as they like (`perMinute`) is a line a minute for each client, or cause, and the next one tells in
// `leftOut` how many there were. No state.

type Level = 'debug' | 'info' | 'warn' | 'error'

interface LogEvent {
  readonly level: Level
  readonly fields: readonly string[]
  /** `msg` of its lines; where it begins with a capital, what stands in its place. */
  readonly message: string
  readonly perMinute?: true
}

const event = <const Fields extends readonly string[]>(
  level: Level,
  fields: Fields,
  message: string,
): { readonly level: Level; readonly fields: Fields; readonly message: string } => ({
  level,
  fields,
  message,
})

/** At most a line a minute for each client, address or cause. */
const perMinute = <const Fields extends readonly string[]>(
  level: Level,
  fields: Fields,
  message: string,
): {
  readonly level: Level
  readonly fields: Fields
  readonly message: string
  readonly perMinute: true
} => ({ level, fields, message, perMinute: true })

export const logEvents = {
  // Clients
  'client-connected': event(
    'debug',
    ['clientId', 'user', 'address', 'protocolLevel', 'sessionPresent'],
    'a client connected',
  ),
  'connection-ended': event(
    'debug',
    ['clientId', 'address', 'reason', 'seconds', 'bytesIn', 'bytesOut'],
    'a connection ended',
  ),
  'connection-failed': perMinute('info', ['clientId', 'address', 'reason'], 'connection ended by an error'),
  'connection-refused': perMinute(
    'debug',
    ['cause', 'address', 'detail'],
    'a connection did not become a client',
  ),
  denied: perMinute('info', ['clientId', 'user', 'action', 'topic', 'rule'], 'denied by rule'),
  'subscriber-slow': perMinute(
    'warn',
    ['client', 'topic'],
    'publishers on this topic wait for a client that reads slower than they publish: slowSubscriber says what becomes of such a client',
  ),
  'hook-late': perMinute(
    'warn',
    ['step'],
    'a hook did not decide in time (decisionTimeoutMs): what it was asked about is refused',
  ),
  'hook-failed': perMinute('error', ['step', 'reason'], 'a hook threw: what it was asked about is refused'),
  'authenticator-away': event(
    'warn',
    ['link', 'problem'],
    'whom this link asks who clients are does not answer as it should',
  ),
  'authenticator-back': event('info', ['link'], 'whom this link asks answers again'),
  'key-removed': event('info', ['link'], 'a key of tokens was taken away: whom it let in is told to go'),
  // Nodes
  serving: event('info', ['listen', 'admin', 'nodes'], 'serving'),
  stopped: event('info', [], 'stopped'),
  'node-joined': event('info', ['nodeId'], 'a node joined'),
  'node-left': event('info', ['nodeId'], 'a node left'),
  'node-ended': event('warn', ['nodeId', 'by'], 'a node had ended without leaving: its next boot says so'),
  'node-dead': event('warn', ['nodeId', 'by'], 'a node was declared dead: its lease was over'),
  fenced: event(
    'warn',
    ['boot'],
    'declared dead by the other nodes: closing all connections and starting again',
  ),
  'serving-again': event('info', ['boot'], 'serving again'),
  'rejoin-waits': perMinute('warn', ['error'], 'cannot join again yet'),
  draining: event('info', ['clients', 'perSecond'], 'the node is drained: its clients are told to go'),
  drained: event('info', [], 'the node is drained: no client is left'),
  // The store
  waiting: event(
    'warn',
    ['store', 'code', 'kind', 'reason', 'remedy', 'seconds', 'publishers', 'connects', 'writes', 'wills'],
    'Who waits for the store, for how long, and what to do',
  ),
  waited: event(
    'warn',
    ['store', 'code', 'kind', 'reason', 'remedy', 'seconds', 'publishers', 'connects', 'writes', 'wills'],
    'That the store is back, after how long, and who had waited',
  ),
  'store-lost-data': event(
    'warn',
    ['nodeId'],
    'the store lost data: registering again and writing down what is connected here',
  ),
  'store-error': event('debug', ['error', 'store'], 'the store says'),
  damaged: event('warn', ['key', 'problem'], 'damaged data in the store'),
  later: perMinute(
    'warn',
    ['where', 'id'],
    'a later version of aedes-cluster wrote what this one does not understand: it is kept where it is stored',
  ),
  'wills-left': perMinute(
    'warn',
    [],
    'as many wills as may wait to be stored: further ones stay in the store until it has room, and are published then',
  ),
  advice: event('warn', [], 'What should be otherwise, and what to do'),
  notice: event('info', [], 'What the store is'),
  // Configuration
  reloaded: event('info', ['what'], 'read again'),
  'reload-failed': event(
    'warn',
    ['what', 'problem'],
    'what was read before holds: the files are not in order',
  ),
  'reload-works': event('info', ['what'], 'is in order again'),
  'options-changed': event('info', ['options'], 'these options hold as they are now'),
  'options-wait': event(
    'warn',
    ['options'],
    'these options are others by now: they hold from the next start',
  ),
  // Operators
  'by-operator': event(
    'info',
    [
      'by',
      'what',
      'clientId',
      'nodes',
      'topic',
      'kind',
      'whom',
      'reason',
      'seconds',
      'client',
      'payload',
      'perSecond',
    ],
    'By the admin API: what was done',
  ),
  'admin-reachable': event(
    'warn',
    ['admin'],
    'other machines can reach the admin endpoint, and only its API asks who they are: keep it behind a firewall',
  ),
  // The process
  'descriptors-gone': perMinute(
    'error',
    ['connections', 'openFilesMax'],
    'no file descriptor is left for connections: they are refused; the limit of open files is low: raise it (ulimit -n, LimitNOFILE=)',
  ),
  'descriptors-back': event(
    'warn',
    ['connections', 'openFilesMax'],
    'there are file descriptors for connections again',
  ),
  'descriptors-few': event(
    'warn',
    ['connectionsMax', 'openFilesMax'],
    'the limit of open files is low: raise it (ulimit -n, LimitNOFILE=)',
  ),
  'workers-serve': event('info', ['workers', 'listen', 'admin'], 'all workers serve'),
  'worker-ended': event('error', ['worker', 'how', 'againMs'], 'a worker ended: starting it again'),
  'worker-back': event('info', ['worker'], 'the worker serves again'),
  'worker-killed': event('error', ['worker', 'stopMs'], 'a worker did not stop in time: it is killed'),
  console: perMinute('warn', [], 'What a package, or Node.js, said on the console'),
  'console-detail': perMinute('debug', [], 'The same, of no matter to a node'),
  'lines-dropped': event('warn', ['count'], 'log lines were left out: nobody read them'),
  'events-dropped': event('warn', ['count'], 'events of further clients were left out of the log'),
  // Bugs
  'node-failed': event('error', ['reason'], 'a bug: the node ends; please report this'),
  'engine-error': event('error', ['error'], 'engine error'),
  'handler-failed': perMinute(
    'error',
    ['error', 'stack'],
    'a bug: a handler threw; its connection was closed',
  ),
  'message-failed': perMinute(
    'error',
    ['where', 'reason', 'at'],
    'a bug: handling one message failed, which is passed by; please report this',
  ),
} as const satisfies Readonly<Record<string, LogEvent>>

export type LogEventName = keyof typeof logEvents
export type PerMinuteName = {
  [Name in LogEventName]: (typeof logEvents)[Name] extends { readonly perMinute: true } ? Name : never
}[LogEventName]
export type FieldsOf<Name extends LogEventName> = Readonly<
  Partial<Record<(typeof logEvents)[Name]['fields'][number], unknown>>
>
