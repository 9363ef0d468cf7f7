// What bridge/ has to say: named channels that log, metrics and tests read. bridge/ itself neither logs nor
// counts. The channels are the process's; what is said on them is a node's, so that of several nodes in one
// process each hears its own. State: none.
import { channel, type Channel } from 'node:diagnostics_channel'

/** The channels: what is published and when; the table in bridge/README.md is checked against it. */
export const channelTable = {
  fenced: { message: '{ nodeId }', meaning: 'this boot was declared dead by the others' },
  amnesia: { message: '{ nodeId }', meaning: 'Redis lost data; live state is being asserted again' },
  nodeJoined: {
    message: '{ name, nodeId }',
    meaning: 'a node joined, as the journal has it; `name` is who read it',
  },
  nodeLeft: {
    message: '{ name, nodeId, by }',
    meaning: 'a node left (by itself), or was declared dead by another, as the journal has it',
  },
  nodeGone: { message: '{ nodeId }', meaning: 'this node removed one that left or was dead' },
  inboxSealed: { message: '{ nodeId }', meaning: 'the inbox of that node takes nothing any more' },
  garbage: { message: '{ where, bytes }', meaning: 'bytes in Redis that are not ours or not whole; skipped' },
  later: {
    message: '{ where, id }',
    meaning:
      'a record of a later version that this one must not take for nothing: kept where it is stored, passed by where it travels; `id` says which',
  },
  failed: {
    message: '{ where, error }',
    meaning: 'an exception while one message was handled, which is a bug: that message is passed by',
  },
  shed: {
    message: '{ cause, count }',
    meaning:
      'messages that were dropped, by cause: slow-node (QoS 0, the link to a node is full), full-queue (the oldest of a session), full-store (storedBytesMax), ended-session (QoS 2 of a group), events (of $SYS, while Redis is away)',
  },
  givenBack: {
    message: '{ count }',
    meaning: 'messages of groups go to other members: whoever had them did not acknowledge them',
  },
  unretained: {
    message: '{ topic }',
    meaning:
      'a will that was to be retained: nodes have no room for its topic, and it is published with RETAIN 0',
  },
  willsLeft: {
    message: '{ }',
    meaning:
      'a will that is due stays in Redis for now: 1,000 wills already wait to be stored, which happens while Redis is full',
  },
  damaged: {
    message: '{ key, problem }',
    meaning:
      'a key in Redis was damaged; it is mended as far as it can be. At most once a minute for each key',
  },
  scriptBegins: {
    message: '{ script }',
    meaning: 'a script is about to be sent; a test may stop the process here',
  },
  script: { message: '{ script }', meaning: 'a script was answered; a test may stop the process here' },
  storeError: {
    message: '{ name, code, reason }',
    meaning: 'the store refused something or is away; it is tried again',
  },
  waiting: {
    message: '{ name, store, code, kind, reason, remedy, seconds, publishers, connects, writes, wills }',
    meaning: 'somebody has waited for more than two seconds; once per cause',
  },
  waited: {
    message: '{ name, store, code, kind, reason, remedy, seconds, publishers, connects, writes, wills }',
    meaning: 'what `waiting` told is over; at most so many waited at once',
  },
  rebuilt: { message: '{ position }', meaning: 'the tables were rebuilt from the snapshot' },
} as const

export type ChannelName = keyof typeof channelTable

const names = Object.keys(channelTable) as ChannelName[]

export const diagnostics = Object.fromEntries(
  names.map((name) => [name, channel(`aedes-cluster:${name}`)]),
) as Readonly<Record<ChannelName, Channel>>

/** The channels of one node. What a script begins and ends with is no node's: only tests hear it. */
export class Reports {
  /** The node that says it; two nodes of different clusters may have one name. */
  readonly name: string
  /** A bug: the node cannot go on. Whoever is told ends it; undefined: the process ends. */
  onEnd: ((bug: unknown) => void) | undefined

  constructor(name: string) {
    this.name = name
  }

  tell(channelName: Exclude<ChannelName, 'script' | 'scriptBegins'>, message: object): void {
    diagnostics[channelName].publish({ ...message, reports: this })
  }

  /** @returns ends it */
  hear<Message extends object>(channelName: ChannelName, heard: (message: Message) => void): () => void {
    const listener = (message: unknown): void => {
      if ((message as { readonly reports?: Reports }).reports === this) heard(message as Message)
    }
    diagnostics[channelName].subscribe(listener)
    return () => {
      diagnostics[channelName].unsubscribe(listener)
    }
  }
}

/** Of a connection that no node made. */
export const noReports = new Reports('')
