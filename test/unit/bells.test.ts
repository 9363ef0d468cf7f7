// Bells against a journal that is as slow as the test likes.
import { expect, test } from 'vitest'
import { Bells } from '../../bridge/publish/bells.ts'

test('a node that joined and was not heard of yet is rung once it is; one that is gone is not', async () => {
  const known = new Set(['old'])
  const rung: string[] = []
  const caughtUp: (() => void)[] = []
  const bells = new Bells({
    isKnown: (nodeId) => known.has(nodeId),
    ring: (nodeId, sid) => {
      rung.push(`${nodeId} ${sid}`)
    },
    catchUp: () =>
      new Promise((resolve) => {
        caughtUp.push(resolve)
      }),
  })
  for (const [nodeId, sid] of [
    ['old', '1'],
    ['new', '2'],
    ['gone', '3'],
  ] as const)
    bells.ring(nodeId, sid)
  expect(rung).toEqual(['old 1'])
  bells.ring('newer', '4') // may have joined behind what is being asked for
  known.add('new')
  caughtUp[0]!()
  await expect.poll(() => caughtUp.length).toBe(2)
  expect(rung).toEqual(['old 1', 'new 2'])
  known.add('newer')
  caughtUp[1]!()
  await expect.poll(() => rung).toEqual(['old 1', 'new 2', 'newer 4'])
  expect(caughtUp).toHaveLength(2)
})
