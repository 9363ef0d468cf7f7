// One call under way for all who ask: a barrier, for who asks while another one is on its way.
import { expect, test } from 'vitest'
import { SingleFlight } from '../../bridge/pace/single-flight.ts'

const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve()
}

test('a barrier that is asked for while another is under way begins behind it, once for all', async () => {
  const calls: { resolve: () => void; reject: (error: Error) => void }[] = [] // answered by hand, in order
  const barrier = new SingleFlight(
    () =>
      new Promise<void>((resolve, reject) => {
        calls.push({ resolve, reject })
      }),
  )
  const passed: number[] = []
  const pass = (n: number): void => {
    barrier.next().then(
      () => passed.push(n),
      () => passed.push(-n),
    )
  }
  pass(1)
  pass(2)
  pass(3)
  expect(calls).toHaveLength(1)
  calls[0]!.reject(new Error('no'))
  await settle()
  expect([passed, calls.length]).toEqual([[-1], 2])
  pass(4)
  calls[1]!.resolve()
  await settle()
  expect([passed, calls.length]).toEqual([[-1, 2, 3], 3])
  calls[2]!.resolve()
  await settle()
  expect(passed).toEqual([-1, 2, 3, 4])
})

test('who asks for the current one joins it, and one that failed is over', async () => {
  const calls: { resolve: (value: number) => void; reject: (error: Error) => void }[] = []
  const probe = new SingleFlight(
    () =>
      new Promise<number>((resolve, reject) => {
        calls.push({ resolve, reject })
      }),
  )
  const [first, same] = [probe.current(), probe.current()]
  expect([calls.length, first === same, probe.isUnderWay]).toEqual([1, true, true])
  calls[0]!.reject(new Error('no'))
  await expect(first).rejects.toThrow('no')
  expect(probe.isUnderWay).toBe(false)
  const again = probe.current()
  calls[1]!.resolve(2)
  expect(await again).toBe(2)
})
