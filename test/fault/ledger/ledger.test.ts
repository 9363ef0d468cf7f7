// The ledger: a short round under faults, and the checker itself against books of brokers that cheat.
import { describe, expect, test } from 'vitest'
import { seededRandom } from '../../support/random.ts'
import { check, keyOf, tally, type Book, type Sent } from './ledger.ts'
import { runRound } from './round.ts'

const sent: Sent[] = Array.from({ length: 10 }, (_, n) => ({
  publisher: 'p',
  topic: 't',
  qos: n % 2 === 0 ? 1 : 2,
  n,
}))
const keys = sent.map(keyOf)
const book = (received: readonly string[], acknowledged: readonly string[] = keys): Book => ({
  sent,
  acknowledged: new Set(acknowledged),
  received: new Map([['s', received]]),
  wants: () => true,
})

describe('the checker', () => {
  test('an honest broker: complete, in order; QoS 1 may come twice, what was not acknowledged may be missing', () => {
    expect(check(book(keys))).toEqual([])
    expect(check(book([...keys.slice(0, 3), keys[0]!, ...keys.slice(3)]))).toEqual([])
    expect(check(book(keys.slice(0, 9), keys.slice(0, 9)))).toEqual([])
  })

  test.each([
    ['loses one', keys.filter((_, n) => n !== 4), ['s never got p 1 4, which was acknowledged']],
    ['doubles a QoS 2', [...keys, keys[3]!], ['s got p 2 3 2 times']],
    ['swaps two of one QoS', [keys[2]!, keys[1]!, keys[0]!, ...keys.slice(3)], ['s got p 1 0 after p 1 2']],
    ['invents one', [...keys, 'p 1 99'], ['s got p 1 99, which nobody sent']],
  ])('a broker that %s is caught', (_, received, problems) => expect(check(book(received))).toEqual(problems))

  test('problems are counted by kind', () => {
    const problems = check(book([keys[2]!, keys[1]!, keys[0]!, ...keys.slice(5), keys[5]!, 'p 1 99']))
    expect(tally([...problems, 'died by itself: why'])).toEqual({
      lost: 2,
      doubled: 1,
      misordered: 1,
      other: 2,
    })
  })

  test('what nobody asked for is caught', () => {
    expect(check({ ...book(keys.slice(0, 1), []), wants: () => false })).toEqual([
      's got p 1 0 on t, which it does not want',
    ])
  })
})

const faults = {
  redis: 'nodes killed and paused, Redis killed and cut off',
  sentinel: 'and failovers of Sentinel',
  cluster: 'and failovers of Redis Cluster',
  file: 'one node that is killed and paused',
}

test.each(Object.entries(faults) as [keyof typeof faults, string][])(
  'a short round on %s, %s: every acknowledged message is there, QoS 2 once, in order',
  async (store) => {
    const { seed } = seededRandom()
    const result = await runRound({ seconds: store === 'redis' ? 5 : 3, nodes: 3, seed, store })
    console.log(
      `SEED=${seed}: ${result.sent} sent, ${result.acknowledged} acknowledged, ${result.received} received\n${result.faults.join('\n')}`,
    )
    expect(result.problems.slice(0, 20)).toEqual([])
    expect(result.acknowledged).toBeGreaterThan(100)
  },
  180_000,
)
