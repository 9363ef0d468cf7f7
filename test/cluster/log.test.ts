// The log of a node process, with a reader that does not read and with clients that would fill it.
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'
import { mainPath, startCluster } from '../support/cluster.ts'
import { startRedis } from '../support/redis.ts'
import { frame, WireClient } from '../support/wire.ts'

test('standard error that is full from the start, and never read: the node starts, serves and ends', async () => {
  await using redis = await startRedis()
  const command = `yes >&2 & exec "$0" "${mainPath}" node --id a --redis "$1" --listen mqtt://127.0.0.1:0 --admin http://127.0.0.1:0 --log-level debug`
  const node = spawn('/bin/sh', ['-c', command, process.execPath, redis.url], { stdio: ['ignore', 'ignore', 'pipe', 'ipc'] })
  try {
    const [{ listen, admin }] = await once(node, 'message') as [{ listen: [string]; admin: string }]
    for (let n = 0; n < 20; n++) {
      const garbage = await WireClient.connect(listen[0], 'x'.repeat(65_000) + `${n}`)
      garbage.send(frame(0x00))
      await garbage.untilClosed()
    }
    await using client = await TestClient.connect(listen[0], 'healthy')
    await client.ping()
    expect(await fetch(admin + '/readyz').then(({ status }) => status)).toBe(200)
    const ended = once(node, 'exit')
    node.kill('SIGTERM')
    expect(await ended).toEqual([0, null])
  } finally {
    node.kill('SIGKILL')
  }
})

test('an identifier of 64 KiB, again and again, is one short line', async () => {
  await using cluster = await startCluster({ nodes: 1, argv: ['--client-id-bytes-max', '65535'] })
  const node = cluster.node(0)
  for (let n = 0; n < 50; n++) {
    const client = await WireClient.connect(node.url, 'x'.repeat(65_000))
    client.send(frame(0x00))
    await client.untilClosed()
  }
  await cluster.node(0).stop()
  const lines = node.log.split('\n').filter((line) => line.includes('xxx'))
  expect(lines).toHaveLength(2) // at once, and at the end
  expect(lines.map((line) => (JSON.parse(line) as { leftOut?: number }).leftOut)).toEqual([undefined, 49])
  for (const line of lines) expect(line.length).toBeLessThan(600)
})
