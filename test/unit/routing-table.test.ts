// The routing table against a naive model (node → filter → kind) with random changes: which nodes a topic
// goes to, for QoS ≥ 1 and for QoS 0, whatever came, went, was said twice, left with its node or was replaced
// at once by a snapshot. What `match` remembers is never stale.
import { expect, test } from 'vitest'
import { RouteKind, RoutingTable } from '../../bridge/routes/routing-table.ts'
import { SessionOption } from '../../bridge/sessions/session-options.ts'
import { filterMatches } from '../../bridge/matching/topic.ts'
import { seededRandom, type Random } from '../support/random.ts'

const nodes = ['a@1', 'b@2', 'c@3', 'd@4']
const filters = ['#', '+', 'x', 'x/#', 'x/+', 'x/y', '+/y', 'y/y', '$SYS/#', '/']
const topics = ['x', 'x/y', 'x/z', 'y/y', 'y', '$SYS/y', '/', 'x/y/z']

type Model = Map<string, Map<string, number>>

function set(model: Model, nodeId: string, filter: string, kind: number): void {
  const routes = model.get(nodeId) ?? new Map<string, number>()
  if (kind === 0) routes.delete(filter)
  else routes.set(filter, kind)
  if (routes.size === 0) model.delete(nodeId)
  else model.set(nodeId, routes)
}

function entriesOf(model: Model): { nodeId: string; filter: string; kind: number }[] {
  return [...model].flatMap(([nodeId, routes]) =>
    [...routes].map(([filter, kind]) => ({ nodeId, filter, kind })),
  )
}

const sorted = (list: Iterable<{ nodeId: string; filter: string; kind: number }>): string[] =>
  [...list].map(({ nodeId, filter, kind }) => `${nodeId} ${filter} ${kind}`).sort()

function check(table: RoutingTable, model: Model, note: string): void {
  expect(sorted(table.entries()), note).toEqual(sorted(entriesOf(model)))
  expect(table.size, note).toBe(entriesOf(model).length)
  expect([...table.nodes].sort(), note).toEqual([...model.keys()].sort())
  for (const topic of topics) {
    const wants = (bits: number): string[] =>
      nodes.filter((nodeId) =>
        [...(model.get(nodeId) ?? [])].some(
          ([filter, kind]) => (kind & bits) !== 0 && filterMatches(filter, topic),
        ),
      )
    const targets = table.match(topic)
    expect(
      { everything: [...targets.everything].sort(), qos0: [...targets.qos0].sort() },
      `${note} topic '${topic}'`,
    ).toEqual({ everything: wants(RouteKind.everything), qos0: wants(RouteKind.everything | RouteKind.qos0) })
  }
}

function randomRoutes(random: Random, count: number): Model {
  const model: Model = new Map()
  for (let n = 0; n < count; n++) set(model, random.pick(nodes), random.pick(filters), 1 + random.below(3))
  return model
}

test('targets are those of the naive model, after every step', async () => {
  const random = seededRandom()
  const table = new RoutingTable()
  let model: Model = new Map()
  for (let step = 0; step < 800; step++) {
    const [nodeId, filter, kind] = [random.pick(nodes), random.pick(filters), random.below(4)]
    const action = random.below(40)
    if (action === 0) {
      model.delete(nodeId)
      await table.removeNode(nodeId)
    } else if (action === 1) {
      model = randomRoutes(random, random.below(20))
      for (const nodeId of nodes) await table.removeNode(nodeId)
      for (const { nodeId, filter, kind } of entriesOf(model)) table.set(nodeId, filter, kind)
    } else {
      set(model, nodeId, filter, kind)
      table.set(nodeId, filter, kind)
      if (action === 2) table.set(nodeId, filter, kind) // said twice
    }
    check(table, model, `seed ${random.seed} step ${step}`)
  }
})

test('a session is a target at the highest QoS of what matches, and for its own messages of what is not No Local', () => {
  const table = new RoutingTable()
  const target = (): unknown => table.match('x/y').sessions
  table.setSession('3s', 'x/+', 1)
  table.setSession('3t', 'x/+', 1 | SessionOption.noLocal)
  expect(target()).toEqual([
    { sid: '3s', qos: 1, ownQos: 1 },
    { sid: '3t', qos: 1, ownQos: 0 },
  ])
  table.setSession('3s', '#', 2 | SessionOption.noLocal)
  expect(target()).toContainEqual({ sid: '3s', qos: 2, ownQos: 1 })
  table.setSession('3s', 'x/y', 2)
  expect(target()).toContainEqual({ sid: '3s', qos: 2, ownQos: 2 })
  table.setSession('3s', '#', undefined)
  table.setSession('3s', 'x/y', undefined)
  expect(target()).toContainEqual({ sid: '3s', qos: 1, ownQos: 1 })
})

test('an unchanged topic costs a look-up: the same targets, until one of its routes changes', () => {
  const table = new RoutingTable()
  table.set('a@1', 'x/+', RouteKind.everything)
  const before = table.match('x/y')
  table.set('b@2', 'y', RouteKind.everything)
  table.set('a@1', 'x/+', RouteKind.everything)
  expect(table.match('x/y')).toBe(before)
  table.set('b@2', 'x/+', RouteKind.qos0) // the same filter, another node
  expect(table.match('x/y')).toMatchObject({ everything: ['a@1'], qos0: ['a@1', 'b@2'] })
})

test('the filters of sessions that ended are found among many of one level, in slices, while others come and go', async () => {
  const table = new RoutingTable()
  for (let n = 0; n < 130_000; n++) table.setSession(`s${n}`, `devices/${n}/#`, 1)
  for (const sid of ['s1', 's2', 's3']) table.setSession(sid, '+/shared', 1)
  let turns = 0
  const counting = setInterval(() => {
    table.setSession('s0', `devices/${turns}/+`, 1)
    table.setSession(`s${10_000 + ++turns}`, `devices/${10_000 + turns}/#`, undefined)
  }, 0)
  const found = await table.filtersOf(new Set(['s1', 's2', 's129999', 'nobody']))
  clearInterval(counting)
  expect(found.map(({ sid, filter }) => `${sid} ${filter}`).sort()).toEqual([
    's1 +/shared',
    's1 devices/1/#',
    's129999 devices/129999/#',
    's2 +/shared',
    's2 devices/2/#',
  ])
  expect(turns).toBeGreaterThan(0)
})

test('many routes of a node that is gone, or that names fewer than before, go in slices; what it names meanwhile stays', async () => {
  const filter = (n: number): string => `devices/${n}/#`
  const table = new RoutingTable()
  const fill = (): void => {
    for (let n = 0; n < 30_000; n++) table.set('a@1', filter(n), RouteKind.everything)
  }
  const here = (n: number): boolean => table.match(`devices/${n}`).everything.length > 0
  fill()
  const gone = table.removeNode('a@1')
  expect([table.nodes, here(0), here(20_000), here(29_999)]).toEqual([[], false, true, true])
  table.set('a@1', filter(0), RouteKind.everything)
  table.set('a@1', filter(29_999), RouteKind.everything)
  await gone
  expect([here(0), here(20_000), here(29_999)]).toEqual([true, false, true])
  fill()
  table.beginReassertion('a@1')
  table.set('a@1', filter(0), RouteKind.everything)
  const named = table.endReassertion('a@1')
  expect([here(1), here(28_000)]).toEqual([false, true])
  table.set('a@1', filter(29_999), RouteKind.everything)
  await named
  expect([table.size, here(0), here(29_999)]).toEqual([2, true, true])
})
