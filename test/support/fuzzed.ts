// Two nodes that are given random input, and what is asked of them afterwards.
import { expect } from 'vitest'
import { makeCertificates } from './certificates.ts'
import { startCluster } from './cluster.ts'
import { fuzzDoors, fuzzPackets, names } from './fuzz.ts'
import { seededRandom } from './random.ts'
import { Watch } from './watch.ts'
import { WireClient } from './wire.ts'

export interface Fuzzed extends AsyncDisposable {
  /** @returns how many connections there were */
  doors(seconds: number): Promise<number>
  packets(seconds: number): Promise<number>
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

  const run = async (
    what: string,
    seconds: number,
    fuzz: (random: ReturnType<typeof seededRandom>, goesOn: () => boolean) => Promise<number>,
  ): Promise<number> => {
    const random = seededRandom()
    console.log(`${what}: SEED=${random.seed}`)
    await using watch = await Watch.start(node)
    const count = await fuzz(random, () => watch.isServed && other.running)
    expect(other.running, other.log.slice(-3_000)).toBe(true)
    await watch.expectUnharmed(`${what}: ${count} connections in ${seconds} s`)
    expect(other.log).not.toMatch(/a bug:/)
    return count
  }
  return {
    doors: (seconds) =>
      run('HTTP and WebSocket', seconds, (random, goesOn) =>
        fuzzDoors(
          [node.url, node.wsUrl, node.wsUrl, node.wsUrl, ...node.furtherUrls, node.adminUrl, node.adminUrl],
          seconds,
          random,
          goesOn,
        ),
      ),
    packets: async (seconds) => {
      const count = await run('MQTT', seconds, (random, goesOn) =>
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
    [Symbol.asyncDispose]: async () => {
      await cluster[Symbol.asyncDispose]()
      certificates[Symbol.dispose]()
    },
  }
}
