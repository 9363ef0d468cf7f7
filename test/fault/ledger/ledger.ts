// The ledger and its checker: what publishers sent and had acknowledged, what subscribers got, and the
// promises P3 to P5 written once. It knows nothing of how the messages travelled; it is tested itself, with
// books of brokers that cheat.

export interface Sent {
  readonly publisher: string
  readonly topic: string
  readonly qos: 1 | 2
  /** The publisher's count, from 0. */
  readonly n: number
}

export interface Book {
  readonly sent: readonly Sent[]
  /** Keys of messages whose PUBACK or PUBCOMP came. */
  readonly acknowledged: ReadonlySet<string>
  /** Subscriber → keys in the order in which they came. */
  readonly received: ReadonlyMap<string, readonly string[]>
  /** Which topics a subscriber is owed. */
  readonly wants: (subscriber: string, topic: string) => boolean
  /**
   * Those among the subscribers that are groups (Shared Subscriptions) → granted QoS: what all members of one
   * got, one after the other. Each message comes to one member, and what it does not acknowledge to another.
   */
  readonly groups?: ReadonlyMap<string, 1 | 2>
}

export const keyOf = ({ publisher, qos, n }: Pick<Sent, 'publisher' | 'qos' | 'n'>): string =>
  `${publisher} ${qos} ${n}`

/**
 * What is wrong with the book; empty when every promise was kept. At most some of each kind are told in full.
 */
export function check(book: Book): string[] {
  const bySent = new Map(book.sent.map((message) => [keyOf(message), message]))
  return [...book.received].flatMap(([subscriber, keys]) => checkSubscriber(book, bySent, subscriber, keys))
}

/** How many problems of `check` are of which kind; `other` are those that it did not find. */
export function tally(problems: readonly string[]): {
  lost: number
  doubled: number
  misordered: number
  other: number
} {
  const count = (pattern: RegExp): number => problems.filter((problem) => pattern.test(problem)).length
  const [lost, doubled, misordered] = [
    count(/ never got .* acknowledged$/),
    count(/ got .* \d+ times$/),
    count(/ got .* after /),
  ]
  return { lost, doubled, misordered, other: problems.length - lost - doubled - misordered }
}

function checkSubscriber(
  book: Book,
  bySent: ReadonlyMap<string, Sent>,
  subscriber: string,
  keys: readonly string[],
): string[] {
  const problems: string[] = []
  const granted = book.groups?.get(subscriber)
  const counts = new Map<string, number>()
  const last = new Map<string, { n: number; key: string }>()
  for (const key of keys) {
    const message = bySent.get(key)
    if (message === undefined) problems.push(`${subscriber} got ${key}, which nobody sent`)
    else if (!book.wants(subscriber, message.topic))
      problems.push(`${subscriber} got ${key} on ${message.topic}, which it does not want`)
    else if (!counts.has(key)) {
      // P3: one publisher, one topic, one QoS: first arrivals in the publisher's order.
      const lane = `${message.publisher} ${message.topic} ${message.qos}`
      const before = last.get(lane)
      if (before !== undefined && before.n > message.n && granted === undefined)
        problems.push(`${subscriber} got ${key} after ${before.key}`)
      else last.set(lane, { n: message.n, key })
    }
    counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  for (const message of book.sent) {
    const key = keyOf(message)
    const count = counts.get(key) ?? 0
    if (message.qos === 2 && granted !== 1 && count > 1)
      problems.push(`${subscriber} got ${key} ${count} times`) // P5
    if (count === 0 && book.acknowledged.has(key) && book.wants(subscriber, message.topic))
      problems.push(`${subscriber} never got ${key}, which was acknowledged`) // P4, P5
  }
  return problems
}
