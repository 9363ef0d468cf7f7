// How slow subscribers hold publishers back. A subscriber that gets QoS ≥ 1 messages while it is behind holds
// their topics, on every node, until it has drained. A publisher on a held topic gets its acknowledgement when
// nobody holds the topic any more; all others go on. Who stands still holds nothing after `holdMs`, and then only
// its own bounds apply. Who reads, but slower than everybody publishes, goes on holding where its listener has
// `slowSubscriber: hold`: as long as it takes a sixteenth of what makes it slow in each `holdMs`; and where it is
// slower than that, from half of what may wait for it on, as long as it takes anything. So it is not cut
// off. However many subscribers are behind, what waits for them goes on every ten `holdMs`: the acknowledgements of
// so much time are what a publisher can add. State: this node. Bounds: 1,000 topics held by one subscriber, as many by
// all other nodes; a timer for each subscriber that is behind, each topic that is held, and each topic of another node.
// While it holds, a subscriber tells every node each of its topics once a `holdMs`.

/** What is done about a subscriber of a clean session that reads slower than others publish to it. */
export const slowPolicies = ['hold', 'disconnect', 'drop'] as const
export type SlowPolicy = (typeof slowPolicies)[number]

/** A client, as it is looked at here. */
export interface SlowSubscriber {
  readonly slowPolicy: SlowPolicy
  /** Bytes that wait for it. */
  readonly waitingBytes: number
  /** Bytes that it has taken since this was asked last; at least so many. */
  progress(): number
}

export interface PressureOptions {
  readonly slowHoldMs: number
  readonly slowBytesMax: number
  readonly waitingBytesMax: number
}

export interface PressureEvents<Subscriber> {
  /** To the other nodes: a topic is held for subscribers here, or no longer. */
  announce(topic: string, held: boolean): void
  /** A subscriber holds a topic for longer than `slowHoldMs`, since it reads. */
  holdsOn(subscriber: Subscriber, topic: string): void
}

/** What comes in ten of the times that a hold has by itself is progress, and lets go who waits. */
const patience = 10

/**
 * What is not held is bounded elsewhere: by the acknowledgements that wait, and by what may wait for a
 * subscriber.
 */
const topicsMax = 1_000
const topicLengthMax = 1_024

class HeldTopic {
  /** Subscribers here, and other nodes by name. */
  readonly holders = new Set<object | string>()
  clear!: Promise<void>
  #done: () => void = () => undefined
  readonly #timer: NodeJS.Timeout

  constructor(holdMs: number) {
    this.#timer = setInterval(() => this.#next(), holdMs * patience).unref()
    this.#next()
  }

  /** Lets those go that wait, and holds who comes from now on. */
  #next(): void {
    this.#done()
    this.clear = new Promise((resolve) => {
      this.#done = resolve
    })
  }

  end(): void {
    clearInterval(this.#timer)
    this.#done()
  }
}

/** From falling behind until it has drained. */
interface Slow {
  /** Those that it holds. */
  readonly topics: Set<string>
  readonly timer: NodeJS.Timeout
  readonly since: number
  isHolding: boolean
  /** Since it fell behind. */
  hasTaken: boolean
  takenAt: number
  /** Since it was last decided whether it holds. */
  taken: number
}

export class Pressure<Subscriber extends SlowSubscriber> {
  readonly #holdMs: number
  readonly #steadyBytes: number
  readonly #nearlyFullBytes: number
  readonly #events: PressureEvents<Subscriber>
  readonly #held = new Map<string, HeldTopic>()
  readonly #slow = new Map<Subscriber, Slow>()
  /** Node and topic → until when at most: a node that holds on says so every `holdMs`, and may be gone. */
  readonly #others = new Map<string, NodeJS.Timeout>()

  constructor(
    { slowHoldMs, slowBytesMax, waitingBytesMax }: PressureOptions,
    events: PressureEvents<Subscriber>,
  ) {
    this.#holdMs = slowHoldMs
    this.#steadyBytes = slowBytesMax / 16
    this.#nearlyFullBytes = waitingBytesMax / 2
    this.#events = events
  }

