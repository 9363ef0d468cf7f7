// What the dispatch does between two answers of the data plane, where a message or a client comes in between: the data plane
// here answers when the test says so.
import { PassThrough } from 'node:stream'
import { expect, test } from 'vitest'
import { RouteKind, type DataPlane, type Message, type Session } from '../../bridge/index.ts'
import type { AedesClient } from '../../broker/aedes-client.ts'
import type { ConnectionHost } from '../../broker/connection-host.ts'
import { Connection } from '../../broker/connection.ts'
import type { Match, SubscriptionOptions } from '../../broker/delivery/local-table.ts'
import { loadConfig } from '../../broker/config.ts'
import { Dispatch } from '../../broker/dispatch.ts'
import { limits } from '../../broker/limits.ts'
import { messageOf } from '../bridge/planes.ts'

const nothing = (): void => undefined
const options = (qos: 0 | 1 | 2): SubscriptionOptions => ({ qos, noLocal: false, retainAsPublished: false, identifier: undefined })

/** A dispatch on a data plane of which the test says what it does. */
function dispatchOn(plane: object): Dispatch {
  const dispatch = new Dispatch(loadConfig({}, {}), { onPublish: nothing, onDrop: nothing, onRefusal: nothing, onClient: nothing, onClientError: nothing, onError: (error) => { throw error }, onFenced: nothing })
  dispatch.attach(plane as DataPlane)
  return dispatch
}

/** Routes that are counted, and subscriptions that are stored when the test says so. */
function subscribing() {
  const counted = new Map<number, number>()
  const count = (kind: number, by: number): void => { counted.set(kind, (counted.get(kind) ?? 0) + by) }
  const waiting: (() => void)[] = []
  const subscribe = ({ subscriptions }: Session, filter: string, subscription: { options: number; identifier: number | undefined }): Promise<void> => {
    subscriptions.set(filter, subscription)
    return new Promise((resolve) => waiting.push(resolve))
  }
  const dispatch = dispatchOn({
    subscribed: (_filter: string, kind: number) => { count(kind, 1); return Promise.resolve() },
    unsubscribed: (_filter: string, kind: number) => count(kind, -1),
    sessions: { subscriptions: { subscribe } },
  })
  /** Of the match that each message was delivered by: its QoS, and whether the message is queued. */
  const delivered: string[] = []
  const deliver = (_message: Message, { qos, queued }: Match<Connection>): unknown => delivered.push(`${qos} ${queued}`)
  const connection = { lasting: true, session: { subscriptions: new Map() }, deliver } as unknown as Connection
  const stored = (): void => { for (const resolve of waiting.splice(0)) resolve() }
  const subscribed = async (qos: 0 | 1 | 2, filter = 't'): Promise<void> => {
    const done = dispatch.subscribed(connection, filter, options(qos))
    stored()
    await done
  }
  const kinds = (): number[] => [RouteKind.everything, RouteKind.qos0].map((kind) => counted.get(kind) ?? 0)
  return { dispatch, connection, delivered, stored, subscribed, kinds }
}

test('a lasting session that goes from QoS 0 to QoS 1 has its messages live until they are queued everywhere', async () => {
  const { dispatch, connection, delivered, stored, subscribed, kinds } = subscribing()
  await subscribed(0)
  const raised = dispatch.subscribed(connection, 't', options(1))
  dispatch.deliver(messageOf('t'))
  expect([delivered, kinds()]).toEqual([['1 no'], [1, 0]])
  stored()
  await raised
  dispatch.deliver(messageOf('t'))
  expect([delivered, kinds()]).toEqual([['1 no', '1 yes'], [0, 1]])
})

test('a new QoS 1 subscription beside a QoS 0 one that overlaps it: live until the messages are queued everywhere', async () => {
  const { dispatch, connection, delivered, stored, subscribed, kinds } = subscribing()
  await subscribed(0, '#')
  const added = dispatch.subscribed(connection, 't', options(1))
  dispatch.deliver(messageOf('t'))
  expect([delivered, kinds()]).toEqual([['1 no'], [1, 1]])
  stored()
  await added
  dispatch.deliver(messageOf('t'))
  dispatch.deliver(messageOf('other'))
  expect([delivered.slice(1), kinds()]).toEqual([['1 yes', '0 no'], [1, 1]])
})

test('a new QoS 1 subscription by itself: not live, and queued when the whole cluster knows of it', async () => {
  const { dispatch, connection, delivered, stored, kinds } = subscribing()
  const added = dispatch.subscribed(connection, 't', options(1))
  dispatch.deliver(messageOf('t'))
  stored()
  await added
  dispatch.deliver(messageOf('t'))
  expect([delivered, kinds()]).toEqual([['1 soon', '1 yes'], [0, 1]])
})

test('one that leaves while its subscription goes from QoS 0 to QoS 1 leaves no route and gets nothing more', async () => {
  const { dispatch, connection, delivered, stored, subscribed, kinds } = subscribing()
  await subscribed(0)
  const raised = dispatch.subscribed(connection, 't', options(1))
  dispatch.unsubscribed(connection, 't')
  stored()
  await raised
  dispatch.deliver(messageOf('t'))
  expect([delivered, kinds()]).toEqual([[], [0, 0]])
})

