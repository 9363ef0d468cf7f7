// The implementations of `Cluster` that the contract is tried on, and a client as the contract knows it: what
// owns a session and sends its messages.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect } from 'vitest'
import type { Cluster } from '../../bridge/cluster.ts'
import { DataPlane } from '../../bridge/data-plane.ts'
import { createMemoryBridge } from '../../bridge/memory/index.ts'
import type { Message } from '../../bridge/messages/message.ts'
import type { Receiver } from '../../bridge/options.ts'
import type { SessionHolder, SessionReply, SessionWrites } from '../../bridge/sessions/session-writer.ts'
import type { Session, SessionRequest } from '../../bridge/sessions/session.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'

const sizes = {
  queueMessagesMax: 60,
  queueBytesMax: 1_000_000,
  storedBytesMax: 1e9,
  sessionsMax: 320,
  retainedBytesMax: 100_000_000,
  claimsWaitingMax: 1_000,
}

/** One node in a cluster of its own, and what it was told. */
export class Member implements Receiver, AsyncDisposable {
  cluster!: Cluster
  readonly publishers = 0
  authorizeWill = (will: Message): Message | Promise<Message> => will
  readonly delivered: Message[] = []
  readonly thrownOut: Session[] = []
  readonly #clients = new Map<string, Client>()
  readonly #end: (() => Promise<void>)[] = []

  onEnd(end: () => Promise<void>): void {
    this.#end.unshift(end)
  }

  deliver(message: Message): void {
    this.delivered.push(message)
  }
  deliverShared(): boolean {
    return false
  }
  hold(): void {
    /* by other nodes */
  }
  ring(sid: string): void {
    this.#clients.get(sid)?.ring()
  }
  taken(session: Session): void {
    this.thrownOut.push(session)
  }
  wanted(): void {
    /* by other nodes */
  }
  onFenced(): void {
    throw new Error('fenced')
  }

  get payloads(): string[] {
    return this.delivered.map(({ payload }) => payload.toString())
  }

  /** Connects a client whose session outlives it, unless the request says otherwise. */
  async connect(clientId: string, request: Partial<SessionRequest> = {}, windowMax = 100): Promise<Client> {
    const session = await this.cluster.sessions.claim({
      clientId,
      cleanStart: false,
      expirySeconds: -1,
      will: undefined,
      ...request,
    })
    const client = new Client(this, session, windowMax)
    this.#clients.set(session.sid, client)
    client.ring()
    return client
  }

  /** Resolves when it is stored for everybody: what a PUBACK would say. */
  publish(message: Message): Promise<void> {
    return new Promise((resolve) => this.cluster.publish(message, resolve))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const end of this.#end) await end()
  }
}

/** A connection that takes what its session has, up to a window, and acknowledges when it is told to. */
export class Client implements SessionHolder {
  readonly session: Session
  readonly got: Message[] = []
  readonly open = new Map<number, Message>()
  lost = false
  readonly #member: Member
  readonly #max: number
  /** Whether it acknowledges by itself. */
  isEager = false
  #isAsked = false
  #rung = false
  #writes: Partial<SessionWrites> = {}
  #whenWritten: (() => void)[] = []
  #next = 1
  #order = 0

  constructor(member: Member, session: Session, max: number) {
    this.#member = member
    this.session = session
    this.#max = max
    for (const { messageId, order } of session.inFlight) {
      this.#next = Math.max(this.#next, messageId + 1)
      this.#order = Math.max(this.#order, order + 1)
    }
  }

  get payloads(): string[] {
    return this.got.map(({ payload }) => payload.toString())
  }

  async subscribe(filter: string, options = 1): Promise<void> {
    await this.#member.cluster.sessions.subscribe(this.session, filter, { options, identifier: undefined })
  }

  async release(): Promise<void> {
    await this.#member.cluster.sessions.release(this.session)
  }

  ring(): void {
    this.#rung = true
    this.#member.cluster.schedule(this)
  }

  /** Resolves when it is written, or refused. */
  async write(writes: Partial<SessionWrites>): Promise<void> {
    this.#rung = true
    this.#writes = { ...this.#writes, ...writes }
    for (const id of writes.acknowledged ?? []) this.open.delete(id)
    await new Promise<void>((resolve) => {
      this.#whenWritten.push(resolve)
      this.#member.cluster.schedule(this)
    })
  }

  /** Waits for so many messages altogether. */
  async has(count: number): Promise<void> {
    await expect.poll(() => this.got.length).toBeGreaterThanOrEqual(count)
  }

  takeWrites(): SessionWrites | undefined {
    if (this.#isAsked) throw new Error('asked again before it was answered')
    if (!this.#rung && Object.keys(this.#writes).length === 0) return undefined
    const free = this.#rung
      ? Array.from({ length: this.#max - this.open.size }, (_, i) => this.#next + i)
      : []
    this.#rung = false
    const writes = {
      acknowledged: [],
      received: [],
      incoming: [],
      released: [],
      fields: [],
      given: [],
      order: this.#order,
      bytes: 1_000_000,
      ...this.#writes,
      free,
    }
    this.#writes = {}
    this.#isAsked = true
    return writes
  }

  written({ free, given }: SessionWrites, { messages, left }: SessionReply): void {
    this.#isAsked = false
    this.#order += given.length + messages.length
    for (const [i, message] of messages.entries()) {
      if (message === undefined || message === 'later') throw new Error('not a message')
      this.open.set(free[i]!, message)
      this.got.push(message)
      this.#next = free[i]! + 1
    }
    if (this.isEager && this.open.size > 0) void this.write({ acknowledged: [...this.open.keys()] })
    if (left > 0 && this.open.size < this.#max) this.ring()
    for (const resolve of this.#whenWritten.splice(0)) resolve()
  }

  moved(): void {
    this.#isAsked = false
    this.lost = true
    for (const resolve of this.#whenWritten.splice(0)) resolve()
  }
}

let redis: TestRedis | undefined
let count = 0

/** Ends what the implementations share. */
export async function endAll(): Promise<void> {
  await redis?.[Symbol.asyncDispose]()
  redis = undefined
}

async function onMemory(folder?: string): Promise<Member> {
  const member = new Member()
  const bridge = await createMemoryBridge({
    name: 'm',
    ...sizes,
    file: folder === undefined ? undefined : join(folder, 'state'),
    fsync: 'always',
    onWarning: (text) => {
      throw new Error(text)
    },
  })
  member.cluster = await bridge.join(member)
  member.onEnd(async () => {
    await member.cluster.close()
    await bridge.close()
    if (folder !== undefined) rmSync(folder, { recursive: true }) // its lock is released by now
  })
  return member
}

/** Each gives a node of its own, with nothing in it. */
export const implementations: Readonly<Record<string, () => Promise<Member>>> = {
  Redis: async () => {
    redis ??= await startRedis('--appendonly', 'no')
    const member = new Member()
    member.cluster = await DataPlane.start(
      {
        name: 'm',
        redis: redis.url,
        prefix: `contract${++count}`,
        redisTimeoutMs: 2_000,
        leaseMs: 15_000,
        durabilityReplicas: 0,
        ...sizes,
        onError: () => undefined,
      },
      member,
    )
    member.onEnd(() => member.cluster.close())
    return member
  },
  memory: () => onMemory(),
  'memory and a file': () => onMemory(mkdtempSync(join(tmpdir(), 'aedes-cluster-file-'))),
}
