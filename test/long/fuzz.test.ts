// Five minutes of random input at the doors of a node: HTTP and WebSocket against all its addresses.
// FUZZ_SECONDS says how long, SEED which.
import { afterAll, beforeAll, test } from 'vitest'
import { startFuzzed, type Fuzzed } from '../support/fuzzed.ts'

const seconds = Number(process.env.FUZZ_SECONDS ?? 300)
let fuzzed: Fuzzed
beforeAll(async () => {
  fuzzed = await startFuzzed()
})
afterAll(() => fuzzed[Symbol.asyncDispose]())

test('HTTP and WebSocket', () => fuzzed.doors(seconds), (seconds + 120) * 1_000)

test('MQTT', () => fuzzed.packets(seconds), (seconds + 120) * 1_000)
