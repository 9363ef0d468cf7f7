// The connections of a node when the server behind them goes: what is read on one must not come from a server
// that the other has left, and no connection may hang on a server that says nothing any more.
import { once } from 'node:events'
import { expect, onTestFinished, test } from 'vitest'
import { connect, connectAll, whenReady, type Redis } from '../../bridge/redis/redis.ts'
import { startRedis } from '../support/redis.ts'
import { startLink } from './link.ts'

test('a server that is gone without a word: control leaves it together with the commands, and works', async () => {
  await using redis = await startRedis()
  await using link = await startLink(redis)
  const connections = connectAll({ url: link.url, timeoutMs: 300, onError: () => undefined }, 1_000, 0)
  onTestFinished(() => {
    for (const connection of Object.values(connections) as Redis[]) connection.disconnect()
  })
  const { redis: commands, control } = connections
  await Promise.all([whenReady(commands), whenReady(control)])
  const left = once(control, 'close')
  link.strand()
  await expect(commands.get('unanswered')).rejects.toThrow()
  await left // nobody asked anything of it
  await whenReady(control)
  expect(await control.set('key', 'value')).toBe('OK')
})

test.each(['redis://127.0.0.1:1', 'redis+cluster://127.0.0.1:1'])(
  'who waits for a connection to %s hears that it was ended, also between two attempts to connect',
  async (url) => {
    const redis = connect({ url, timeoutMs: 1_000, onError: () => undefined, waits: undefined })
    await new Promise((resolve) => {
      redis.once('reconnecting', resolve)
    })
    const waiting = whenReady(redis)
    redis.disconnect()
    await expect(waiting).rejects.toMatchObject({ code: 'ERR_BRIDGE_CLOSED' })
  },
)
