// Topic Filters → entries, found by Topic Names: the subscriptions of a node, the routes of a cluster. State:
// this process. Filters without wildcards live in a map, the others in a trie. What matches a topic is
// remembered, in a cache bounded in topics and in memory that is invalidated exactly: when a filter comes or
// goes, the remembered topics that it matches are forgotten. A remembered array stays the same array while
// the set of its filters does; entries may change inside. What others make of an array is charged to its
// topic (match-cache.ts), and goes with it. Half a million filters may match one topic: they are looked for in
// slices (`matching`). What comes or goes meanwhile is found or not; then nothing is remembered.
import { atOnce, type Making, type Pace } from './making.ts'
import { filterMatches, hasWildcard } from './topic.ts'
import { TopicTrie } from './topic-trie.ts'
import { worked } from '../pace/turns.ts'

interface Level<Entry> {
  readonly name: string
  /** The levels that follow: most have one, which needs no map. */
  next: Level<Entry> | Map<string, Level<Entry>> | undefined
  /** The entry of the filter that ends here, and of the one that goes on with `#`. */
  here: Entry | undefined
  below: Entry | undefined
}

/** Levels looked at before the clock is. */
const levelsAtOnce = 64

/** Memory for each remembered topic, on average; and of one of its levels. */
const cachedBytes = 2_000
const levelBytes = 200

interface Remembered<Entry> {
  readonly entries: readonly Entry[]
  /** Bytes, with what was charged. */
  cost: number
}

/** What remembering a topic costs, bytes: its text, its levels, its matches. */
function costOf(topic: string, matches: number): number {
  let levels = 1
  for (let at = topic.indexOf('/'); at >= 0; at = topic.indexOf('/', at + 1)) levels++
  return topic.length * 2 + levels * levelBytes + matches * 8
}

const newLevel = <Entry>(name: string): Level<Entry> => ({
  name,
  next: undefined,
  here: undefined,
  below: undefined,
})

function nextOf<Entry>({ next }: Level<Entry>, name: string): Level<Entry> | undefined {
  if (next instanceof Map) return next.get(name)
  return next?.name === name ? next : undefined
}

function addNext<Entry>(level: Level<Entry>, next: Level<Entry>): void {
  if (level.next === undefined) level.next = next
  else if (level.next instanceof Map) level.next.set(next.name, next)
  else
    level.next = new Map([
      [level.next.name, level.next],
      [next.name, next],
    ])
}

function removeNext<Entry>(level: Level<Entry>, next: Level<Entry>): void {
  if (level.next instanceof Map) level.next.delete(next.name)
  if (level.next === next || (level.next instanceof Map && level.next.size === 0)) level.next = undefined
}

/**
 * Looks for the filters that match a topic. Level by level: 2^16 filters may match, and an object for each step would
 * cost more than the step.
 */
class Walk<Entry> {
  readonly topic: string
  readonly found: Entry[] = []
  /** A filter that matches came or went meanwhile. */
  isStale = false
  readonly #names: readonly string[]
  readonly #isHidden: boolean
  #at = 0
  #levels: Level<Entry>[]
  #next: Level<Entry>[] = []
  #i = 0

  /** @param root of the filters with wildcards; undefined: there are none */
  constructor(topic: string, exact: Entry | undefined, root: Level<Entry> | undefined) {
    this.topic = topic
    if (exact !== undefined) this.found.push(exact)
    this.#levels = root === undefined ? [] : [root]
    this.#names = root === undefined ? [] : topic.split('/')
    this.#isHidden = topic.startsWith('$') // [MQTT-4.7.2-1]: not for filters that begin with a wildcard
  }

