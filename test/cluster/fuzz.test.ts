// Random input at the doors, for a few seconds; test/long/ has five minutes of each.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startFuzzed, type Fuzzed } from '../support/fuzzed.ts'

let fuzzed: Fuzzed
beforeAll(async () => {
  fuzzed = await startFuzzed()
})
afterAll(() => fuzzed[Symbol.asyncDispose]())

test('HTTP and WebSocket: requests, upgrades and frames, damaged, torn and slow', () => fuzzed.doors(3))

test('MQTT: packets whose names are words of JavaScript, some of them damaged; sessions of such names are resumed', async () => {
  expect(await fuzzed.packets(3)).toBeGreaterThan(0)
})
