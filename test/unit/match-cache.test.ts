// What the tables of a node remember of topics: right after every change, and bounded in memory however many
// subscribers a topic has, here and of sessions. Memory is what the heap holds behind a collection.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, test } from 'vitest'
import { RoutingTable } from '../../bridge/routes/routing-table.ts'
import { LocalTable } from '../../broker/routing/local-table.ts'
import { seededRandom } from '../support/random.ts'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as () => void

function heapMiB(): number {
  collect()
  return process.memoryUsage().heapUsed / 1_048_576
}

const subscription = {
  qos: 1,
  noLocal: false,
  retainAsPublished: false,
  identifier: undefined,
  queued: 'no',
  since: undefined,
} as const
const shapes = {
  'one filter': ['f/#'],
  'two filters': ['f/#', 'f/+'],
  'filters that differ by topic': ['f/#', 'own'],
} as const
/** What the caches of a table may hold, MiB: each of these topics takes 0.5 to 1. */
const heldMax = 24
const topics = 150

test.each(Object.entries(shapes))(
  'ten thousand subscribers of %s and hundreds of topics: what is remembered is bounded',
  (_name, filters) => {
    const table = new LocalTable<object>()
    const [f, g] = filters
    for (let n = 0; n < 10_000; n++) {
      const subscriber = {}
      table.add(f, subscriber, subscription)
      if (g !== undefined) table.add(g === 'own' ? `f/${n}` : g, subscriber, subscription)
    }
    const before = heapMiB()
    for (let n = 0; n < topics; n++) expect(table.match(`f/${n}`).length).toBe(10_000)
    expect(heapMiB() - before).toBeLessThan(heldMax)
    expect(table.match('f/0').length).toBe(10_000) // the table lives until here
  },
)

test('ten thousand sessions with two filters and hundreds of topics: their targets are bounded, too', () => {
  const table = new RoutingTable()
  for (let n = 0; n < 10_000; n++) for (const filter of ['f/#', 'f/+']) table.setSession(`0${n}`, filter, 1)
  const before = heapMiB()
  for (let n = 0; n < topics; n++) expect(table.match(`f/${n}`).sessions.length).toBe(10_000)
  expect(heapMiB() - before).toBeLessThan(heldMax)
  expect(table.match('f/0').sessions.length).toBe(10_000)
})

test('what many topics share follows every change', () => {
  const random = seededRandom()
  const table = new LocalTable<{ name: number }>()
  const subscribers = Array.from({ length: 100 }, (_, name) => ({ name }))
  const [wide, narrow] = [new Set<number>(), new Set<number>()]
  for (let step = 0; step < 2_000; step++) {
    const { name } = random.pick(subscribers)
    const [filter, model] = random.below(3) === 0 ? (['f/1', narrow] as const) : (['f/#', wide] as const)
    if (random.below(3) === 0) {
      table.remove(filter, subscribers[name]!)
      model.delete(name)
    } else {
      table.add(filter, subscribers[name]!, subscription)
      model.add(name)
    }
    const topic = `f/${random.below(3)}`
    const wanted = topic === 'f/1' ? new Set([...wide, ...narrow]) : wide
    const found = table.match(topic).map(({ subscriber }) => subscriber.name)
    expect(
      found.sort((a, b) => a - b),
      `seed ${random.seed} step ${step}`,
    ).toEqual([...wanted].sort((a, b) => a - b))
  }
})

test('topics that the same filters match share what was made of them', () => {
  const table = new LocalTable<object>()
  for (let n = 0; n < 1_000; n++) table.add('f/#', {}, subscription)
  expect(table.match('f/1')).toBe(table.match('f/2'))
})

test('in slices: who is subscribed all the while is in it once, who never is is not, and nothing old is remembered', () => {
  const random = seededRandom()
  const hurried = { isOver: true }
  const filters = ['f/#', 'f/+', 'f/1', '+/1']
  let turns = 0
  for (let round = 0; round < 30; round++) {
    const table = new LocalTable<object>()
    const model = new Map<object, Set<string>>(Array.from({ length: 300 }, () => [{}, new Set()]))
    const subscribers = [...model.keys()]
    const change = (): void => {
      const [subscriber, filter] = [random.pick(subscribers), random.pick(filters)]
      if (model.get(subscriber)!.delete(filter)) table.remove(filter, subscriber)
      else {
        model.get(subscriber)!.add(filter)
        table.add(filter, subscriber, subscription)
      }
    }
    for (let n = 0; n < 400; n++) change()
    const subscribed = (): object[] => subscribers.filter((one) => model.get(one)!.size > 0)
    const [always, ever] = [new Set(subscribed()), new Set(subscribed())]
    const making = table.making('f/1')
    let made = making.goOn(hurried)
    for (; made === undefined; made = making.goOn(hurried), turns++) {
      if (random.below(3) === 0) change()
      for (const one of always) if (model.get(one)!.size === 0) always.delete(one)
      for (const one of subscribed()) ever.add(one)
    }
    const found = made.map(({ subscriber }) => subscriber)
    const at = `seed ${random.seed} round ${round}`
    expect(new Set(found).size, at).toBe(found.length)
    expect(
      [...always].filter((one) => !found.includes(one)),
      at,
    ).toEqual([])
    expect(
      found.filter((one) => !ever.has(one)),
      at,
    ).toEqual([])
    expect(new Set(table.match('f/1').map(({ subscriber }) => subscriber)), at).toEqual(new Set(subscribed()))
  }
  expect(turns).toBeGreaterThan(100)
})

test('a group that goes and comes back while the groups of its filter are looked through is found once', () => {
  const table = new RoutingTable()
  const nameOf = (n: number): string => `$share/${n}/t`
  for (let n = 0; n < 200; n++) table.set('node', nameOf(n), 1)
  const making = table.making('t')
  expect(making.goOn({ isOver: true })).toBeUndefined()
  table.set('node', nameOf(0), 0)
  table.set('node', nameOf(0), 1)
  const names = making.goOn({ isOver: false })!.groups.map(({ name }) => name)
  expect(names).toEqual(Array.from(new Set(names)))
  expect(names).toHaveLength(200)
})
