// `npm run test:ledger`: rounds of the ledger, each with a seed of its own that it prints; SEED or --seed replays one.
//   --seconds 60   how long faults go on in a round
//   --rounds 3     how many rounds
//   --nodes 3      nodes of the cluster
//   --store redis  what it stands on: redis, sentinel or cluster (these two fail over)
//   --seed N       seed of the first round; the next ones follow
import { parseArgs } from 'node:util'
import { runRound, stores } from './round.ts'

const { values } = parseArgs({ options: { seconds: { type: 'string', default: '60' }, rounds: { type: 'string', default: '3' }, nodes: { type: 'string', default: '3' }, store: { type: 'string', default: 'redis' }, seed: { type: 'string', default: process.env.SEED ?? String(Date.now() % 1_000_000_007) } } })

const store = values.store as keyof typeof stores
if (!(store in stores)) throw new Error(`--store is one of ${Object.keys(stores).join(', ')}`)
let broken = 0
for (let round = 0; round < Number(values.rounds); round++) {
  const result = await runRound({ seconds: Number(values.seconds), nodes: Number(values.nodes), seed: Number(values.seed) + round, store })
  console.log(`seed ${result.seed}: ${result.sent} sent, ${result.acknowledged} acknowledged, ${result.received} received, ${result.connects} connects, ${result.faults.length} faults, ${result.problems.length} problems`)
  if (result.problems.length === 0) continue
  broken++
  console.log(result.faults.join('\n'))
  console.log(result.problems.slice(0, 40).join('\n'))
}
process.exitCode = broken === 0 ? 0 : 1
