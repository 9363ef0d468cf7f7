// What waits for queues while Redis takes nothing is bounded, as /metrics shows it (P9).
import { expect, test } from 'vitest'
import { Keys } from '../../bridge/redis/keys.ts'
import { openClient } from '../bridge/planes.ts'
import { startCluster } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'
import { plantSessions } from '../support/sessions.ts'
import { WireClient } from '../support/wire.ts'

test('messages to many sessions while Redis takes nothing: what waits for it is bounded, and all of it arrives', async () => {
  await using redis = await startRedis()
  using admin = openClient(redis)
  const sids = await plantSessions(admin, new Keys('test', 1), 0, 1_000, 'many', { options: 1 })
  await using cluster = await startCluster({ nodes: 1, redis })
  const node = cluster.node(0)
  await using publisher = await WireClient.connect(node.url, 'publisher', {})
  const unstored = async (): Promise<number[]> => {
    const { body } = await node.admin('/metrics')
    return ['deliveries', 'delivery_bytes'].map((name) =>
      Number(new RegExp(`^aedes_cluster_unstored_${name} (\\d+)`, 'm').exec(body)?.[1]),
    )
  }
  redis.pause() // no barrier passes: what comes meanwhile is one batch
  for (let messageId = 1; messageId <= 110; messageId++)
    publisher.send({
      cmd: 'publish',
      topic: 'many',
      payload: 'x',
      qos: 1,
      messageId,
      retain: false,
      dup: false,
    })
  publisher.send({ cmd: 'pingreq' })
  await publisher.next('pingresp') // it has read them
  const paused = admin.client('PAUSE', 60_000, 'WRITE')
  redis.resume()
  await paused
  await expect.poll(unstored).toEqual([101_000, expect.closeTo(101_000 * 120, -6)])
  await admin.client('UNPAUSE')
  for (let n = 0; n < 110; n++) await publisher.next('puback')
  const lengths = await Promise.all(sids.map((sid) => admin.llen(new Keys('test', 1).session(sid, 'queue'))))
  expect(lengths.filter((length) => length !== 110)).toEqual([])
  expect(await unstored()).toEqual([0, 0])
})
