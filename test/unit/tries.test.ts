// The two tries against the plain rule of topic.ts (`filterMatches`), with random filters and topics: `$`
// topics, empty levels, `+`, `#`, filters that come and go while their matches are remembered. A remembered
// match is never stale, the cache is bounded and a matter of speed only, and a remembered array stays the
// same array while the set of its filters does.
import { describe, expect, test } from 'vitest'
import { FilterTrie } from '../../bridge/matching/filter-trie.ts'
import { filterMatches, isValidFilter, isValidTopic } from '../../bridge/matching/topic.ts'
import { TopicTrie } from '../../bridge/matching/topic-trie.ts'
import { seededRandom, type Random } from '../support/random.ts'

// Few names, so that much matches; the empty level and the `$` level among them, at every place.
const names = ['', 'a', 'b', '$', '$SYS', '$a', '×']

function randomTopic(random: Random): string {
  const topic = Array.from({ length: 1 + random.below(4) }, () => random.pick(names)).join('/')
  return isValidTopic(topic) ? topic : randomTopic(random)
}

function randomFilter(random: Random): string {
  const levels: string[] = Array.from({ length: 1 + random.below(4) }, () =>
    random.below(3) === 0 ? '+' : random.pick(names),
  )
  if (random.below(3) === 0) levels[levels.length - 1] = '#'
  const filter = levels.join('/')
  return isValidFilter(filter) ? filter : randomFilter(random)
}

const sorted = (list: Iterable<string>): string[] => [...list].sort()

/** Four thousand random steps on a FilterTrie and on a set; every match is compared. */
function checkFilterTrie(random: Random, cacheMax: number | undefined): void {
  const trie = new FilterTrie<string>(cacheMax)
  const model = new Set<string>()
  for (let step = 0; step < 4_000; step++) {
    const filter = randomFilter(random)
    switch (random.below(5)) {
      case 0:
        if (!model.has(filter)) trie.add(filter, filter)
        model.add(filter)
        break
      case 1: {
        const gone = model.size > 0 && random.below(2) === 0 ? random.pick([...model]) : filter
        trie.delete(gone)
        model.delete(gone)
        break
      }
      default: {
        const topic = randomTopic(random)
        const wanted = sorted([...model].filter((candidate) => filterMatches(candidate, topic)))
        expect(sorted(trie.match(topic)), `seed ${random.seed} step ${step} topic '${topic}'`).toEqual(wanted)
        expect(trie.get(filter), `seed ${random.seed} step ${step} filter '${filter}'`).toBe(
          model.has(filter) ? filter : undefined,
        )
      }
    }
    expect(trie.size).toBe(model.size)
  }
  for (const filter of model) trie.delete(filter)
  expect(trie.size).toBe(0)
  for (let i = 0; i < 100; i++) expect(trie.match(randomTopic(random))).toEqual([])
}

/** For whom each look at the clock is one too late. */
const hurried = { isOver: true }