test.each([[1, 0], [1, 2], [2, 1]] as const)('the same filter at QoS %i and behind it at QoS %i, in one SUBSCRIBE, instead of QoS 0: the last one has its way', async (first, second) => {
  const { dispatch, connection, delivered, stored, subscribed, kinds } = subscribing()
  await subscribed(0)
  const both = [dispatch.subscribed(connection, 't', options(first)), dispatch.subscribed(connection, 't', options(second))]
  stored()
  await Promise.all(both)
  dispatch.deliver(messageOf('t'))
  expect([delivered, kinds()]).toEqual([[second === 0 ? '0 no' : `${second} yes`], second === 0 ? [1, 0] : [0, 1]])
})

/** What a stored session is queued for its SUBSCRIBE of `t`: `first` is replayed, each of `then` stands there when it is looked at again. */
async function queuedFor(first: Message, ...then: (Message | undefined)[]): Promise<string[]> {
  const queued: string[] = []
  const dispatch = dispatchOn({
    retained: async function* () { yield await Promise.resolve([first]) },
    retainedOf: () => Promise.resolve([then.length > 1 ? then.shift() : then[0]].filter((message) => message !== undefined)),
    replay: ({ payload }: Message) => Promise.resolve(queued.push(`retained ${payload.toString()}`)),
    enqueue: ({ payload, retain }: Message) => Promise.resolve(queued.push(`published ${payload.toString()}${retain ? ' RETAIN' : ''}`)),
    sessions: { subscriptions: { subscribe: () => Promise.resolve() } }, subscribed: () => Promise.resolve(),
  })
  const connection = { lasting: true, isStored: true, session: { sid: '3s' }, beginReplay: nothing, mayReplay: () => true, endReplay: nothing }
  await dispatch.subscribed(connection as unknown as Connection, 't', options(1))
  await new Promise<void>((resolve) => {
    connection.endReplay = resolve
    dispatch.replay(connection as unknown as Connection, [{ filter: 't', options: options(1) }])
  })
  return queued
}

const [old, newer] = [messageOf('t', 'old', { retain: true }), messageOf('t', 'new', { retain: true })]
test.each([
  { what: 'stays', then: [old], queued: ['retained old'] },
  { what: 'is replaced', then: [newer], queued: ['retained old', 'retained new'] },
  { what: 'is cleared', then: [undefined], queued: ['retained old', 'published  RETAIN'] },
  { what: 'is cleared and set anew', then: [undefined, newer], queued: ['retained old', 'published  RETAIN', 'retained new'] },
  { what: 'is replaced and cleared', then: [newer, undefined], queued: ['retained old', 'retained new', 'published  RETAIN'] },
])('a Retained Message that $what while it is queued for a stored session: the last word in its queue is what stands there', async ({ then, queued }) => {
  expect(await queuedFor(old, ...then)).toEqual(queued)
})

test('a Retained Message that expires while it is queued is not cleared by anybody', async () => {
  expect(await queuedFor({ ...old, expiresAt: 1 }, undefined)).toEqual(['retained old'])
})

test('a topic that was published while its subscription is not everywhere yet is replayed, also while another replay goes on', async () => {
  const queued: string[] = []
  const waiting: (() => void)[] = []
  let endOther!: () => void
  const otherEnds = new Promise<void>((resolve) => { endOther = resolve })
  const retained = messageOf('b/1', 'retained', { retain: true })
  const dispatch = dispatchOn({
    subscribed: () => Promise.resolve(), touch: nothing,
    sessions: { subscriptions: { subscribe: () => new Promise<void>((resolve) => waiting.push(resolve)) } },
    retained: async function* (filter: string) { if (filter === 'a/#') await otherEnds; else yield [retained] },
    replay: ({ topic }: Message) => Promise.resolve(queued.push(topic)), retainedOf: () => Promise.resolve([retained]),
  })
  const host = { config: loadConfig({}, {}), readerLimits: { ...limits, topicAliasMax: 0 }, dropped: nothing, onClient: nothing, touch: nothing, drained: nothing } as unknown as ConnectionHost<Connection>
  const connection = new Connection(new PassThrough(), host)
  connection.client = { version: 5, receiveMaximum: 10, id: 'c', _keepaliveInterval: 0 } as AedesClient
  connection.lasting = true
  connection.session = { sid: '0s', inFlight: [], incoming: new Map() } as unknown as Session
  connection.connected()
  const first = dispatch.subscribed(connection, 'a/#', options(1))
  waiting.shift()!()
  await first
  dispatch.replay(connection, [{ filter: 'a/#', options: options(1) }])
  const second = dispatch.subscribed(connection, 'b/#', options(1))
  dispatch.deliver(retained) // published here, matched before the journal had the subscription: queued by nobody
  waiting.shift()!()
  await second
  dispatch.replay(connection, [{ filter: 'b/#', options: options(1) }])
  await expect.poll(() => queued).toEqual(['b/1'])
  endOther()
})

test('an exception while one subscriber is given a message, a bug, is counted; the others get it', () => {
  const dropped: string[] = []
  const dispatch = new Dispatch(loadConfig({}, {}), { onPublish: nothing, onDrop: (cause, qos) => { dropped.push(`${cause} ${qos}`) }, onRefusal: nothing, onClient: nothing, onClientError: nothing, onError: nothing, onFenced: nothing })
  dispatch.attach({ subscribed: () => Promise.resolve(), unsubscribed: nothing } as unknown as DataPlane)
  let got = 0
  for (const broken of [false, true, false]) {
    const deliver = (): void => {
      if (broken) throw new RangeError('a bug')
      got++
    }
    void dispatch.subscribed({ lasting: false, deliver } as unknown as Connection, 't', options(1))
  }
  dispatch.deliver(messageOf('t'))
  expect([got, dropped]).toEqual([2, ['failed 1']])
})
