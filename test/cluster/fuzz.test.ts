// Random input for a second or two each; test/long/ has five minutes of each.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startFuzzed, startFuzzedAccess, type Fuzzed } from '../support/fuzzed.ts'

let fuzzed: Fuzzed
beforeAll(async () => {
  fuzzed = await startFuzzed()
})
afterAll(() => fuzzed[Symbol.asyncDispose]())

test('HTTP and WebSocket: requests, upgrades and frames, damaged, torn and slow', () => fuzzed.doors(2))

test('MQTT: packets whose names are words of JavaScript, some of them damaged; sessions of such names are resumed', async () => {
  expect(await fuzzed.packets(2)).toBeGreaterThan(0)
})

test('the admin API, and what nodes ask one another', async () => {
  await fuzzed.api(0.7)
  await fuzzed.asks(0.7)
})

test('tokens, SCRAM, a webhook, users and rules in Redis', async () => {
  await using node = await startFuzzedAccess()
  await node.access(1)
})
