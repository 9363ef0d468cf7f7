// The busiest topics and clients of some seconds, counted while somebody asks and not otherwise. Of each kind so many are
// counted; when another one comes the least one gives its place and its count away (Metwally's space-saving): whoever had
// more than one of `placesMax` of all is certainly among them, and its count is too high by `more` at most. State: this
// object, for as long as it counts. Cost: two maps for a message, and a look at all places where a new name comes.

/** Names that are counted: of a kind, and how long they may be. */
const placesMax = 256
const nameMax = 1_024

export interface Busy {
  readonly name: string
  readonly messages: number
  readonly bytes: number
  /** So many of the messages may be of others. */
  readonly more: number
}

interface Place {
  messages: number
  bytes: number
  more: number
}

export class TopCounts {
  readonly #places = new Map<string, Place>()

  count(name: string, bytes: number): void {
    if (name.length > nameMax) name = name.slice(0, nameMax)
    const place = this.#places.get(name)
    if (place !== undefined) {
      place.messages++
      place.bytes += bytes
    } else if (this.#places.size < placesMax) this.#places.set(name, { messages: 1, bytes, more: 0 })
    else this.#replace(name, bytes)
  }

  #replace(name: string, bytes: number): void {
    let [least, messages] = ['', Infinity]
    for (const [other, place] of this.#places)
      if (place.messages < messages) [least, messages] = [other, place.messages]
    this.#places.delete(least)
    this.#places.set(name, { messages: messages + 1, bytes, more: messages })
  }

  /** The first `count` of them, the busiest first. */
  top(count: number): Busy[] {
    return [...this.#places]
      .map(([name, place]) => ({ name, ...place }))
      .sort((a, b) => b.messages - a.messages)
      .slice(0, count)
  }
}

/** What is counted together. */
export class Busiest {
  /** What came, by topic and by who published it; what went, by whom it went to. */
  readonly topics = new TopCounts()
  readonly publishers = new TopCounts()
  readonly receivers = new TopCounts()

  received(topic: string, publisher: string | undefined, bytes: number): void {
    this.topics.count(topic, bytes)
    if (publisher !== undefined) this.publishers.count(publisher, bytes)
  }

  delivered(receiver: string, bytes: number): void {
    this.receivers.count(receiver, bytes)
  }
}
