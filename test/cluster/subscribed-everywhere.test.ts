// P2, subscribed means subscribed everywhere, under attack: hundreds of rounds over three nodes in random
// places, thousands of them in test/long/subscribed-everywhere.test.ts.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { filterMatches } from '../../bridge/matching/topic.ts'
import type { TestClient } from '../support/client.ts'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { seededRandom } from '../support/random.ts'

const lanes = 8
const roundsPerLane = process.env.TEST_ROUNDS === 'all' ? 250 : 20
const rounds = (lanes * roundsPerLane).toLocaleString('en')
const random = seededRandom()

let cluster: TestCluster
let publishers: TestClient[]
beforeAll(async () => {
  console.log(`SEED=${random.seed}`)
  cluster = await startCluster({ nodes: 3 })
  publishers = await Promise.all(cluster.nodes.map((node, i) => node.connect(`publisher-${i}`)))
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

/** Runs `lane` eight times at once, each with a subscriber on every node. */
async function inLanes(
  name: string,
  lane: (subscribers: TestClient[], lane: number) => Promise<void>,
): Promise<void> {
  await Promise.all(
    Array.from({ length: lanes }, async (_, i) => {
      const subscribers = await Promise.all(cluster.nodes.map((node, n) => node.connect(`${name}-${i}-${n}`)))
      await lane(subscribers, i)
      for (const subscriber of subscribers) await subscriber.disconnect()
    }),
  )
}

test(`${rounds} rounds of subscribe → SUBACK → publish elsewhere: nothing is missed, nothing comes after an UNSUBACK`, async () => {
  await inLanes('live', async (subscribers, lane) => {
    const topicOf = (round: number): string => `live/${lane}/${round % 7}/x`
    // What was on its way to a node when a new subscription was made there may still come to that one.
    const isOlder = (payload: string, filter: string): boolean =>
      payload.startsWith('after ') && filterMatches(filter, topicOf(Number(payload.slice(6))))
    for (let round = 0; round < roundsPerLane; round++) {
      const subscriber = random.pick(subscribers)
      const topic = topicOf(round)
      const filter = random.pick([topic, `live/${lane}/+/x`, `live/${lane}/#`, `+/${lane}/${round % 7}/+`])
      await subscriber.subscribe(filter, { qos: 1 })
      await random.pick(publishers).publish(topic, `in ${round}`, { qos: 1 })
      await subscriber.arrives((packet) => packet.payload.toString() === `in ${round}`)
      expect(subscriber.takeAll().filter((payload) => !isOlder(payload, filter))).toEqual([`in ${round}`])
      await subscriber.unsubscribe(filter)
      await random.pick(publishers).publish(topic, `after ${round}`, { qos: 1 })
    }
    for (const subscriber of subscribers) await subscriber.receives([])
  })
})

test(`${rounds} rounds of retained publish → PUBACK → subscribe elsewhere: each subscription gets it`, async () => {
  await inLanes('retained', async (subscribers, lane) => {
    for (let round = 0; round < roundsPerLane; round++) {
      const subscriber = random.pick(subscribers)
      const topic = `retained/${lane}/${round % 7}`
      await random.pick(publishers).publish(topic, `${round}`, { qos: 1, retain: true })
      await subscriber.subscribe(topic, { qos: 1 })
      await subscriber.arrivals(1)
      expect(subscriber.takeAll()).toEqual([`${round}`])
      await subscriber.unsubscribe(topic)
    }
  })
})

test(`${rounds} rounds of a retained update during a SUBSCRIBE elsewhere: nobody ends with an older value`, async () => {
  await inLanes('race', async (subscribers, lane) => {
    const publisher = random.pick(publishers)
    const topic = `race/${lane}`
    for (let round = 1; round <= roundsPerLane; round++) {
      const subscriber = random.pick(subscribers)
      const filter = random.pick([topic, `race/${lane}/#`])
      const updates = [`${round}.1`, `${round}.2`]
      await Promise.all([
        subscriber.subscribe(filter, { qos: 1 }),
        ...updates.map((value) => publisher.publish(topic, value, { qos: 1, retain: true })),
      ])
      await subscriber.arrives((packet) => packet.payload.toString() === updates[1])
      await subscriber.ping()
      expect(subscriber.takeAll().at(-1)).toBe(updates[1])
      await subscriber.unsubscribe(filter)
      await subscriber.ping()
      subscriber.takeAll()
    }
  })
})
