// `durabilityReplicas`: nothing is acknowledged before so many replicas have it, and nothing else waits for
// them.
import { expect, test } from 'vitest'
import { startSentinel } from '../support/redis-cluster.ts'
import { keys, listen, messageOf, openClient, publish, startPlane, untilEqual } from './planes.ts'

test('while the replica does not answer nothing is acknowledged, the lease goes on, and what waited completes once', async () => {
  await using store = await startSentinel()
  const [master] = await store.masters()
  const replica = store.servers.find((server) => server !== master)!
  using admin = openClient(master!)
  await using a = await startPlane(master!, 'a', { leaseMs: 1_000, replicas: 1 })
  await using b = await startPlane(master!, 'b', { leaseMs: 1_000, replicas: 1 })
  await untilEqual([a, b])
  await b.plane.addRoute('t', 1)
  const session = await b.plane.sessions.claim({
    clientId: 'client',
    cleanStart: false,
    expirySeconds: 600,
    will: undefined,
  })
  await b.plane.sessions.subscriptions.subscribe(session, 't', { options: 1, identifier: undefined })
  using gone = listen('nodeGone')
  replica.pause()
  let acknowledged = 0
  const published = Array.from({ length: 20 }, (_, n) =>
    publish(a, messageOf('t', String(n))).then(() => {
      acknowledged++
    }),
  )
  const renewed = async (): Promise<string | null> => admin.hget(keys.bus('leases'), a.plane.nodeId)
  for (let times = 0, last = await renewed(); times < 10; times++)
    await expect
      .poll(renewed, { timeout: 10_000 })
      .not.toBe(last)
      .then(async () => {
        last = await renewed()
      })
  expect([acknowledged, gone.events.length, a.fenced, b.fenced]).toEqual([0, 0, false, false])
  replica.resume()
  await Promise.all(published)
  // it reads its inbox in a while
  await expect.poll(() => b.payloads).toEqual(published.map((_, n) => String(n)))
  expect(await admin.llen(keys.session(session.sid, 'queue'))).toBe(20)
})
