// The control plane when Redis goes while it ends: it ends all the same, and nothing is thrown at the process.
import { expect, test } from 'vitest'
import { Emitter } from '../../bridge/emitter.ts'
import { startRedis } from '../support/redis.ts'
import { startLink } from './link.ts'

test('the answers to its QUITs are lost: it is closed, without an unhandled rejection', async () => {
  await using redis = await startRedis('--appendonly', 'no')
  await using link = await startLink(redis)
  const emitter = new Emitter(link.url, 'test', () => undefined)
  const heard: string[] = []
  emitter.on('ready', (topic) => { heard.push(topic) })
  await expect.poll(() => { // both connections work; what is emitted before the SUBSCRIBE is not heard
    emitter.emit('ready', Buffer.from('now'))
    return heard
  }, { interval: 5 }).toContain('ready')
  const stop = link.loseReplies('+OK')
  await new Promise<void>((closed) => { emitter.close(closed) })
  stop()
  await new Promise((resolve) => setImmediate(resolve)) // a rejection that nobody caught would have been reported to the test run by now
})
