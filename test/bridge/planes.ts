// What the tests of bridge/ share: data planes of one process on one real Redis, what each of them received,
// and events to wait for. A plane's connections can be killed from the outside.
import { Redis } from 'ioredis'
import { afterAll, beforeAll, beforeEach, expect } from 'vitest'
import { Clock } from '../../bridge/pace/clock.ts'
import { packMessage } from '../../bridge/messages/codec.ts'
import { DataPlane } from '../../bridge/data-plane.ts'
import { diagnostics, type ChannelName } from '../../bridge/diagnostics.ts'
import { Keys, partitionsOfCluster } from '../../bridge/redis/keys.ts'
import { formatOf } from '../../bridge/redis/layout.ts'
import type { Session } from '../../bridge/sessions/session.ts'
import { Message, type MessageFields } from '../../bridge/messages/message.ts'
import type { Waits } from '../../bridge/pace/waits.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'

export const prefix = 'test'
/** Data as of a Redis Cluster, on one server: partitions fail one by one. */
export const keys = new Keys(prefix, partitionsOfCluster)

export interface Plane extends AsyncDisposable {
  readonly plane: DataPlane
  readonly received: Message[]
  readonly payloads: string[]
  /** Set when the plane said that it was fenced. */
  fenced: boolean
  /** What other nodes wanted held back. */
  readonly holds: { nodeId: string; topics: readonly string[]; held: boolean }[]
  close(): Promise<void>
}

export async function startPlane(
  redis: TestRedis,
  name: string,
  options: {
    leaseMs?: number
    url?: string
    replicas?: number
    waits?: Waits
    queueMessagesMax?: number
    wanted?: (session: Session) => void
    authorizeWill?: (will: Message) => Promise<Message>
    deliverShared?: (message: Message, group: string) => boolean
  } = {},
): Promise<Plane> {
  let closing: Promise<void> | undefined
  const self: { -readonly [K in keyof Plane]: Plane[K] } = {
    plane: undefined as unknown as DataPlane,
    received: [],
    payloads: [],
    fenced: false,
    holds: [],
    close: () => (closing ??= self.plane.close()),
    [Symbol.asyncDispose]: () => self.close(),
  }
  using client = openClient(redis)
  await client.set(keys.bus('format'), formatOf(keys), 'NX')
  self.plane = await DataPlane.start(
    {
      name,
      redis: options.url ?? redis.url,
      prefix,
      redisTimeoutMs: 2_000,
      leaseMs: options.leaseMs ?? 15_000,
      durabilityReplicas: options.replicas ?? 0,
      waits: options.waits,
      queueMessagesMax: options.queueMessagesMax ?? 1_000,
      queueBytesMax: 67_108_864,
      sessionsMax: 1_000_000,
      retainedBytesMax: 1_000_000_000,
      onError: () => undefined,
    },
    {
      publishers: 0,
      deliver: (message) => {
        self.received.push(message)
        self.payloads.push(message.payload.toString())
      },
      hold: (nodeId, topics, held) => {
        self.holds.push({ nodeId, topics, held })
      },
      deliverShared: (message, group) => options.deliverShared?.(message, group) ?? false,
      ring: () => undefined,
      taken: () => undefined,
      wanted: (session) => options.wanted?.(session),
      authorizeWill: (will) => options.authorizeWill?.(will) ?? will,
      onFenced: () => {
        self.fenced = true
      },
    },
  )
  return self
}

/** A client of Redis for looking at it and for doing harm; `using` ends it. */
export function openClient(redis: TestRedis): Redis & Disposable {
  return Object.assign(new Redis(redis.url), {
    [Symbol.dispose](this: Redis) {
      this.disconnect()
    },
  })
}

/** Gives a test file a Redis of its own, empty before each test, and a client of it. */
export function onEmptyRedis(ready: (redis: TestRedis, client: Redis) => void): void {
  let redis: TestRedis
  let client: Redis
  beforeAll(async () => {
    redis = await startRedis('--appendonly', 'no')
    client = openClient(redis)
    ready(redis, client)
  })
  beforeEach(() => client.flushall())
  afterAll(async () => {
    client.disconnect()
    await redis[Symbol.asyncDispose]()
  })
}

export interface Heard<Event> extends Disposable {
  readonly events: Event[]
}

/** Collects what a diagnostics channel says from now on, whosever it is. */
export function listen<Event = Record<string, unknown>>(name: ChannelName): Heard<Event> {
  const events: Event[] = []
  const hear = (event: unknown): void => {
    const { reports: _, ...what } = event as { readonly reports: unknown }
    events.push(what as Event)
  }
  diagnostics[name].subscribe(hear)
  return {
    events,
    [Symbol.dispose]: () => {
      diagnostics[name].unsubscribe(hear)
    },
  }
}

export function messageOf(
  topic: string,
  payload: string | Buffer = '',
  more: Partial<MessageFields> = {},
): Message {
  return Message.of({ topic, payload: Buffer.from(payload as string), qos: 1, retain: false, ...more })
}

/** Resolves when the message is stored: what a PUBACK would say. */
export function publish({ plane }: Plane, message: Message): Promise<void> {
  return new Promise((resolve) => plane.publish(message, resolve))
}

export const routesOf = ({ plane }: Plane): string[] =>
  [...plane.routes].map(({ nodeId, filter, kind }) => `${nodeId} ${filter} ${kind}`).sort()

/** Waits until the planes know each other and their tables are equal and pass `check`. */
export async function untilEqual(
  planes: readonly Plane[],
  check: (routes: string[]) => void = () => undefined,
): Promise<void> {
  await expect
    .poll(
      () => {
        const [first, ...others] = planes.map(routesOf)
        for (const other of others) expect(other).toEqual(first)
        for (const { plane } of planes)
          expect([...plane.nodes].sort()).toEqual(planes.map((one) => one.plane.nodeId).sort())
        check(first!)
        return true
      },
      { timeout: 8_000, interval: 10 },
    )
    .toBe(true)
}

/** The Retained Messages that a filter finds. */
export async function retainedBy({ plane }: Plane, filter: string): Promise<Message[]> {
  const topics: string[] = []
  const matching = await plane.topics(filter)
  for (let next = await matching.next(); next.done !== true; next = await matching.next())
    topics.push(next.value)
  const found: Message[] = []
  for (let left: readonly string[] = topics; left.length > 0;) {
    const { messages, unread } = await plane.retained(left.slice(0, 200), 1_000_000)
    found.push(...messages)
    left = [...unread, ...left.slice(200)]
  }
  return found
}

/** The same as text. */
export async function retainedOf(plane: Plane, filter: string): Promise<string[]> {
  return (await retainedBy(plane, filter))
    .map(({ topic, payload }) => `${topic}=${payload.toString()}`)
    .sort()
}

/** A Retained Message as it stands in Redis, stored long ago. */
export const valueOf = (message: Message): Buffer =>
  Buffer.concat([Buffer.alloc(8), packMessage(message.with({ retain: true, replay: true }), new Clock())])

/** Kills all connections but that of `client`, as a switch that lost its table would. */
export async function killConnections(client: Redis): Promise<void> {
  await client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')
}
