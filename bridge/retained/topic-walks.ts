// The topics that a filter matches, in slices: one SUBSCRIBE may have a thousand filters that each look
// through all topics and find nothing. State: who waits for a turn. All walks together wait for one turn at a
// time: who else waits comes in between.
import type { TopicTrie } from '../matching/topic-trie.ts'
import { hasWildcard } from '../matching/topic.ts'
import { nextTurn, Slice, turnIsOver } from '../pace/turns.ts'

export class TopicWalks {
  #resting = Promise.resolve()

  /** A filter without wildcards is its topic, whether it is there or not. */
  async *topics(trie: TopicTrie<unknown>, filter: string): AsyncGenerator<string, undefined> {
    if (!hasWildcard(filter)) return void (yield filter)
    if (turnIsOver()) await this.#rest()
    let slice = new Slice()
    for (const found of trie.walk(filter)) {
      if (found !== undefined) yield found[0]
      else if (slice.isOver) {
        await this.#rest()
        slice = new Slice()
      }
    }
  }

  async has(trie: TopicTrie<unknown>, filter: string): Promise<boolean> {
    return hasWildcard(filter) ? (await this.topics(trie, filter).next()).done !== true : trie.has(filter)
  }

  #rest(): Promise<void> {
    return (this.#resting = this.#resting.then(nextTurn))
  }
}
