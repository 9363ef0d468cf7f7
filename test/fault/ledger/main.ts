// `npm run test:ledger`: rounds of the ledger, each with a seed of its own that it prints; SEED or --seed
// replays one; --help names the flags.
import { parseArgs } from 'node:util'
import { killAll } from '../../bench/children.ts'
import { tally } from './ledger.ts'
import { runRound, stores } from './round.ts'
import { runUpgrade } from './upgrade.ts'

const help = `npm run test:ledger -- [flags]: rounds of faults, with the books kept; each prints its seed

  --seconds N   how long faults go on in a round (60)
  --rounds N    how many rounds (3)
  --nodes N     nodes of the cluster (3)
  --store NAME  what it stands on: redis, sentinel or cluster (these two fail over), or file: one node without Redis (redis)
  --system NAME whose nodes: ours, or stock, which loses messages: its rounds are told and are no failure (ours)
  --faults WHAT all, or none: nodes and Redis are left alone, only clients come and go (all)
  --upgrade     instead of faults the nodes are replaced one by one behind HAProxy: the version that was released last by
                this build, and this one by a newer one
  --seed N      seed of the first round; the next ones follow (SEED, or the clock)
  --help        this text
`

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    seconds: { type: 'string', default: '60' },
    rounds: { type: 'string', default: '3' },
    nodes: { type: 'string', default: '3' },
    store: { type: 'string', default: 'redis' },
    system: { type: 'string', default: 'ours' },
    faults: { type: 'string', default: 'all' },
    upgrade: { type: 'boolean', default: false },
    seed: { type: 'string', default: process.env.SEED ?? String(Date.now() % 1_000_000_007) },
  },
})

if (values.help) {
  console.log(help)
  process.exit()
}

function oneOf<Name extends string>(flag: string, value: string, names: readonly Name[]): Name {
  const found = names.find((name) => name === value)
  if (found === undefined) throw new Error(`--${flag} is one of ${names.join(', ')}`)
  return found
}

const store = oneOf('store', values.store, Object.keys(stores) as (keyof typeof stores)[])
const system = oneOf('system', values.system, ['ours', 'stock'])
const faults = oneOf('faults', values.faults, ['all', 'none']) === 'all'
if (system === 'stock' && store !== 'redis') throw new Error('--system stock knows --store redis only')
process.on('exit', killAll)
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => process.exit(1))
let broken = 0
if (values.upgrade) {
  for (let round = 0; round < Number(values.rounds); round++) {
    const seed = Number(values.seed) + round
    const result = await runUpgrade({ seed, between: 3_000, paceMs: 2, times: 3 })
    const { lost, doubled, misordered, other } = tally(result.problems)
    console.log(
      `seed ${seed}: ${result.replaced} nodes replaced, ${result.sent} sent, ${result.acknowledged} acknowledged, ${result.received} received, ${result.connects} connects by ${result.attempts} sockets of clients that stay, ${result.problems.length} problems: ${lost} lost, ${doubled} doubled, ${misordered} misordered, ${other} other`,
    )
    if (result.problems.length > 0) broken++
    console.log(result.problems.slice(0, 40).join('\n'))
  }
  process.exit(broken === 0 ? 0 : 1)
}
for (let round = 0; round < Number(values.rounds); round++) {
  const result = await runRound({
    seconds: Number(values.seconds),
    nodes: Number(values.nodes),
    seed: Number(values.seed) + round,
    store,
    system,
    faults,
  })
  const { lost, doubled, misordered, other } = tally(result.problems)
  console.log(
    `seed ${result.seed}: ${result.sent} sent, ${result.acknowledged} acknowledged, ${result.received} received, ${result.connects} connects, ${result.faults.length} faults, ${result.problems.length} problems: ${lost} lost, ${doubled} doubled, ${misordered} misordered, ${other} other`,
  )
  if (result.problems.length === 0) continue
  if (system === 'ours') broken++
  console.log(result.faults.join('\n'))
  const rest = result.problems.filter((problem) => tally([problem]).other === 1)
  console.log(
    [...rest.slice(0, 20), ...result.problems.filter((problem) => !rest.includes(problem)).slice(0, 20)].join(
      '\n',
    ),
  )
}
process.exitCode = broken === 0 ? 0 : 1
