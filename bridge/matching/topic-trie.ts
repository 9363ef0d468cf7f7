// Topic Names → values, found by Topic Filters: the Retained Messages of the cluster, and the topics whose
// matches a FilterTrie remembers. State: this process. Walking costs what the filter selects, not what the
// trie holds; a branch that holds nothing is removed with its last topic.
import { tenantOf } from './tenant.ts'
import { hasWildcard } from './topic.ts'

interface Level<Value> {
  readonly name: string
  readonly parent: Level<Value> | undefined
  next: Map<string, Level<Value>> | undefined
  topic: string | undefined
  value: Value | undefined
}

const nothing = { size: 0, bytes: 0 } as const

/** Levels looked at between two topics that are found, or two rests: some tenths of a millisecond. */
const stepsMax = 2_000

/**
 * Memory that a topic takes, roughly: its text, and an object with a map for each level that it shares with
 * nobody.
 */
function topicBytes(topic: string): number {
  let levels = 1
  for (let at = topic.indexOf('/'); at >= 0; at = topic.indexOf('/', at + 1)) levels++
  return 100 + 2 * topic.length + 120 * levels
}

export class TopicTrie<Value> {
  readonly #root: Level<Value> = {
    name: '',
    parent: undefined,
    next: undefined,
    topic: undefined,
    value: undefined,
  }
  #size = 0
  #bytes = 0
  /** The same of each tenant. */
  readonly #tenants = new Map<string, { size: number; bytes: number }>()

  get size(): number {
    return this.#size
  }

  /** Memory that the topics take, roughly. */
  get bytes(): number {
    return this.#bytes
  }

  /** How many topics a tenant has here, and what they take. */
  ofTenant(tenant: string): { readonly size: number; readonly bytes: number } {
    return this.#tenants.get(tenant) ?? nothing
  }

  /** Those that have some. */
  get tenants(): readonly string[] {
    return [...this.#tenants.keys()]
  }

  #count(topic: string, by: 1 | -1): void {
    const bytes = by * topicBytes(topic)
    this.#size += by
    this.#bytes += bytes
    const name = tenantOf(topic)
    if (name === undefined) return
    let tenant = this.#tenants.get(name)
    if (tenant === undefined) this.#tenants.set(name, (tenant = { size: 0, bytes: 0 }))
    tenant.size += by
    tenant.bytes += bytes
    if (tenant.size === 0) this.#tenants.delete(name)
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
    if (level.topic === undefined) this.#count(topic, 1)
    level.topic = topic
    level.value = value
  }

  delete(topic: string): boolean {
    let level = this.#find(topic)
    if (level?.topic === undefined) return false
    level.topic = undefined
    level.value = undefined
    this.#count(topic, -1)
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
    this.#bytes = 0
    this.#tenants.clear()
  }

  /**
   * The topics that `filter` matches, lazily: the caller may stop, and what comes or goes meanwhile is given
   * or not.
   */
  *match(filter: string): Generator<[topic: string, value: Value]> {
    for (const found of this.walk(filter)) if (found !== undefined) yield found
  }

  /**
   * The same, and undefined now and then: of two million topics all may have to be seen to find one, and the
   * caller may have a turn to end.
   */
  *walk(filter: string): Generator<[topic: string, value: Value] | undefined> {
    if (!hasWildcard(filter)) {
      const level = this.#find(filter)
      if (level?.topic !== undefined) yield [level.topic, level.value as Value]
      return
    }
    const wanted = filter.split('/')
    // Walked with a stack of its own: topics may have tens of thousands of levels. It holds a place among the
    // neighbours, not all of them: a level may have hundreds of thousands below it.
    const stack: { levels: Iterator<Level<Value>>; at: number }[] = [{ levels: [this.#root].values(), at: 0 }]
    let steps = 0
    for (let step = stack.at(-1); step !== undefined; step = stack.at(-1)) {
      if (++steps % stepsMax === 0) yield undefined
      const { levels, at } = step
      const { value: level } = levels.next() as IteratorResult<Level<Value>, undefined>
      if (level === undefined) {
        stack.pop()
        continue
      }
      const name = wanted[at]
      if ((at === wanted.length || name === '#') && level.topic !== undefined)
        yield [level.topic, level.value as Value] // `#`: the parent level, too
      if (at === wanted.length || level.next === undefined) continue
      if (name === '#' || name === '+') {
        stack.push({
          levels: level === this.#root ? withoutDollar(level.next) : level.next.values(),
          at: name === '#' ? at : at + 1,
        })
      } else {
        const next = level.next.get(name!)
        if (next !== undefined) stack.push({ levels: [next].values(), at: at + 1 })
      }
    }
  }
}

/** [MQTT-4.7.2-1] */
function* withoutDollar<Value>(
  levels: ReadonlyMap<string, Level<Value>>,
): Generator<Level<Value>, undefined> {
  for (const level of levels.values()) if (!level.name.startsWith('$')) yield level
}