  /** False: there is more to be looked at. */
  goOn(slice: Pace): boolean {
    while (this.#levels.length > 0) {
      const end = Math.min(this.#levels.length, this.#i + levelsAtOnce)
      worked(end - this.#i)
      this.#look(end)
      if (this.#i === this.#levels.length) {
        this.#levels = this.#next
        this.#next = []
        this.#i = 0
        this.#at++
      }
      if (slice.isOver && this.#levels.length > 0) return false
    }
    return true
  }

  #look(end: number): void {
    const { found } = this
    const [levels, next] = [this.#levels, this.#next]
    const isEnd = this.#at === this.#names.length
    const name = this.#names[this.#at]
    const hides = this.#isHidden && this.#at === 0
    for (let i = this.#i; i < end; i++) {
      const level = levels[i]!
      if (level.below !== undefined && !hides) found.push(level.below)
      if (isEnd) {
        if (level.here !== undefined) found.push(level.here)
        continue
      }
      if (level.next === undefined) continue
      const same = nextOf(level, name!)
      if (same !== undefined) next.push(same)
      const any = hides ? undefined : nextOf(level, '+')
      if (any !== undefined) next.push(any)
    }
    this.#i = end
  }
}

export class FilterTrie<Entry> {
  readonly #exact = new Map<string, Entry>()
  readonly #wildcards = newLevel<Entry>('')
  #wildcardCount = 0
  readonly #cacheMax: number
  readonly #cache = new Map<string, Remembered<Entry>>()
  readonly #cachedTopics = new TopicTrie<true>()
  #cachedCost = 0
  /** Those that were more than a slice, and are not done. */
  readonly #walks = new Set<Walk<Entry>>()

  /** @param cacheMax topics whose matches are remembered; a matter of speed only */
  constructor(cacheMax = 10_000) {
    this.#cacheMax = cacheMax
  }

  /** What is remembered costs so much memory, bytes. */
  get cachedCost(): number {
    return this.#cachedCost
  }

  get size(): number {
    return this.#exact.size + this.#wildcardCount
  }

  /** Every entry that stays while they are being walked, whatever comes and goes meanwhile. */
  *values(): Iterable<Entry> {
    yield* this.#exact.values()
    // a level may have a million children: none are copied
    const walks: Iterator<Level<Entry>>[] = [[this.#wildcards].values()]
    for (let walk = walks.at(-1); walk !== undefined; walk = walks.at(-1)) {
      const step = walk.next()
      if (step.done === true) {
        walks.pop()
        continue
      }
      const { here, below, next } = step.value
      if (here !== undefined) yield here
      if (below !== undefined) yield below
      if (next !== undefined) walks.push(next instanceof Map ? next.values() : [next].values())
    }
  }

  /**
   * The levels on the way to a wildcard filter, the first one first; its last `#` belongs to the level before
   * it.
   */
  #path(filter: string, make: boolean): { path: Level<Entry>[]; below: boolean } | undefined {
    const names = filter.split('/')
    const below = names.at(-1) === '#'
    if (below) names.pop()
    let level = this.#wildcards
    const path = [level]
    for (const name of names) {
      let next = nextOf(level, name)
      if (next === undefined) {
        if (!make) return undefined
        next = newLevel(name)
        addNext(level, next)
      }
      path.push((level = next))
    }
    return { path, below }
  }

  get(filter: string): Entry | undefined {
    if (!hasWildcard(filter)) return this.#exact.get(filter)
    const found = this.#path(filter, false)
    return found?.path.at(-1)![found.below ? 'below' : 'here']
  }

  /** Adds a filter that is not there. */
  add(filter: string, entry: Entry): void {
    if (!hasWildcard(filter)) this.#exact.set(filter, entry)
    else {
      const { path, below } = this.#path(filter, true)!
      path.at(-1)![below ? 'below' : 'here'] = entry
      this.#wildcardCount++
    }
    this.#forget(filter)
  }

  delete(filter: string): void {
    if (!hasWildcard(filter)) {
      if (!this.#exact.delete(filter)) return
    } else {
      const found = this.#path(filter, false)
      const place = found?.below === true ? 'below' : 'here'
      const last = found?.path.at(-1)
      if (last?.[place] === undefined) return
      last[place] = undefined
      this.#wildcardCount--
      const { path } = found!
      for (let at = path.length - 1; at > 0; at--) {
        // what leads nowhere goes
        const { here, below, next } = path[at]!
        if (here !== undefined || below !== undefined || next !== undefined) break
        removeNext(path[at - 1]!, path[at]!)
      }
    }
    this.#forget(filter)
  }

  /** The entries of all filters that match `topic`, in no particular order; the array must not be changed. */
  match(topic: string): readonly Entry[] {
    return this.known(topic) ?? this.matching(topic).goOn(atOnce)!
  }

  /** The same, if it is remembered. */
  known(topic: string): readonly Entry[] | undefined {
    return this.#cache.get(topic)?.entries
  }

  /** The same in slices, as of the first one. */
  matching(topic: string): Making<readonly Entry[]> {
    let walk: Walk<Entry> | undefined
    return {
      goOn: (slice) => {
        const wildcards = this.#wildcardCount > 0 ? this.#wildcards : undefined
        walk ??= new Walk(topic, this.#exact.get(topic), wildcards)
        if (!walk.goOn(slice)) return void this.#walks.add(walk)
        this.#walks.delete(walk)
        return walk.isStale ? walk.found : this.#remember(topic, walk.found)
      },
    }
  }

  #remember(topic: string, entries: readonly Entry[]): readonly Entry[] {
    const known = this.known(topic) // of who asked meanwhile
    if (this.#cacheMax === 0 || known !== undefined) return known ?? entries
    const cost = costOf(topic, entries.length)
    if (this.#cache.size >= this.#cacheMax) this.#evict()
    this.#makeRoom(cost)
    this.#cache.set(topic, { entries, cost })
    this.#cachedTopics.set(topic, true)
    this.#cachedCost += cost
    return entries
  }

  /**
   * What somebody keeps for `entries`, as they were returned for `topic`, takes so many bytes; a later call
   * takes the place of an earlier one. Older topics are forgotten for it, and at last this one.
   */
  charge(topic: string, entries: readonly Entry[], bytes: number): void {
    const remembered = this.#cache.get(topic)
    if (remembered?.entries !== entries) return
    const more = costOf(topic, entries.length) + bytes - remembered.cost
    if (more > 0) this.#makeRoom(more)
    if (!this.#cache.has(topic)) return
    remembered.cost += more
    this.#cachedCost += more
  }

  #makeRoom(bytes: number): void {
    while (this.#cache.size > 0 && this.#cachedCost + bytes > this.#cacheMax * cachedBytes) this.#evict()
  }

  /** The oldest quarter goes: rare, and cheaper than keeping an order of use. */
  #evict(): void {
    let left = Math.ceil(this.#cache.size / 4)
    for (const topic of this.#cache.keys()) {
      if (left-- === 0) break
      this.#forgetTopic(topic)
    }
  }

  #forgetTopic(topic: string): void {
    const remembered = this.#cache.get(topic)
    if (remembered === undefined) return
    this.#cachedCost -= remembered.cost
    this.#cache.delete(topic)
    this.#cachedTopics.delete(topic)
  }

  #forget(filter: string): void {
    for (const walk of this.#walks) if (filterMatches(filter, walk.topic)) walk.isStale = true
    if (this.#cache.size === 0) return
    if (!hasWildcard(filter)) this.#forgetTopic(filter)
    else for (const [topic] of [...this.#cachedTopics.match(filter)]) this.#forgetTopic(topic)
  }
}
