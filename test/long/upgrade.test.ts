// A rolling upgrade (P11), by nodes of three builds behind HAProxy, under the ledger.
import { expect, test } from 'vitest'
import { runUpgrade } from '../fault/ledger/upgrade.ts'
import { seededRandom } from '../support/random.ts'

test('a rolling upgrade behind HAProxy, from the last release to this build and on to a newer one: nothing acknowledged is lost, QoS 2 comes once, nobody connects more often than nodes end, and what cannot read what is written is refused', async () => {
  const { seed } = seededRandom()
  const result = await runUpgrade({ seed, between: 40, paceMs: 400 })
  console.log(`SEED=${seed}: ${JSON.stringify({ ...result, problems: result.problems.length })}`)
  expect(result.problems.slice(0, 20)).toEqual([])
}, 180_000)
