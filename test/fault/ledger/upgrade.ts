// A rolling upgrade under the ledger (P11): three nodes behind HAProxy are replaced one by one, by those of another build,
// while clients that know only the balancer's address publish and subscribe: the version that was released last, this
// build, and one that is newer. At the end the version that was there before the newest cannot read what is
// written any more, and is refused.
import { startBalancer } from '../../support/balancer.ts'
import { newer, released } from '../../support/builds.ts'
import { mainPath, startCluster, TestNode } from '../../support/cluster.ts'
import { seededRandom } from '../../support/random.ts'
import { startRedis } from '../../support/redis.ts'
import { check } from './ledger.ts'
import { Crowd, leftOver, patienceMs, until } from './round.ts'

export interface UpgradeOptions {
  readonly seed: number
  /** Publishes that are acknowledged between one replacement and the next. */
  readonly between: number
  /** Between an acknowledgement and the next PUBLISH of a publisher. */
  readonly paceMs: number
  /** How many times the nodes are replaced by this build and by the newer one, each time by other processes. */
  readonly times?: number
}

export interface UpgradeResult {
  readonly sent: number
  readonly acknowledged: number
  readonly received: number
  /** Nodes that were replaced. */
  readonly replaced: number
  /** What each publisher had sent when a node was about to be replaced: its name and the build. */
  readonly steps: readonly string[]
  /** Of clients that hold on to their connections: CONNACKs, and sockets that they opened. */
  readonly connects: number
  readonly attempts: number
  /** Broken promises; empty when all were kept. */
  readonly problems: readonly string[]
}

/**
 * SIGTERM, and the same node again as another build; then it has clients, and so many publishes are acknowledged beside it.
 */
async function replace(node: TestNode, program: string, crowd: Crowd, publishes: number): Promise<string[]> {
  const code = await node.stop()
  node.program = program
  await node.start()
  const before = crowd.acknowledged
  const isServing = async (): Promise<boolean> =>
    crowd.acknowledged >= before + publishes &&
    /^aedes_cluster_connections [1-9]/m.test((await node.admin('/metrics')).body)
  return [
    ...(code === 0 ? [] : [`node ${node.id} ended with exit code ${code}`]),
    ...((await until(patienceMs.ours, isServing)) ? [] : [`nothing goes on with the new node ${node.id}`]),
  ]
}

/** Whoever held on to its connection made another one when its node ended, and at no other time. */
function storms(crowd: Crowd, replaced: number): string[] {
  return crowd.steady
    .filter(({ connects, attempts }) => connects > 1 + replaced || attempts > connects + replaced)
    .map(
      ({ clientId, connects, attempts }) =>
        `${clientId} connected ${connects} times, by ${attempts} sockets, while ${replaced} nodes were replaced`,
    )
}

/** A node that cannot read what is written: what it says instead of joining. */
async function refusal(program: string, redisUrl: string): Promise<string> {
  await using late = new TestNode('late', ['--redis', redisUrl, '--prefix', 'test'])
  late.program = program
  return await late.start().then(
    () => 'it joined',
    ({ message }: Error) => message,
  )
}

export async function runUpgrade({
  seed,
  between,
  paceMs,
  times = 1,
}: UpgradeOptions): Promise<UpgradeResult> {
  const random = seededRandom(seed)
  const problems: string[] = []
  const steps: string[] = []
  using last = released()
  using next = newer()
  await using redis = await startRedis()
  await using cluster = await startCluster({
    redis,
    program: last.program,
    argv: ['--lease-ms', '3000', '--log-level', 'info'],
  })
  await using balancer = await startBalancer(cluster)
  const crowd = new Crowd([balancer.url], random, patienceMs.ours, true)
  for (const publisher of crowd.publishers) publisher.paceMs = paceMs
  const builds = [mainPath, next.program].flatMap((program) => Array.from({ length: times }, () => program))
  try {
    await crowd.start()
    if (!(await until(patienceMs.ours, () => crowd.acknowledged >= between)))
      problems.push('nothing is acknowledged')
    for (const program of builds)
      for (const node of cluster.nodes) {
        steps.push(`${node.id} ${crowd.publishers.map(({ sent }) => sent.length).join(' ')}`)
        problems.push(...(await replace(node, program, crowd, between)))
      }
    steps.push(`end ${crowd.publishers.map(({ sent }) => sent.length).join(' ')}`)
    const said = await refusal(mainPath, redis.url)
    if (!/records are written in version 3, this version reads 1 to 2/.test(said))
      problems.push(`the version before the newest is not refused: ${said}`)
    const book = await crowd.finish()
    const replaced = builds.length * cluster.nodes.length
    problems.push(...crowd.problems, ...crowd.all.flatMap((client) => client.problems), ...check(book))
    problems.push(...storms(crowd, replaced))
    crowd.stop()
    problems.push(...(await leftOver(redis.url, cluster.nodes)))
    for (const { id, log } of cluster.nodes)
      if (log.includes('later version')) problems.push(`node ${id} found what it does not understand`)
    return {
      sent: book.sent.length,
      acknowledged: book.acknowledged.size,
      received: crowd.subscribers.reduce((sum, { received }) => sum + received.length, 0),
      replaced,
      steps,
      connects: crowd.steady.reduce((sum, { connects }) => sum + connects, 0),
      attempts: crowd.steady.reduce((sum, { attempts }) => sum + attempts, 0),
      problems,
    }
  } finally {
    crowd.stop()
  }
}
