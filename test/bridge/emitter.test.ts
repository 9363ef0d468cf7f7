// The control plane when Redis goes while it ends: it ends all the same, and nothing is thrown at the
// process.
import { expect, test } from 'vitest'
import { diagnostics } from '../../bridge/diagnostics.ts'
import { Emitter } from '../../bridge/control/emitter.ts'
import { startRedis } from '../support/redis.ts'
import { startLink } from './link.ts'

test('the answers to its QUITs are lost: it is closed, without an unhandled rejection', async () => {
  await using redis = await startRedis('--appendonly', 'no')
  await using link = await startLink(redis)
  const emitter = new Emitter(link.url, 'test', () => undefined)
  const heard: string[] = []
  emitter.on('ready', (topic) => {
    heard.push(topic)
  })
  await expect
    .poll(
      () => {
        // both connections work; what is emitted before the SUBSCRIBE is not heard
        emitter.emit('ready', Buffer.from('now'))
        return heard
      },
      { interval: 5 },
    )
    .toContain('ready')
  const stop = link.loseReplies('+OK')
  await new Promise<void>((closed) => {
    emitter.close(closed)
  })
  stop()
  // a rejection that nobody caught would have been reported to the test run by now
  await new Promise((resolve) => setImmediate(resolve))
})

test('while Redis is away, or does not answer, emits are dropped and counted; afterwards they are heard', async () => {
  await using redis = await startRedis('--appendonly', 'no')
  await using link = await startLink(redis)
  const emitter = new Emitter(link.url, 'test', () => undefined)
  const heard: string[] = []
  emitter.on('#', (topic) => {
    heard.push(topic)
  })
  const shed: unknown[] = []
  const count = (event: unknown): void => {
    shed.push(event)
  }
  diagnostics.shed.subscribe(count)
  for (let n = 0; n < 10; n++) emitter.emit('too-early', Buffer.from('x'))
  expect(shed).toHaveLength(10)
  await expect
    .poll(
      () => {
        emitter.emit('ready', Buffer.from('now'))
        return heard
      },
      { interval: 5 },
    )
    .toContain('ready')
  redis.pause() // connected, and silent
  for (let n = 0; n < 5_000; n++) emitter.emit('silent', Buffer.alloc(1_000))
  expect(shed.length).toBeGreaterThanOrEqual(4_000)
  redis.resume()
  await expect.poll(() => heard).toContain('silent')
  expect(heard.filter((topic) => topic === 'silent').length).toBeLessThanOrEqual(1_000)
  expect(heard).not.toContain('too-early')
  diagnostics.shed.unsubscribe(count)
  await new Promise<void>((closed) => {
    emitter.close(closed)
  })
})
