// The barrier that all who ask while a round trip is under way share.
import { expect, test } from 'vitest'
import { SharedBarrier } from '../../bridge/routes/shared-barrier.ts'

const settle = async (): Promise<void> => {
  for (let i = 0; i < 20; i++) await Promise.resolve()
}

test('a barrier that is asked for while another is under way begins behind it, once for all', async () => {
  const calls: { resolve: () => void; reject: (error: Error) => void }[] = [] // answered by hand, in order
  const barrier = new SharedBarrier(
    () =>
      new Promise<void>((resolve, reject) => {
        calls.push({ resolve, reject })
      }),
  )
  const passed: number[] = []
  const pass = (n: number): void => {
    barrier.pass().then(
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
