// Where a node tries whether a Redis Cluster stores: on the masters that have something of its data.
import { Redis } from 'ioredis'
import { expect, test } from 'vitest'
import { Keys } from '../../bridge/redis/keys.ts'
import { formatOf } from '../../bridge/redis/layout.ts'
import { createNode } from '../../broker/index.ts'
import { startRedisCluster } from '../support/redis-cluster.ts'

test('whether a Redis Cluster stores is tried where the data are: what came from one server has one partition', async () => {
  await using masters = await startRedisCluster({ replicas: 0 })
  const written = new Set<string>()
  const servers = masters.servers.map(({ url }) => new Redis(url))
  const monitors = await Promise.all(servers.map((server) => server.monitor()))
  for (const monitor of monitors)
    monitor.on('monitor', (_time: string, [command, key]: [string, string]) => {
      if (command.toLowerCase() === 'set') written.add(key)
    })
  for (const [prefix, partitions] of [
    ['of-a-cluster', 16],
    ['of-one', 1],
  ] as const) {
    const keys = new Keys(prefix, partitions)
    if (partitions === 1)
      await Promise.any(servers.map((server) => server.set(keys.bus('format'), formatOf(keys)))) // the one that has it
    const node = await createNode({ redis: masters.url, prefix, admin: 'http://127.0.0.1:0' })
    const readyz = (): Promise<unknown> => fetch(`${node.adminUrl}/readyz`)
    await readyz() // it may find one that began before
    written.clear()
    await readyz()
    await expect.poll(() => [...written].filter((key) => key.startsWith(prefix)).length).toBe(partitions + 1)
    await node.close()
  }
  for (const connection of [...monitors, ...servers]) connection.disconnect()
})
