// The numbers of a node's journal entries when Redis lost some or all of its data: whatever is healed beside
// a subscription that is being made, both are stored.
import { expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import { diagnostics } from '../../bridge/diagnostics.ts'
import { RouteKind } from '../../bridge/routes/routing-table.ts'
import type { TestRedis } from '../support/redis.ts'
import { keys, listen, messageOf, onEmptyRedis, publish, startPlane } from './planes.ts'

const { everything } = RouteKind
let redis: TestRedis
let client: Redis
onEmptyRedis((...both) => {
  ;[redis, client] = both
})

test('the inbox alone is lost: what is subscribed afterwards is journaled', async () => {
  await using a = await startPlane(redis, 'a')
  await using b = await startPlane(redis, 'b')
  for (let n = 0; n < 10; n++) await a.plane.addRoute(`before/${n}`, everything)
  using amnesia = listen('amnesia')
  await client.unlink(
    keys.inbox(a.plane.nodeId, 'stream'),
    keys.inbox(a.plane.nodeId, 'state'),
    keys.inbox(a.plane.nodeId, 'senders'),
  )
  await expect.poll(() => amnesia.events.length).toBeGreaterThan(0)
  await expect.poll(() => client.exists(keys.inbox(a.plane.nodeId, 'stream'))).toBe(1)
  for (let n = 0; n < 20; n++) {
    await a.plane.addRoute(`after/${n}`, everything)
    await publish(b, messageOf(`after/${n}`, `after/${n}`))
    await expect.poll(() => a.payloads).toContain(`after/${n}`)
  }
})

test('a subscription made between registering again and asserting: every route is in the new data set', async () => {
  await using a = await startPlane(redis, 'a')
  await a.plane.addRoute('old', everything)
  for (let n = 0; n < 20; n++)
    await a.plane.sessions.claim({
      clientId: `client ${n}`,
      cleanStart: true,
      expirySeconds: 100,
      will: undefined,
    })
  const made: Promise<void>[] = []
  const hear = (event: unknown): void => {
    if ((event as { script: string }).script === 'node-rejoin' && made.length === 0)
      setImmediate(() => made.push(a.plane.addRoute('new', everything)))
  }
  diagnostics.script.subscribe(hear)
  await client.flushall()
  await expect.poll(() => made.length).toBe(1)
  diagnostics.script.unsubscribe(hear)
  await made[0]
  await expect
    .poll(async () => (await client.hkeys(keys.routes(a.plane.nodeId))).sort())
    .toEqual(['new', 'old'])
  await using late = await startPlane(redis, 'late')
  expect([...late.plane.routes].map(({ filter }) => filter).sort()).toEqual(['new', 'old'])
})