describe('filter trie', () => {
  test('in slices: what is there all the while is found, what never is there is not, and nothing old is remembered', () => {
    const random = seededRandom()
    let changes = 0
    for (let round = 0; round < 300; round++) {
      const trie = new FilterTrie<string>()
      const model = new Set<string>()
      const change = (): void => {
        const filter = model.size > 200 ? random.pick([...model]) : randomFilter(random)
        if (model.has(filter)) trie.delete(filter)
        else trie.add(filter, filter)
        if (!model.delete(filter)) model.add(filter)
      }
      while (model.size < 100) change()
      const topic = randomTopic(random)
      const matches = (filter: string): boolean => filterMatches(filter, topic)
      const [always, ever] = [new Set(model), new Set(model)]
      const making = trie.matching(topic)
      let found = making.goOn(hurried)
      for (; found === undefined; found = making.goOn(hurried)) {
        for (let n = random.below(3); n > 0; n--, changes++) change()
        for (const filter of always) if (!model.has(filter)) always.delete(filter)
        for (const filter of model) ever.add(filter)
      }
      const at = `seed ${random.seed} round ${round} topic '${topic}'`
      expect(
        [...always].filter(matches).filter((filter) => !found.includes(filter)),
        at,
      ).toEqual([])
      expect(
        found.filter((filter) => !ever.has(filter) || !matches(filter)),
        at,
      ).toEqual([])
      expect(sorted(trie.match(topic)), at).toEqual(sorted([...model].filter(matches)))
    }
    expect(changes).toBeGreaterThan(100)
  })

  test.each([undefined, 0, 1, 7])(
    'finds what the plain rule finds, with a cache of %s topics',
    (cacheMax) => {
      checkFilterTrie(seededRandom(), cacheMax)
    },
  )

  test('[MQTT-4.7.2-1] wildcards at the first level do not match `$` topics', () => {
    const trie = new FilterTrie<string>()
    for (const filter of ['#', '+/a', '+/#', '$SYS/#', '$SYS/+', '$SYS/a']) trie.add(filter, filter)
    expect(sorted(trie.match('$SYS/a'))).toEqual(['$SYS/#', '$SYS/+', '$SYS/a'])
    expect(sorted(trie.match('x/a'))).toEqual(['#', '+/#', '+/a'])
    expect(sorted(trie.match('x'))).toEqual(['#', '+/#']) // `#` takes in the parent level
  })

  test('a remembered array stays the same array until a filter of its topic comes or goes', () => {
    const trie = new FilterTrie<string>()
    trie.add('a/+', 'one')
    const first = trie.match('a/b')
    trie.add('b/+', 'other')
    trie.delete('b/+')
    expect(trie.match('a/b')).toBe(first)
    trie.add('#', 'two')
    expect(trie.match('a/b')).not.toBe(first)
    expect(sorted(trie.match('a/b'))).toEqual(['one', 'two'])
  })

  test('the cache is bounded: the oldest topics are forgotten, the others are not', () => {
    const trie = new FilterTrie<string>(8)
    trie.add('#', 'all')
    const old = trie.match('topic/0')
    for (let n = 1; n < 8; n++) trie.match(`topic/${n}`)
    const young = trie.match('topic/7')
    expect(trie.match('topic/0')).toBe(old)
    trie.match('topic/8') // the ninth
    expect(trie.match('topic/7')).toBe(young)
    expect(trie.match('topic/0')).not.toBe(old)
    expect(trie.match('topic/0')).toEqual(['all'])
  })

  test('what is remembered is bounded in memory, however long the topics are', () => {
    const trie = new FilterTrie<string>(100)
    trie.add('#', 'all')
    for (let n = 0; n < 100; n++) {
      expect(trie.match(`${n}${'/a'.repeat(n % 99)}`)).toEqual(['all'])
      expect(trie.match(`${n}${'a'.repeat(60_000)}`)).toEqual(['all'])
      expect(trie.cachedCost).toBeLessThanOrEqual(200_000)
    }
    expect(trie.match('99')).toBe(trie.match('99'))
    trie.delete('#')
    expect(trie.cachedCost).toBe(0)
  })

  test('as many levels as a topic can have', () => {
    const topic = '/'.repeat(65_535)
    const trie = new FilterTrie<string>()
    const matching = ['#', topic, `${topic}#`, '/'.repeat(65_534) + '+/#']
    for (const filter of [...matching, `${topic}a`, `${topic}/+`]) trie.add(filter, filter)
    expect(sorted(trie.match(topic))).toEqual(sorted(matching))
  })
})

describe('topic trie', () => {
  test('finds what the plain rule finds while topics come and go', () => {
    const random = seededRandom()
    const trie = new TopicTrie<string>()
    const model = new Map<string, string>()
    for (let step = 0; step < 4_000; step++) {
      const topic = randomTopic(random)
      const filter = randomFilter(random)
      const at = `seed ${random.seed} step ${step} topic '${topic}' filter '${filter}'`
      switch (random.below(4)) {
        case 0:
          trie.set(topic, `value ${step}`)
          model.set(topic, `value ${step}`)
          break
        case 1:
          expect(trie.delete(topic), at).toBe(model.delete(topic))
          break
        default:
          expect(sorted([...trie.match(filter)].map((found) => found.join(' = '))), at).toEqual(
            sorted(
              [...model]
                .filter(([candidate]) => filterMatches(filter, candidate))
                .map((found) => found.join(' = ')),
            ),
          )
          expect(trie.get(topic), at).toBe(model.get(topic))
          expect(trie.has(topic), at).toBe(model.has(topic))
      }
      expect(trie.size, at).toBe(model.size)
    }
    trie.clear()
    expect([trie.size, ...trie.match('#'), ...trie.match('$SYS/#')]).toEqual([0])
  })

  test('a branch goes with its last topic, not before', () => {
    const trie = new TopicTrie<number>()
    trie.set('a/b/c', 1)
    trie.set('a/b', 2)
    expect(trie.delete('a/b/c')).toBe(true)
    expect(trie.delete('a/b/c')).toBe(false)
    expect(trie.delete('a')).toBe(false)
    expect([...trie.match('a/#')]).toEqual([['a/b', 2]])
  })

  test('matching is lazy: the caller may stop', () => {
    const trie = new TopicTrie<number>()
    for (let n = 0; n < 10; n++) trie.set(`a/${n}`, n)
    for (const [topic] of trie.match('#')) {
      expect(topic).toMatch(/^a\//)
      break
    }
    expect(trie.size).toBe(10)
  })
})

test('a walk through many topics that finds nothing rests now and then', () => {
  const trie = new TopicTrie<number>()
  for (let n = 0; n < 20_000; n++) trie.set(`a/${n}/b`, n)
  const found = [...trie.walk('+/+/c')]
  expect(found.length).toBeGreaterThan(5)
  expect(new Set(found)).toEqual(new Set([undefined]))
  expect([...trie.match('+/+/c')]).toEqual([])
  expect([...trie.walk('a/+/b')].filter((each) => each !== undefined)).toHaveLength(20_000)
})
