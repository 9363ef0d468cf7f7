// Topic Aliases towards one client, by the use of topics: a topic has one from its second message on, and the one that
// was used longest ago gives its own up. State: this connection's [MQTT-3.3.2-7]. Bounds: the client's Topic Alias
// Maximum [MQTT-3.1.2-26] [MQTT-3.1.2-27], ours (`topicAliasesMax`), as many topics that came once, and the length of
// a topic.
import { limits } from '../config/limits.ts'

/** An alias takes three bytes: of a shorter topic nothing is saved. */
const shortest = 4

export class TopicAliases {
  readonly #max: number
  /** Topic → alias; who was used longest ago comes first. */
  readonly #aliases = new Map<string, number>()
  /** Topics that came once of late. */
  readonly #seen = new Set<string>()

  constructor(topicAliasMaximum: number) {
    this.#max = Math.min(topicAliasMaximum, limits.topicAliasesMax)
  }

  /**
   * @param mayGive whether there is room for topic and alias in the packet
   * @returns the alias of a topic whose name need not be sent; negative: one that it gets with this message, and that
   * the name is sent with; 0: none
   */
  of(topic: string, mayGive: boolean): number {
    const alias = this.#aliases.get(topic)
    if (alias !== undefined) {
      this.#aliases.delete(topic)
      this.#aliases.set(topic, alias)
      return alias
    }
    if (!mayGive || topic.length < shortest || topic.length > limits.aliasedTopicMax) return 0
    if (!this.#seen.delete(topic)) {
      this.#seen.add(topic)
      if (this.#seen.size > this.#max) this.#seen.delete(this.#seen.values().next().value!)
      return 0
    }
    return -this.#give(topic)
  }

  #give(topic: string): number {
    let alias = this.#aliases.size + 1
    if (alias > this.#max) {
      const [oldest, its] = this.#aliases.entries().next().value!
      this.#aliases.delete(oldest)
      alias = its
    }
    this.#aliases.set(topic, alias)
    return alias
  }
}
