// The scripts of Retained Messages on a real Redis, one by one: in order, called twice, called with what was
// stored before; the stamps only grow; what is read fits.
import type { Redis } from 'ioredis'
import { beforeAll, expect, test } from 'vitest'
import { loadScripts, runScript, type ScriptName } from '../../bridge/redis/scripts.ts'
import { keys, onEmptyRedis } from './planes.ts'

let redis: Redis
onEmptyRedis((_, client) => {
  redis = client
})
beforeAll(() => loadScripts(redis))

const run = (
  script: ScriptName,
  names: readonly string[],
  argv: readonly (string | number)[],
): Promise<unknown> => runScript(redis, script, names, argv)

const retain = async (
  ...messages: [topic: string, record: string, publisher?: string, n?: number, leftMs?: number][]
): Promise<unknown> => {
  await redis.hsetnx(keys.partition(3, 'appended'), 'a@1', 0)
  return run(
    'retained-store',
    (['appended', 'retained', 'published', 'due'] as const).map((noun) => keys.partition(3, noun)),
    [
      'a@1',
      ...messages.flatMap(([topic, record, publisher = '', n = 0, leftMs = -1]) => [
        topic,
        record,
        publisher,
        n,
        leftMs,
      ]),
    ],
  )
}

/** The values of the partition without their stamps, and the stamps. */
async function kept(): Promise<{
  values: Record<string, string>
  stamps: Record<string, number>
  counter: number
}> {
  const { '': counter, ...all } = await redis.hgetallBuffer(keys.partition(3, 'retained'))
  const values = Object.fromEntries(
    Object.entries(all).map(([topic, value]) => [topic, value.toString('latin1', 8)]),
  )
  return {
    values,
    stamps: Object.fromEntries(Object.entries(all).map(([topic, value]) => [topic, value.readDoubleBE(0)])),
    counter: Number(counter),
  }
}

test('retained-store: in order, an empty record clears; called twice it is the same', async () => {
  for (const first of [
    [1, 1, 0, 0, 1],
    [0, 1, 0, 0, 0],
  ]) {
    // which were the first of their topic
    const reply = (await retain(['x', '1'], ['y', '2'], ['x', '3'], ['y', ''], ['z', '4'])) as number[]
    expect(reply.filter((_, i) => i % 2 === 1)).toEqual(first)
    expect((await kept()).values).toEqual({ x: '3', z: '4' })
  }
})

test('retained-store: each has a stamp of its own, which only grows, whatever became of the clock or the hash', async () => {
  const stampsOf = async (...messages: Parameters<typeof retain>): Promise<number[]> =>
    ((await retain(...messages)) as number[]).filter((_, i) => i % 2 === 0)
  const [x, y, cleared] = (await stampsOf(['x', '1'], ['y', '2'], ['z', ''])) as [number, number, number]
  expect([y, cleared]).toEqual([x + 1, x + 2])
  expect(await kept()).toEqual({ values: { x: '1', y: '2' }, stamps: { x, y }, counter: cleared })
  await redis.del(keys.partition(3, 'retained'))
  const [again] = (await stampsOf(['x', '1'])) as [number]
  expect(again).toBeGreaterThan(cleared)
  await redis.hset(keys.partition(3, 'retained'), '', again + 1e12) // as if the clock had been set back
  expect(await stampsOf(['x', '1'])).toEqual([again + 1e12 + 1])
  await redis.hset(keys.partition(3, 'retained'), '', 2 ** 53) // so far ahead of the clock it is damaged
  expect((await stampsOf(['x', '1']))[0]).toBeLessThan(again + 1e12)
})

test('retained-store: a QoS 2 message or a will that comes again does not take the place of a newer one', async () => {
  await retain(['x', 'offline', 'w3s', 1_700_000_000_000_001], ['y', '1', '3s', 1])
  await retain(['x', 'online'], ['y', ''])
  const [, , , , stamp] = (await retain(
    ['x', 'offline', 'w3s', 1_700_000_000_000_001],
    ['y', '1', '3s', 1],
    ['y', '2', '3s', 2],
  )) as number[]
  expect((await kept()).values).toEqual({ x: 'online', y: '2' })
  expect(await retain(['x', 'offline', 'w3s', 1_700_000_000_000_001], ['y', '2', '3s', 2])).toEqual([
    0,
    0,
    stamp,
    0,
  ]) // what stands there has the stamp that it has
})