  /** Subscribers here that are behind, and topics that are held. */
  get counts(): { readonly subscribers: number; readonly topics: number } {
    return { subscribers: this.#slow.size, topics: this.#held.size }
  }

  /** What who published on `topic` waits for; undefined when nobody is behind with it. */
  of(topic: string): Promise<void> | undefined {
    return this.#held.size === 0 ? undefined : this.#held.get(topic)?.clear
  }

  /** `subscriber` is behind, and was given a message on `topic`. */
  slow(subscriber: Subscriber, topic: string): void {
    const slow = this.#slow.get(subscriber) ?? this.#fallsBehind(subscriber)
    if (!slow.isHolding || topic.length > topicLengthMax) return
    if (slow.topics.has(topic) || slow.topics.size >= topicsMax) return
    slow.topics.add(topic)
    if (!this.#isHeldHere(topic)) this.#events.announce(topic, true)
    this.#hold(topic, subscriber)
  }

  #fallsBehind(subscriber: Subscriber): Slow {
    subscriber.progress() // what it took before does not count
    const slow: Slow = {
      topics: new Set(),
      timer: setInterval(() => this.#decide(subscriber, slow), this.#holdMs).unref(),
      since: performance.now(),
      isHolding: true,
      hasTaken: false,
      takenAt: 0,
      taken: 0,
    }
    this.#slow.set(subscriber, slow)
    return slow
  }

  /** Whether it holds for another while. */
  #decide(subscriber: Subscriber, slow: Slow): void {
    const isReading = this.#isReading(subscriber, slow)
    const isSteady = slow.taken >= this.#steadyBytes
    slow.taken = 0
    // once it holds, until some of it is gone: not a little now and then
    const nearlyFull = this.#nearlyFullBytes * (slow.isHolding ? 0.75 : 1)
    slow.isHolding =
      subscriber.slowPolicy === 'hold' && isReading && (isSteady || subscriber.waitingBytes >= nearlyFull)
    if (!slow.isHolding) return this.#release(subscriber, slow)
    const [first] = slow.topics
    if (first !== undefined) this.#events.holdsOn(subscriber, first)
    for (const topic of slow.topics) this.#events.announce(topic, true)
  }

  /**
   * It is slow, and not because it stands still; which nobody knows within its first `holdMs`: a moment may have
   * brought all that publishers had on their way. And not with a topic that cannot be held, of which nothing would bound
   * what comes.
   */
  isReading(subscriber: Subscriber, topic: string): boolean {
    const slow = this.#slow.get(subscriber)
    if (slow === undefined || subscriber.slowPolicy !== 'hold') return false
    if (topic.length > topicLengthMax) return false
    if (slow.topics.size >= topicsMax && !slow.topics.has(topic)) return false
    return this.#isReading(subscriber, slow) || performance.now() - slow.since < this.#holdMs
  }

  #isReading(subscriber: Subscriber, slow: Slow): boolean {
    const taken = subscriber.progress()
    const now = performance.now()
    if (taken > 0) {
      slow.hasTaken = true
      slow.takenAt = now
      slow.taken += taken
    }
    return slow.hasTaken && now - slow.takenAt < this.#holdMs * patience
  }

  /** `subscriber` has drained, or is gone. */
  drained(subscriber: Subscriber): void {
    const slow = this.#slow.get(subscriber)
    if (slow === undefined) return
    clearInterval(slow.timer)
    this.#slow.delete(subscriber)
    this.#release(subscriber, slow)
  }

  /** Another node holds topics for its subscribers, or no longer. */
  other(nodeId: string, topics: readonly string[], held: boolean): void {
    for (const topic of topics) {
      const key = `${nodeId} ${topic}`
      clearTimeout(this.#others.get(key))
      this.#others.delete(key)
      if (!held || this.#others.size >= topicsMax) this.#go(topic, nodeId)
      else {
        this.#others.set(key, setTimeout(() => this.other(nodeId, [topic], false), 2 * this.#holdMs).unref())
        this.#hold(topic, nodeId)
      }
    }
  }

  #isHeldHere(topic: string): boolean {
    for (const holder of this.#held.get(topic)?.holders ?? []) if (typeof holder !== 'string') return true
    return false
  }

  #hold(topic: string, holder: object | string): void {
    let held = this.#held.get(topic)
    if (held === undefined) this.#held.set(topic, (held = new HeldTopic(this.#holdMs)))
    held.holders.add(holder)
  }

  #go(topic: string, holder: object | string): void {
    const held = this.#held.get(topic)
    if (held?.holders.delete(holder) !== true || held.holders.size > 0) return
    this.#held.delete(topic)
    held.end()
  }

  #release(subscriber: Subscriber, { topics }: Slow): void {
    for (const topic of topics) {
      this.#go(topic, subscriber)
      if (!this.#isHeldHere(topic)) this.#events.announce(topic, false)
    }
    topics.clear()
  }
}
