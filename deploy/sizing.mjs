// How many nodes and Redis servers a fleet wants, roughly: `node deploy/sizing.mjs --devices 100000 --rate 0.1`, or
// without flags the table that deploy/README.md shows. What a message and a connection cost are figures of
// BENCHMARKS.md, taken on two shared cores: measure your own (`npm run bench -- --shapes`) and give them as flags.
import { parseArgs } from 'node:util'

/** What the flags mean, and what they are when nobody says. */
const flags = {
  devices: [10_000, 'devices that are connected, each with a subscription of its own'],
  rate: [0.1, 'messages that one device publishes in a second, QoS 1'],
  subscribers: [1, 'subscribers that each message reaches'],
  persistent: [0.5, 'share of the subscribers whose session outlives its connection (0 to 1)'],
  bytes: [200, 'bytes of a payload'],
  queued: [10, 'messages that wait for a persistent session that is away, at most, on average'],
  load: [0.5, 'share of a core that may be used: the rest is for a node that died, and for peaks'],
  nodeClean: [173, 'µs of node CPU a delivery, QoS 1, clean session (p2p-clean-1K-1K-5K-across)'],
  redisClean: [44, 'µs of Redis CPU for the same'],
  nodePersistent: [
    205,
    'µs of node CPU a delivery, QoS 1, persistent session (p2p-persistent-1K-1K-5K-across)',
  ],
  redisPersistent: [90, 'µs of Redis CPU for the same'],
  connection: [12_900, 'bytes of a node for an idle connection (B8)'],
  route: [308, 'bytes of each node for a subscription of the cluster (B7)'],
  session: [450, 'bytes of Redis for a persistent session that is away (F10)'],
}

const { values } = parseArgs({
  options: {
    help: { type: 'boolean', default: false },
    ...Object.fromEntries(Object.keys(flags).map((name) => [name, { type: 'string' }])),
  },
})

function numberOf(name) {
  const text = values[name]
  if (text === undefined) return flags[name][0]
  const number = Number(text)
  if (text.trim() === '' || !Number.isFinite(number) || number < 0) {
    console.error(`--${name} is a number, 0 or more, and not ${JSON.stringify(text)}: ${flags[name][1]}`)
    process.exit(2)
  }
  return number
}

const gib = (bytes) => `${(bytes / 2 ** 30).toPrecision(2)} GiB`
/** Sessions and Retained Messages of a cluster lie in so many partitions: more servers have nothing to do. */
const partitions = 16
/** A process has one core for its messages; three are the fewest that survive one. */
const most = (cores, load, fewest) => Math.max(fewest, Math.ceil(cores / load))

function sizeOf(fleet) {
  const deliveries = fleet.devices * fleet.rate * fleet.subscribers
  const cores = (clean, persistent) =>
    (deliveries * (clean * (1 - fleet.persistent) + persistent * fleet.persistent)) / 1e6
  const nodes = most(cores(fleet.nodeClean, fleet.nodePersistent), fleet.load, 3)
  const redis = most(cores(fleet.redisClean, fleet.redisPersistent), fleet.load, 1)
  const sessions = fleet.devices * fleet.persistent
  return {
    deliveries: Math.round(deliveries),
    nodes,
    memoryOfNode: gib(
      2 ** 27 + (fleet.devices / (nodes - 1)) * fleet.connection + fleet.devices * fleet.route,
    ),
    redis,
    memoryOfRedis: gib(
      (2 ** 26 + sessions * (fleet.session + fleet.queued * (fleet.bytes + 100))) / redis + 2 ** 26,
    ),
  }
}

const fleetOf = () => Object.fromEntries(Object.keys(flags).map((name) => [name, numberOf(name)]))
const row = (cells) => `| ${cells.join(' | ')} |`

if (values.help) {
  console.log(
    'node deploy/sizing.mjs [flags]: nodes and Redis servers for a fleet; without --devices a table\n',
  )
  for (const [name, [value, about]] of Object.entries(flags))
    console.log(`  --${name} N`.padEnd(24) + `${about} (${value})`)
} else {
  const fleet = fleetOf()
  const counts = values.devices === undefined ? [1e4, 1e5, 1e6, 1e7] : [fleet.devices]
  console.log(
    row(['devices', 'deliveries a second', 'nodes', 'memory of each', 'Redis servers', 'memory of each']),
  )
  console.log(row(Array.from({ length: 6 }, () => '---')))
  let isTooLarge = false
  for (const devices of counts) {
    const { deliveries, nodes, memoryOfNode, redis, memoryOfRedis } = sizeOf({ ...fleet, devices })
    isTooLarge ||= redis > partitions
    console.log(
      row(
        [devices, deliveries, nodes, memoryOfNode, redis, memoryOfRedis].map((cell) =>
          cell.toLocaleString('en'),
        ),
      ),
    )
  }
  if (isTooLarge)
    console.log(`\nA cluster uses ${partitions} masters at most: split a larger fleet into several clusters.`)
}
