// The routes of a node, against a journal that is as slow as the test likes: when `subscribed` resolves, the
// journal holds a route that covers the subscription (P2), whatever subscribes and unsubscribes the same
// filter in the same tick or while an append is under way. In the end the journal holds what is wanted, and
// one tick is one append.
import { describe, expect, test } from 'vitest'
import { OwnRoutes, type RouteChange } from '../../bridge/routes/own-routes.ts'
import { RouteKind } from '../../bridge/routes/routing-table.ts'
import { seededRandom } from '../support/random.ts'

const { everything, qos0 } = RouteKind
const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve)
  })

const turnsOf = async (count: number): Promise<void> => {
  for (let n = 0; n < count; n++) await turn()
}

/** A journal that stores one append at a time, in order, each when the test says so. */
class SlowJournal {
  readonly routes = new Map<string, number>()
  readonly appends: (readonly RouteChange[])[] = []
  readonly #waiting: (() => void)[] = []
  #before: Promise<unknown> = Promise.resolve()

  readonly append = (changes: readonly RouteChange[]): Promise<void> => {
    this.appends.push(changes)
    const turnCame = new Promise<void>((resolve) => {
      this.#waiting.push(resolve)
    })
    const stored = Promise.all([turnCame, this.#before]).then(() => {
      for (const { filter, kind } of changes) {
        if (kind === 0) this.routes.delete(filter)
        else this.routes.set(filter, kind)
      }
    })
    this.#before = stored
    return stored
  }

  get waiting(): number {
    return this.#waiting.length
  }

  /** The oldest append that waits is stored. */
  async store(): Promise<void> {
    this.#waiting.shift()?.()
    await turn()
  }
}

/** Whether a promise has settled; asked without waiting for it. */
function watch(promise: Promise<unknown>): { settled: boolean } {
  const state = { settled: false }
  promise.then(
    () => {
      state.settled = true
    },
    () => {
      state.settled = true
    },
  )
  return state
}

describe('subscribed resolves behind the append, not before', () => {
  test('the first subscription and those that find its append under way', async () => {
    const journal = new SlowJournal()
    const routes = new OwnRoutes(journal.append)
    const first = watch(routes.add('a', everything))
    await turn()
    const second = watch(routes.add('a', everything))
    await turn()
    expect([journal.waiting, first.settled, second.settled]).toEqual([1, false, false])
    await journal.store()
    expect([first.settled, second.settled]).toEqual([true, true])
    const third = watch(routes.add('a', everything)) // covered already
    await turn()
    expect([third.settled, journal.appends.length]).toEqual([true, 1])
  })

  test('a removal is under way: the new subscription waits for an append behind it', async () => {
    const journal = new SlowJournal()
    const routes = new OwnRoutes(journal.append)
    void routes.add('a', everything)
    await turn()
    await journal.store()
    routes.remove('a', everything)
    await turn()
    const again = watch(routes.add('a', everything))
    await turn()
    await journal.store() // the removal
    expect([again.settled, journal.routes.has('a')]).toEqual([false, false])
    await journal.store()
    expect([again.settled, journal.routes.get('a')]).toEqual([true, everything])
  })

  test('gone and back within one tick: nothing to tell, nothing to wait for', async () => {
    const journal = new SlowJournal()
    const routes = new OwnRoutes(journal.append)
    void routes.add('a', everything)
    await turn()
    await journal.store()
    routes.remove('a', everything)
    const again = watch(routes.add('a', everything))
    await turn()
    await turn()
    expect([again.settled, journal.appends.length, journal.routes.get('a')]).toEqual([true, 1, everything])
  })

  test('a subscription for everything beside one for QoS 0 widens the route; its end narrows it', async () => {
    const journal = new SlowJournal()
    const routes = new OwnRoutes(journal.append)
    void routes.add('a', qos0)
    await turn()
    const wider = watch(routes.add('a', everything))
    await turn()
    await journal.store()
    expect([journal.routes.get('a'), wider.settled]).toEqual([qos0, false])
    await journal.store()
    expect([journal.routes.get('a'), wider.settled]).toEqual([everything | qos0, true])
    routes.remove('a', everything)
    await turn()
    await journal.store()
    expect(journal.routes.get('a')).toBe(qos0)
  })

  test('a tick that ends where it began: who subscribed in it waits for the append that was under way before', async () => {
    const journal = new SlowJournal()
    const routes = new OwnRoutes(journal.append)
    void routes.add('a', everything)
    await turn() // its append is under way
    void routes.add('a', qos0)
    const second = watch(routes.add('a', everything))
    routes.remove('a', qos0)
    await turn()
    await turn()
    expect([second.settled, journal.routes.has('a')]).toEqual([false, false])
    await journal.store()
    expect([second.settled, journal.routes.get('a')]).toEqual([true, everything])
  })

  test('what cannot be stored rejects, also for those that found it under way', async () => {
    let refuse!: (error: Error) => void
    const routes = new OwnRoutes(
      () =>
        new Promise((_resolve, reject) => {
          refuse = reject
        }),
    )
    const first = routes.add('a', everything)
    await turn()
    const second = routes.add('a', everything)
    refuse(new Error('fenced'))
    await expect(first).rejects.toThrow('fenced')
    await expect(second).rejects.toThrow('fenced')
  })
})

