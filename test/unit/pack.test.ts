// Arguments packed for a script are what Redis' Lua reads: each kind of value, at the lengths where its form changes.
import { afterAll, beforeAll, expect, test } from 'vitest'
import type { Redis } from 'ioredis'
import { pack, type Packable } from '../../bridge/redis/pack.ts'
import { openClient } from '../bridge/planes.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'

let server: TestRedis
let redis: Redis & Disposable
beforeAll(async () => {
  server = await startRedis()
  redis = openClient(server)
})
afterAll(async () => {
  redis.disconnect()
  await server.stop()
})

/** As JSON by Redis' own encoder; texts whole, lists by their length and last item. */
const read = async (value: Packable): Promise<unknown> =>
  JSON.parse(
    (await redis.eval(
      `local v = cmsgpack.unpack(ARGV[1])
       if type(v) == 'table' and #v > 20 then v = { #v, v[#v] } end
       if type(v) == 'number' then v = string.format('%.17g', v) end
       return cjson.encode({ type(v), v })`,
      0,
      pack(value),
    )) as string,
  )

test.each([0, 1, 127, 128, 255, 256, 65_535, 65_536, 2 ** 32 - 1, 2 ** 32, 2 ** 53 - 1, -1, 1.5])(
  'the number %d',
  async (value) => {
    expect(await read(value)).toEqual(['string', String(value)])
  },
)

test.each([0, 1, 31, 32, 255, 256, 65_535, 65_536, 300_000])('a text and bytes of %i', async (length) => {
  const text = 'x'.repeat(length)
  expect(await read(text)).toEqual(['string', text])
  expect(await read(Buffer.from(text))).toEqual(['string', text])
})

test.each([15, 16, 65_535, 65_536])('a list of %i', async (length) => {
  const list = Array.from({ length }, (_, i) => i)
  expect(await read(list)).toEqual(['table', length > 20 ? [length, length - 1] : list])
})

test('lists in lists, and what is not ASCII', async () => {
  expect(await read([['ü', [], 7], Buffer.from('é')])).toEqual(['table', [['ü', {}, 7], 'é']])
})
