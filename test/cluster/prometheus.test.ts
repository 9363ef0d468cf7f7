// A real Prometheus scrapes a real cluster that has something to do: every expression of the dashboard and of the
// alert rules in deploy/prometheus gives data, and promtool finds nothing wrong with rules and metrics.
import { execFileSync, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { findProgram } from '../../broker/cli/packages.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { TestClient } from '../support/client.ts'
import { freePort } from '../support/redis.ts'

const pathOf = (name: string): string =>
  fileURLToPath(new URL(`../../deploy/prometheus/${name}`, import.meta.url))
const promtool = (argv: readonly string[], input = ''): string =>
  execFileSync(findProgram('promtool') ?? 'promtool', argv, { input, encoding: 'utf8' })

interface Dashboard {
  panels: { title: string; targets?: { expr: string }[] }[]
}
interface Rules {
  groups: { rules: { alert: string; expr: string }[] }[]
}

/** What it shows; an alert without what it is compared with, or it would have data in an emergency only. */
function expressions(): [what: string, expression: string][] {
  const { panels } = JSON.parse(readFileSync(pathOf('dashboard.json'), 'utf8')) as Dashboard
  const { groups } = parse(readFileSync(pathOf('alerts.yml'), 'utf8')) as Rules
  return [
    ...panels.flatMap(({ title, targets = [] }) =>
      targets.map(({ expr }): [string, string] => [
        title,
        expr.replaceAll('$node', '.*').replaceAll('$__rate_interval', '30s'),
      ]),
    ),
    ...groups
      .flatMap(({ rules }) => rules)
      .map(({ alert, expr }): [string, string] => [alert, expr.replace(/\s+[<>] [\d.]+\s*$/, '')]),
  ]
}

class Prometheus implements AsyncDisposable {
  readonly #folder: string
  readonly #url: string
  readonly #end: () => Promise<void>

  private constructor(folder: string, url: string, end: () => Promise<void>) {
    this.#folder = folder
    this.#url = url
    this.#end = end
  }

  /** With the configuration that ships, but for its targets and how often it asks. */
  static async before(cluster: TestCluster): Promise<Prometheus> {
    const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-prometheus-'))
    const targets = cluster.nodes.map(({ adminUrl }) => `'${new URL(adminUrl).host}'`)
    const configuration = readFileSync(pathOf('prometheus.yml'), 'utf8')
      .replaceAll('10s', '1s')
      .replace(/targets: .*/, `targets: [${targets.join(', ')}]`)
    writeFileSync(join(folder, 'prometheus.yml'), configuration)
    writeFileSync(join(folder, 'alerts.yml'), readFileSync(pathOf('alerts.yml')))
    promtool(['check', 'config', join(folder, 'prometheus.yml')])
    const address = `127.0.0.1:${await freePort()}`
    const child = spawn(
      findProgram('prometheus') ?? 'prometheus',
      [
        `--config.file=${join(folder, 'prometheus.yml')}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=${address}`,
      ],
      { stdio: 'ignore' },
    )
    const exited = once(child, 'exit')
    return new Prometheus(folder, `http://${address}`, async () => {
      child.kill('SIGTERM')
      await exited
    })
  }

  /** The values of what an expression gives. */
  async ask(expression: string): Promise<number[]> {
    const response = await fetch(`${this.#url}/api/v1/query?query=${encodeURIComponent(expression)}`)
    const { data, error } = (await response.json()) as {
      data?: { result: { value: [number, string] }[] }
      error?: string
    }
    if (data === undefined) throw new Error(`${expression}: ${error}`)
    return data.result.map(({ value }) => Number(value[1].replace('Inf', 'Infinity')))
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#end()
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

test('each expression of the dashboard and of the alerts gives data from a cluster under load', async () => {
  await using cluster = await startCluster({ nodes: 2 })
  const [a, b] = [cluster.node(0), cluster.node(1)]
  const metrics = await (await fetch(`${a.adminUrl}/metrics`)).text()
  promtool(['check', 'metrics'], metrics)
  promtool(['check', 'rules', pathOf('alerts.yml')])
  await using prometheus = await Prometheus.before(cluster)
  await using publisher = await TestClient.connect(a.url, 'publisher')
  await using subscriber = await TestClient.connect(b.url, 'subscriber')
  await subscriber.subscribe('load/#', { qos: 1 })
  await subscriber.subscribe('$share/group/load/#', { qos: 1 })
  /** Something happens between any two looks. */
  const work = async (): Promise<void> => {
    for (const qos of [0, 1, 2] as const)
      await publisher.publish(`load/${qos}`, 'x', { qos, retain: qos === 1 })
  }
  await expect
    .poll(
      async () => {
        await work()
        return prometheus.ask('min(count_over_time(up[1m]))').catch(() => [])
      },
      { timeout: 50_000, interval: 200 },
    )
    .toEqual([3])
  for (const [what, expression] of expressions()) {
    const values = await prometheus.ask(expression)
    expect(values, `${what}: ${expression}`).not.toEqual([])
    expect(values.filter(Number.isNaN), `${what}: ${expression}`).toEqual([])
  }
})