test('a change that waits for company goes with it; whoever subscribed in that tick is told when it is stored', async () => {
  const journal = new SlowJournal()
  const routes = new OwnRoutes(journal.append)
  let come = (): void => undefined
  const company = new Promise<void>((resolve) => {
    come = resolve
  })
  const waits = watch(routes.add('a', everything, company))
  await turn()
  expect(journal.appends).toEqual([])
  const beside = watch(routes.add('b', everything))
  routes.writeNow()
  come()
  await turn()
  await turn()
  expect(journal.appends.map((changes) => changes.map(({ filter }) => filter))).toEqual([['a', 'b']])
  expect([waits.settled, beside.settled]).toEqual([false, false])
  await journal.store()
  expect([waits.settled, beside.settled]).toEqual([true, true])
  // company that does not come is not waited for
  const alone = watch(routes.add('c', everything, Promise.reject(new Error('none'))))
  await turnsOf(3)
  await journal.store()
  expect([alone.settled, journal.routes.get('c')]).toEqual([true, everything])
})

test('a tick of many subscriptions is one append', async () => {
  const journal = new SlowJournal()
  const routes = new OwnRoutes(journal.append)
  const all = Array.from({ length: 1_000 }, (_, n) => routes.add(`filter/${n % 500}`, everything))
  await turn()
  expect(journal.appends.map((changes) => changes.length)).toEqual([500])
  await journal.store()
  await Promise.all(all)
  expect([...routes.all()]).toHaveLength(500)
})

test('random subscribing and unsubscribing, random slowness: always covered, and equal in the end', async () => {
  const random = seededRandom()
  const journal = new SlowJournal()
  const routes = new OwnRoutes(journal.append)
  /** Subscriptions that were confirmed and not given up since: their routes must be in the journal. */
  const live: { filter: string; kind: number; confirmed: boolean; given: boolean }[] = []
  const check = (note: string): void => {
    for (const { filter, kind, confirmed, given } of live) {
      if (confirmed && !given)
        expect(
          (journal.routes.get(filter) ?? 0) & kind,
          `seed ${random.seed} ${note}: '${filter}' ${kind}`,
        ).toBe(kind)
    }
  }
  for (let step = 0; step < 2_500; step++) {
    const action = random.below(9)
    if (action < 3) {
      const one = {
        filter: random.pick(['a', 'b', 'c']),
        kind: random.pick([everything, qos0]),
        confirmed: false,
        given: false,
      }
      live.push(one)
      const company = random.below(2) === 0 ? undefined : turnsOf(random.below(4))
      routes.add(one.filter, one.kind, company).then(
        () => {
          one.confirmed = true
        },
        () => undefined,
      )
    } else if (action < 6 && live.length > 0) {
      const [one] = live.splice(random.below(live.length), 1)
      one!.given = true
      routes.remove(one!.filter, one!.kind)
    } else if (action === 6) await turn()
    else if (action === 7) routes.writeNow()
    else await journal.store()
    check(`step ${step}`)
  }
  for (const { filter, kind } of live.splice(0, Math.floor(live.length / 2))) routes.remove(filter, kind)
  await turnsOf(6)
  while (journal.waiting > 0) await journal.store()
  await turn()
  check('at the end')
  expect(live.every(({ confirmed }) => confirmed)).toBe(true)
  const wanted = new Map<string, number>()
  for (const { filter, kind } of live) wanted.set(filter, (wanted.get(filter) ?? 0) | kind)
  expect([...journal.routes].sort()).toEqual([...wanted].sort())
  expect([...routes.all()].map(({ filter, kind }) => [filter, kind]).sort()).toEqual([...wanted].sort())
})
