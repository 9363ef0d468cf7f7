// The way of a batch through its stages: store, barrier, write, and handed on ahead of its barrier; the next
// one is closed behind the barrier of the one before, at most two are under way; `done` once per message, in
// order, and only when everything was stored; a full batch is cut. When a stage fails (the node stops or is
// fenced) nothing behind it is ever done, and nothing is when the batches are closed. Nothing of a batch is
// kept.
import { setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import { expect, test } from 'vitest'
import { batchMessagesMax, Batches } from '../../bridge/publish/batches.ts'
import { seededRandom } from '../support/random.ts'

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve)
  })

async function turns(count: number): Promise<void> {
  for (let n = 0; n < count; n++) await turn()
}

interface Gate {
  readonly name: string
  open(): void
  fail(): void
}

/** Stages that say when they were begun and wait until the test lets them go. */
function heldStages(): {
  batches: Batches<number, string>
  log: string[]
  gates: Gate[]
  gate: (name: string) => Promise<Gate>
} {
  const log: string[] = []
  const gates: Gate[] = []
  const hold = (name: string): Promise<void> => {
    log.push(name)
    return new Promise((resolve, reject) => {
      gates.push({
        name,
        open: () => {
          log.push(`${name}.`)
          resolve()
        },
        fail: () => reject(new Error(name)),
      })
    })
  }
  let barriers = 0
  const batches = new Batches<number, string>({
    store: (batch) => hold(`store ${batch.join()}`),
    barrier: () => hold(`barrier ${++barriers}`),
    handOnAhead: (batch) => {
      log.push(`hand ${batch.join()}`)
      return Promise.resolve(batch.join())
    },
    handOnAfter: (batch, handed) => {
      expect(handed ?? batch.join()).toBe(batch.join())
      return Promise.resolve({ stored: hold(`write ${batch.join()}`) })
    },
    broken: (error) => log.push(`broken ${(error as Error).message}`),
  })
  const gate = async (name: string): Promise<Gate> => {
    await expect.poll(() => gates.some((one) => one.name === name), { interval: 1 }).toBe(true)
    return gates.find((one) => one.name === name)!
  }
  return { batches, log, gates, gate }
}

test('stages in order, two batches under way, what comes meanwhile grows into the third', async () => {
  const { batches, log, gate } = heldStages()
  const push = (n: number): void => batches.push(n, () => log.push(`done ${n}`))
  push(1)
  push(2)
  const store1 = await gate('store 1,2')
  push(3)
  await turns(3)
  expect(log).toEqual(['store 1,2', 'hand 1,2'])
  store1.open()
  const barrier1 = await gate('barrier 1')
  push(4)
  await turns(3)
  expect(batches.waiting).toBe(2) // until the barrier is passed
  barrier1.open()
  const write1 = await gate('write 1,2')
  ;(await gate('store 3,4')).open()
  push(5)
  ;(await gate('barrier 2')).open()
  ;(await gate('write 3,4')).open() // … while 1,2 is being written
  await turns(3)
  expect(log.filter((line) => line.startsWith('done'))).toEqual([]) // 3,4 is stored, but 1,2 is not
  expect(batches.waiting).toBe(1)
  write1.open()
  await gate('store 5')
  expect(log.filter((line) => line.startsWith('done'))).toEqual(['done 1', 'done 2', 'done 3', 'done 4'])
  expect(log.indexOf('write 1,2')).toBeGreaterThan(log.indexOf('barrier 1.'))
  expect(log.indexOf('hand 3,4')).toBeGreaterThan(log.indexOf('write 1,2'))
})

