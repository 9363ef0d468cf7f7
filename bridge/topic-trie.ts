// Topic Names → values, found by Topic Filters: the Retained Messages of the cluster, and the topics whose matches a
// FilterTrie remembers. State: this process. Walking costs what the filter selects, not what the trie holds; a branch
// that holds nothing is removed with its last topic.
import { hasWildcard } from './topic.ts'

interface Level<Value> {
  readonly name: string
  readonly parent: Level<Value> | undefined
  next: Map<string, Level<Value>> | undefined
  topic: string | undefined
  value: Value | undefined
}

export class TopicTrie<Value> {
  readonly #root: Level<Value> = { name: '', parent: undefined, next: undefined, topic: undefined, value: undefined }
  #size = 0

  get size(): number {
    return this.#size
  }

  #find(topic: string): Level<Value> | undefined {
    let level: Level<Value> | undefined = this.#root
    for (const name of topic.split('/')) {
      level = level.next?.get(name)
      if (level === undefined) return undefined
    }
    return level
  }

  get(topic: string): Value | undefined {
    return this.#find(topic)?.value
  }

  has(topic: string): boolean {
    return this.#find(topic)?.topic !== undefined
  }

  set(topic: string, value: Value): void {
    let level = this.#root
    for (const name of topic.split('/')) {
      level.next ??= new Map()
      let next = level.next.get(name)
      if (next === undefined) {
        next = { name, parent: level, next: undefined, topic: undefined, value: undefined }
        level.next.set(name, next)
      }
      level = next
    }
    if (level.topic === undefined) this.#size++
    level.topic = topic
    level.value = value
  }

  delete(topic: string): boolean {
    let level = this.#find(topic)
    if (level?.topic === undefined) return false
    level.topic = undefined
    level.value = undefined
    this.#size--
    while (level.parent !== undefined && level.topic === undefined && level.next === undefined) {
      const parent: Level<Value> = level.parent
      parent.next!.delete(level.name)
      if (parent.next!.size === 0) parent.next = undefined
      level = parent
    }
    return true
  }

  clear(): void {
    this.#root.next = undefined
    this.#size = 0
  }

  /** The topics that `filter` matches, lazily: the caller may stop. Do not change the trie meanwhile. */
  *match(filter: string): Generator<[topic: string, value: Value]> {
    if (!hasWildcard(filter)) {
      const level = this.#find(filter)
      if (level?.topic !== undefined) yield [level.topic, level.value as Value]
      return
    }
    const wanted = filter.split('/')
    // Walked with a stack of its own: topics may have tens of thousands of levels.
    const stack: { level: Level<Value>; at: number }[] = [{ level: this.#root, at: 0 }]
    for (let step = stack.pop(); step !== undefined; step = stack.pop()) {
      const { level, at } = step
      const name = wanted[at]
      if (at === wanted.length) {
        if (level.topic !== undefined) yield [level.topic, level.value as Value]
      } else if (name === '#') {
        if (level.topic !== undefined) yield [level.topic, level.value as Value] // the parent level, too
        if (level.next !== undefined) for (const next of level.next.values()) if (level !== this.#root || !next.name.startsWith('$')) stack.push({ level: next, at })
      } else if (name === '+') {
        if (level.next !== undefined) for (const next of level.next.values()) if (at > 0 || !next.name.startsWith('$')) stack.push({ level: next, at: at + 1 }) // [MQTT-4.7.2-1]
      } else {
        const next = level.next?.get(name!)
        if (next !== undefined) stack.push({ level: next, at: at + 1 })
      }
    }
  }
}
