// Nodes that are given random input, and what is asked of them afterwards.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import { expect } from 'vitest'
import { makeCertificates } from './certificates.ts'
import { startCluster, type TestNode } from './cluster.ts'
import { fuzzDoors, fuzzPackets, names } from './fuzz.ts'
import { fuzzAccess, oddAnswer } from './fuzz-access.ts'
import { fuzzApi, fuzzAsks } from './fuzz-operators.ts'
import { HttpServer } from './http-server.ts'
import { seededRandom, type Random } from './random.ts'
import { Watch } from './watch.ts'
import { WireClient } from './wire.ts'

export interface Fuzzed extends AsyncDisposable {
  /** @returns how many connections there were */
  doors(seconds: number): Promise<number>
  packets(seconds: number): Promise<number>
  /** Requests to the admin API. */
  api(seconds: number): Promise<number>
  /** What nodes ask one another. */
  asks(seconds: number): Promise<number>
}

type Fuzz = (random: Random, goesOn: () => boolean) => Promise<number>

/** Gives random input, and asks whether the nodes are what they were; the first one's clients were served meanwhile. */
async function run(what: string, seconds: number, nodes: readonly TestNode[], fuzz: Fuzz): Promise<number> {
  const [node, ...others] = nodes
  const random = seededRandom()
  console.log(`${what}: SEED=${random.seed}`)
  await using watch = await Watch.start(node!)
  const count = await fuzz(random, () => watch.isServed && others.every(({ running }) => running))
  for (const other of others) expect(other.running, other.log.slice(-3_000)).toBe(true)
  await watch.expectUnharmed(`${what}: ${count} in ${seconds} s`)
  for (const { log } of nodes) expect(log).not.toMatch(/a bug:|a hook threw/)
  return count
}

const resumable = names.filter((name) => name !== '')

export async function startFuzzed(): Promise<Fuzzed> {
  const certificates = makeCertificates()
  const { cert, key } = certificates.server
  const cluster = await startCluster({
    nodes: 2,
    argv: [
      '--connect-timeout-ms',
      '1000',
      '--tls-cert',
      cert,
      '--tls-key',
      key,
      '--listen',
      'mqtts://127.0.0.1:0',
      '--listen',
      'wss://127.0.0.1:0/mqtt',
    ],
  })
  const [node, other] = [cluster.node(0), cluster.node(1)]

  const both = [node, other]
  return {
    doors: (seconds) =>
      run('HTTP and WebSocket', seconds, both, (random, goesOn) =>
        fuzzDoors(
          [node.url, node.wsUrl, node.wsUrl, node.wsUrl, ...node.furtherUrls, node.adminUrl, node.adminUrl],
          seconds,
          random,
          goesOn,
        ),
      ),
    packets: async (seconds) => {
      const count = await run('MQTT', seconds, both, (random, goesOn) =>
        fuzzPackets(
          [node.url, node.url, node.url, ...node.furtherUrls.slice(0, 1), other.url],
          seconds,
          random,
          goesOn,
        ),
      )
      for (const name of resumable) {
        // whatever the sessions hold by now, each node can take them over
        for (const { url } of [other, node]) {
          await using client = await WireClient.connect(url, name, { clean: false, version: 4 })
          await client.settled()
        }
      }
      expect([node.running, other.running]).toEqual([true, true])
      return count
    },
    api: async (seconds) => {
      const count = await run('admin API', seconds, both, (random, goesOn) =>
        fuzzApi(node.adminUrl, seconds, random, goesOn),
      )
      const { nodes } = JSON.parse((await other.admin('/api/v1/nodes')).body) as { nodes: object[] }
      expect(nodes).toHaveLength(2)
      return count
    },
    asks: async (seconds) => {
      const redis = new Redis(cluster.redis.url)
      try {
        const about = { redis, redisUrl: cluster.redis.url, prefix: 'test', url: node.adminUrl }
        return await run('node to node', seconds, both, (random, goesOn) =>
          fuzzAsks(about, seconds, random, goesOn),
        )
      } finally {
        redis.disconnect()
      }
    },
    [Symbol.asyncDispose]: async () => {
      await cluster[Symbol.asyncDispose]()
      certificates[Symbol.dispose]()
    },
  }
}

export interface FuzzedAccess extends AsyncDisposable {
  /** @returns how many connections there were */
  access(seconds: number): Promise<number>
}

/** A node that asks everybody who clients are: users and rules in Redis, SCRAM, tokens, a webhook. */
export async function startFuzzedAccess(): Promise<FuzzedAccess> {
  const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-fuzz-'))
  const secret = 'x'.repeat(40)
  writeFileSync(join(folder, 'secret'), secret)
  const server = await HttpServer.start((_request, response) => response.writeHead(403).end())
  const cluster = await startCluster({
    nodes: 1,
    argv: [
      ...[
        '--stored-users',
        'on',
        '--stored-rules',
        'on',
        '--jwt-key-file',
        join(folder, 'secret'),
        '--jwt-algorithms',
        'HS256',
      ],
      ...['--webhook-url', server.url, '--webhook-timeout-ms', '300', '--webhook-refused-seconds', '0'],
      ...['--webhook-allowed-seconds', '0', '--authentication', 'stored-users,scram,jwt,anonymous,webhook'],
    ],
  })
  const redis = new Redis(cluster.redis.url)
  return {
    access: (seconds) =>
      run('who clients are', seconds, cluster.nodes, (random, goesOn) => {
        server.answer(oddAnswer(random))
        return fuzzAccess(
          { url: cluster.node(0).url, secret, redis, prefix: 'test' },
          seconds,
          random,
          goesOn,
        )
      }),
    [Symbol.asyncDispose]: async () => {
      redis.disconnect()
      await cluster[Symbol.asyncDispose]()
      await server[Symbol.asyncDispose]()
      rmSync(folder, { recursive: true })
    },
  }
}
