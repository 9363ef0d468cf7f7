// Whom publishers wait for after Redis lost data: until all of them have spoken, and when it is lost once
// more, until those have.
import { setImmediate as nextTurn } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { AbsentNodes } from '../../bridge/routes/absent-nodes.ts'

test('who waits goes on when every node has spoken, also when data are lost again meanwhile', async () => {
  const absent = new AbsentNodes()
  expect(absent.settled).toBeUndefined()
  absent.await(['a', 'b'])
  let settled = false
  const waiting = absent.settled!.then(() => {
    settled = true
  })
  absent.heard('a')
  absent.await(['a', 'b'])
  absent.heard('b')
  await nextTurn()
  expect(settled).toBe(false)
  absent.heard('a')
  await waiting
  expect(absent.settled).toBeUndefined()
})

test('who has not spoken is waited for, also when data are lost again while nobody else is known', async () => {
  const absent = new AbsentNodes()
  absent.await([])
  expect(absent.settled).toBeUndefined()
  absent.await(['a'])
  absent.await([])
  const waiting = absent.settled
  expect(waiting, 'it has not spoken').toBeDefined()
  absent.heard('a')
  await waiting
  expect(absent.settled).toBeUndefined()
})

test('nobody is waited for without end', async () => {
  const absent = new AbsentNodes()
  absent.await(['gone'])
  await absent.settled
  expect(absent.settled).toBeUndefined()
})