test('everything is done once and in order, whatever each stage takes', async () => {
  const random = seededRandom()
  const done: number[] = []
  const written: number[] = []
  const lasts = new Set<number>()
  let [underWay, most, storing, barriers] = [0, 0, 0, 0]
  const batches = new Batches<number, number>({
    store: (batch) => {
      most = Math.max(most, ++underWay)
      lasts.add(batch.at(-1)!)
      storing += batch.length
      return random.below(2) === 0 ? undefined : turns(random.below(6))
    },
    barrier: async () => {
      barriers = storing
      await turns(random.below(6))
    },
    handOnAhead: async (batch) => {
      expect(batch[0]).toBe(written.length) // everything before it is matched
      await turns(random.below(3))
      return random.below(4) === 0 ? undefined : batch.length
    },
    handOnAfter: async (batch) => {
      for (const n of batch) {
        written.push(n)
        if (random.below(10) === 0) await turns(random.below(3))
      }
      // a barrier was read behind the store of all that is matched
      expect(written.length).toBeLessThanOrEqual(barriers)
      return { stored: turns(random.below(6)) }
    },
    broken: (error) => {
      throw error
    },
  })
  const total = 3_000
  for (let n = 0; n < total; n++) {
    batches.push(n, () => {
      done.push(n)
      if (lasts.has(n)) underWay--
    })
    if (random.below(20) === 0) await turns(random.below(4))
  }
  await expect.poll(() => done.length, { message: `seed ${random.seed}` }).toBe(total)
  expect(done).toEqual(Array.from({ length: total }, (_, n) => n))
  expect(written).toEqual(done)
  expect(most).toBe(2)
})

test('nothing is kept of batches that are done', async () => {
  setFlagsFromString('--expose-gc')
  const collect = runInNewContext('gc') as () => void
  const batches = new Batches<number, number>({
    store: () => undefined,
    barrier: () => Promise.resolve(),
    handOnAhead: () => Promise.resolve(1),
    handOnAfter: () => Promise.resolve({ stored: Promise.resolve() }),
    broken: (error) => {
      throw error
    },
  })
  const grown: number[] = []
  for (let round = 0; round < 2; round++) {
    collect()
    const before = process.memoryUsage().heapUsed
    for (let n = 0; n < 30_000; n++)
      await new Promise<void>((resolve) => {
        batches.push(n, resolve)
      })
    collect()
    grown.push(process.memoryUsage().heapUsed - before)
  }
  expect(grown[1]! / 30_000, 'bytes of each batch').toBeLessThan(10) // the first round compiles
})

test('a batch is cut at its bound', async () => {
  const sizes: number[] = []
  let done = 0
  const batches = new Batches<number, never>({
    store: () => undefined,
    barrier: () => Promise.resolve(),
    handOnAhead: () => Promise.resolve(undefined),
    handOnAfter: (batch) => {
      sizes.push(batch.length)
      return Promise.resolve({ stored: Promise.resolve() })
    },
    broken: (error) => {
      throw error
    },
  })
  for (let n = 0; n < 2 * batchMessagesMax + 1; n++)
    batches.push(n, () => {
      done++
    })
  await expect.poll(() => done).toBe(2 * batchMessagesMax + 1)
  expect(sizes).toEqual([batchMessagesMax, batchMessagesMax, 1])
})

test.each(['store', 'barrier', 'write'])(
  'nothing from the batch whose %s failed on is done, nor matched after it',
  async (stage) => {
    const { batches, log, gates, gate } = heldStages()
    const push = (n: number): void => batches.push(n, () => log.push(`done ${n}`))
    push(1)
    await gate('store 1')
    push(2)
    await turns(3)
    push(3)
    for (const name of ['store 1', 'barrier 1', 'write 1']) {
      if (name.startsWith(stage)) (await gate(name)).fail()
      else if (gates.some((one) => one.name === name) || stage !== 'store') (await gate(name)).open()
      if (name.startsWith(stage)) break
    }
    for (let n = 0; n < 5; n++) {
      for (const one of gates.splice(0)) if (!one.name.endsWith(' 1')) one.open()
      await turns(5)
    }
    expect(log.filter((line) => line.startsWith('done'))).toEqual([])
    expect(log).toContain(`broken ${stage} 1`) // the node is told
    if (stage !== 'write') expect(log.filter((line) => line.startsWith('write'))).toEqual([])
  },
)

test('closed: what is under way is not done, what waits is not begun', async () => {
  const { batches, log, gate, gates } = heldStages()
  batches.push(1, () => log.push('done'))
  await gate('store 1')
  batches.push(2, () => log.push('done'))
  await turns(3)
  batches.push(3, () => log.push('done'))
  batches.close()
  expect(batches.waiting).toBe(0)
  for (let n = 0; n < 6; n++) {
    for (const one of gates.splice(0)) one.open()
    await turns(5)
  }
  expect(log.filter((line) => line === 'done' || line.includes('3'))).toEqual([])
})
