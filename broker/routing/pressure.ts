// How slow subscribers hold publishers back. A subscriber that gets QoS ≥ 1 messages while it is behind holds
// their topics, on every node, until it has drained, for `holdMs` at most. After that it holds nothing until it has
// drained once; its own bounds apply. A publisher on a held topic gets its acknowledgement when nobody holds the topic
// any more. All others go on, and no publisher waits longer than `holdMs` at a time, however many subscribers fall
// behind one after the other. State: this node. Bounds: topics held by one subscriber, topics held by other nodes,
// one timer for each holder.

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
    this.#timer = setInterval(() => this.#next(), holdMs).unref() // whoever falls behind one after the other
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

interface Slow {
  readonly topics: Set<string>
  readonly timer: NodeJS.Timeout
}

export class Pressure<Subscriber extends object> {
  readonly #holdMs: number
  readonly #announce: (topic: string, held: boolean) => void
  readonly #held = new Map<string, HeldTopic>()
  readonly #slow = new Map<Subscriber, Slow>()
  /** Had their time and are still behind. */
  readonly #givenUp = new WeakSet<Subscriber>()
  /** Node and topic → until when at most: the node may be gone. */
  readonly #others = new Map<string, NodeJS.Timeout>()

  /** @param announce tells the other nodes: a topic is held for subscribers here, or no longer */
  constructor(holdMs: number, announce: (topic: string, held: boolean) => void) {
    this.#holdMs = holdMs
    this.#announce = announce
  }

  /** What who published on `topic` waits for; undefined when nobody is behind with it. */
  of(topic: string): Promise<void> | undefined {
    return this.#held.size === 0 ? undefined : this.#held.get(topic)?.clear
  }

  /** `subscriber` is behind, and was given a message on `topic`. */
  slow(subscriber: Subscriber, topic: string): void {
    if (this.#givenUp.has(subscriber) || topic.length > topicLengthMax) return
    let slow = this.#slow.get(subscriber)
    if (slow === undefined) {
      const timer = setTimeout(() => {
        this.#givenUp.add(subscriber)
        this.#release(subscriber)
      }, this.#holdMs).unref()
      this.#slow.set(subscriber, (slow = { topics: new Set(), timer }))
    }
    if (slow.topics.has(topic) || slow.topics.size >= topicsMax) return
    slow.topics.add(topic)
    if (!this.#isHeldHere(topic)) this.#announce(topic, true)
    this.#hold(topic, subscriber)
  }

  /** `subscriber` has drained, or is gone. */
  drained(subscriber: Subscriber): void {
    this.#givenUp.delete(subscriber)
    this.#release(subscriber)
  }

  /** Another node holds topics for its subscribers, or no longer. */
  other(nodeId: string, topics: readonly string[], held: boolean): void {
    for (const topic of topics) {
      const key = `${nodeId} ${topic}`
      clearTimeout(this.#others.get(key))
      this.#others.delete(key)
      if (!held || this.#others.size >= topicsMax) this.#go(topic, nodeId)
      else {
        this.#others.set(key, setTimeout(() => this.other(nodeId, [topic], false), this.#holdMs).unref())
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

  #release(subscriber: Subscriber): void {
    const slow = this.#slow.get(subscriber)
    if (slow === undefined) return
    clearTimeout(slow.timer)
    this.#slow.delete(subscriber)
    for (const topic of slow.topics) {
      this.#go(topic, subscriber)
      if (!this.#isHeldHere(topic)) this.#announce(topic, false)
    }
  }
}
