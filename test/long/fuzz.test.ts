// Five minutes each of random input: HTTP and WebSocket, MQTT, the admin API, what nodes ask one another, those who
// decide who a client is, and what reads files.
// FUZZ_SECONDS says how long, SEED which.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createNode } from '../../broker/index.ts'
import { fuzzFiles } from '../support/fuzz-files.ts'
import { fuzzProxy } from '../support/fuzz-proxy.ts'
import { startFuzzed, startFuzzedAccess, type Fuzzed } from '../support/fuzzed.ts'
import { seededRandom } from '../support/random.ts'
import { WireClient } from '../support/wire.ts'

const seconds = Number(process.env.FUZZ_SECONDS ?? 300)
let fuzzed: Fuzzed
beforeAll(async () => {
  fuzzed = await startFuzzed()
})
afterAll(() => fuzzed[Symbol.asyncDispose]())

test('HTTP and WebSocket', () => fuzzed.doors(seconds), (seconds + 120) * 1_000)

test('MQTT', () => fuzzed.packets(seconds), (seconds + 120) * 1_000)

test('admin API', () => fuzzed.api(seconds), (seconds + 120) * 1_000)

test('node to node', () => fuzzed.asks(seconds), (seconds + 120) * 1_000)

test(
  'tokens, SCRAM, a webhook, users and rules in Redis',
  async () => {
    await using node = await startFuzzedAccess()
    await node.access(seconds)
  },
  (seconds + 120) * 1_000,
)

test(
  'headers of the PROXY protocol',
  async () => {
    const random = seededRandom()
    const node = await createNode({
      listeners: [
        { url: 'mqtt://127.0.0.1:0' },
        { url: 'mqtt://127.0.0.1:0', proxy: { networks: ['127.0.0.0/8'] } },
        { url: 'ws://127.0.0.1:0/mqtt', proxy: { networks: ['127.0.0.0/8'] } },
      ],
    })
    try {
      const [plain, ...proxied] = node.endpoints
      await using client = await WireClient.connect(plain!, 'healthy')
      const count = await fuzzProxy(proxied, seconds, random, () => !client.isClosed)
      console.log(`PROXY: SEED=${random.seed}; ${count} connections`)
      expect(await client.settled()).toEqual([]) // what was thrown to the top would have failed this test
    } finally {
      await node.close()
    }
  },
  (seconds + 120) * 1_000,
)

test(
  'files that are read',
  () => {
    const random = seededRandom()
    console.log(`files: SEED=${random.seed}; ${fuzzFiles(seconds, random)} texts`)
  },
  (seconds + 120) * 1_000,
)
