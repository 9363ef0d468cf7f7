// The barrier of P2 against a table that is being rebuilt: a rebuild while the journal moves on must never
// leave the table behind what a barrier has promised (found by 2,000 rounds under load; the tail went on
// while the snapshot was read).
import { expect, test } from 'vitest'
import type { Change } from '../../bridge/messages/codec.ts'
import { Journal } from '../../bridge/routes/journal.ts'
import { Keys } from '../../bridge/redis/keys.ts'
import { Membership } from '../../bridge/membership/membership.ts'
import { connect, connectAll, whenReady } from '../../bridge/redis/redis.ts'
import { RoutingTable } from '../../bridge/routes/routing-table.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { startLink } from './link.ts'
import { openClient } from './planes.ts'

/** A node's journal and the table that it keeps. */
async function startJournal(
  redis: TestRedis,
  name: string,
  readerUrl = redis.url,
): Promise<{ journal: Journal; table: RoutingTable; lost: number; close(): Promise<void> }> {
  const address = { url: redis.url, timeoutMs: 2_000, onError: () => undefined }
  const all = connectAll(address, 1_000, 0)
  all.journal.disconnect()
  const connections = { ...all, journal: connect({ ...address, url: readerUrl }, { blockMs: 1_000 }) }
  await Promise.all([whenReady(connections.redis), whenReady(connections.journal)])
  const keys = new Keys('test')
  const membership = new Membership(connections.redis, 'test', name, 15_000)
  await membership.join()
  let table = new RoutingTable()
  let lost = 0
  const journal = new Journal(connections, keys, () => membership, {
    onChange: (nodeId, change) => {
      if (change.type === 'route') table.set(nodeId, change.filter, change.kind)
    },
    readMore: () => Promise.resolve(),
    onSnapshot: async (_nodes, routes) => {
      table = new RoutingTable()
      for (const { nodeId, filter, kind } of routes) table.set(nodeId, filter, kind)
    },
    onLost: () => {
      lost++
    },
    onLater: () => undefined,
    onAmnesia: () => Promise.reject(new Error('nothing was lost')),
  })
  await journal.start()
  return {
    journal,
    get table() {
      return table
    },
    get lost() {
      return lost
    },
    close: async () => {
      await journal.close()
      for (const connection of Object.values(connections)) connection.disconnect()
    },
  }
}

test('a route that was stored before the barrier is in the table behind it, however often the table is rebuilt meanwhile', async () => {
  await using redis = await startRedis()
  const a = await startJournal(redis, 'a')
  const b = await startJournal(redis, 'b')
  // A big snapshot takes many round trips to read: room for the race.
  await a.journal.append(
    Array.from({ length: 5_000 }, (_, n): Change => ({ type: 'route', filter: `many/${n}`, kind: 1 })),
  )
  let rebuilding = true
  const rebuilds = (async () => {
    while (rebuilding) await b.journal.rebuild()
  })()
  for (let round = 0; round < 60; round++) {
    await a.journal.append([{ type: 'route', filter: `round/${round}`, kind: 1 }])
    await b.journal.barrier()
    expect(b.table.match(`round/${round}`).everything, `round ${round}`).toHaveLength(1)
  }
  rebuilding = false
  await rebuilds
  expect([a.lost, b.lost]).toEqual([0, 0])
  await Promise.all([a.close(), b.close()])
})

test('a confirmed entry that a failover lost is missed, also when the next one is appended before the reader has looked', async () => {
  await using redis = await startRedis()
  using client = openClient(redis)
  await using link = await startLink(redis)
  const a = await startJournal(redis, 'a', link.url)
  await a.journal.append([{ type: 'route', filter: 'first', kind: 1 }])
  await a.journal.barrier()
  link.freeze() // the reader, and nobody else
  const names = await client.keys('*')
  const dumps = await Promise.all(names.map((name) => client.dumpBuffer(name)))
  await a.journal.append([{ type: 'route', filter: 'lost', kind: 1 }])
  const multi = client.multi().flushall()
  names.forEach((name, n) => multi.restore(name, 0, dumps[n]!))
  await multi.exec()
  await a.journal.append([{ type: 'route', filter: 'next', kind: 1 }])
  await expect.poll(() => a.lost).toBe(1)
  link.thaw()
  await a.close()
})

test('who begins to wait between two rebuilds waits no longer than for the second: nothing else is going to bring what that one did', async () => {
  await using redis = await startRedis()
  const a = await startJournal(redis, 'a')
  const b = await startJournal(redis, 'b')
  await a.journal.append(
    Array.from({ length: 5_000 }, (_, n): Change => ({ type: 'route', filter: `many/${n}`, kind: 1 })),
  )
  for (let round = 0; round < 5; round++) {
    const waits = [b.journal.rebuild(), b.journal.barrier(), b.journal.rebuild()]
    await a.journal.append([{ type: 'route', filter: `round/${round}`, kind: 1 }])
    await Promise.all(waits)
    expect(b.table.match(`round/${round}`).everything, `round ${round}`).toHaveLength(1)
  }
  await Promise.all([a.close(), b.close()])
}, 10_000)

test('a route that goes while its node tells all that it has anew is not told again behind its end', async () => {
  await using redis = await startRedis()
  const a = await startJournal(redis, 'a')
  const b = await startJournal(redis, 'b')
  const wanted = new Set(Array.from({ length: 5_000 }, (_, n) => `many/${n}`))
  function* routes(): Iterable<Change> {
    for (const filter of wanted) yield { type: 'route', filter, kind: 1 }
  }
  const told = a.journal.assertAll(routes())
  wanted.delete('many/4999')
  await Promise.all([a.journal.append([{ type: 'route', filter: 'many/4999', kind: 0 }]), told])
  await b.journal.barrier()
  expect(['many/4998', 'many/4999'].map((topic) => b.table.match(topic).everything.length)).toEqual([1, 0])
  await Promise.all([a.close(), b.close()])
})
