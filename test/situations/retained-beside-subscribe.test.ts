// What is retained around a SUBSCRIBE: what was there before comes because of it, once, with RETAIN 1; what
// is published from the SUBACK on comes as it is published, once, with RETAIN as the subscription says
// [MQTT-3.3.1-9..13]; what is published in the very moment comes once, as the one or the other.
import { describe, expect, test } from 'vitest'
import type { Received, TestClient } from '../support/client.ts'
import { seededRandom } from '../support/random.ts'
import { situation } from '../support/situation.ts'

const rounds = 6
const kinds = ([0, 1, 2] as const).flatMap((qos) => [
  { qos, clean: true },
  { qos, clean: false },
])

/** All that came on a topic. */
const cameOn = ({ packets }: TestClient, wanted: string): Received[] =>
  packets
    .filter(({ topic }) => topic === wanted)
    .map(({ payload, qos, retain }) => ({ topic: wanted, payload: payload.toString(), qos, retain }))

situation('retained beside SUBSCRIBE', (place) => {
  describe.each(kinds)('QoS $qos, clean $clean', ({ qos, clean }) => {
    const who = `${qos}-${clean ? 'clean' : 'lasting'}`
    const both = (name: string): Promise<[subscriber: TestClient, publisher: TestClient]> =>
      Promise.all([
        place.connect(`${name}-${who}`, {
          clean,
          properties: { sessionExpiryInterval: clean ? 0 : 600, receiveMaximum: 10 },
        }),
        place.connectThere(`${name}-publisher-${who}`),
      ])
    const filterOf = (topic: string, round: number): string => (round % 2 === 0 ? `${topic}/#` : topic)

    test('what was stored before comes once, with RETAIN 1', async () => {
      const [subscriber, publisher] = await both('before')
      const topics = Array.from({ length: rounds }, (_, round) => `before/${who}/${round}`)
      for (const [round, topic] of topics.entries()) {
        await publisher.publish(topic, 'kept', { qos: 1, retain: true })
        await subscriber.subscribe(filterOf(topic, round), { qos })
        await subscriber.arrives((packet) => packet.topic === topic)
        await publisher.publish(topic, '', { qos: 1, retain: true })
      }
      await subscriber.arrivals(2 * rounds)
      await subscriber.settle()
      const least = Math.min(qos, 1) as 0 | 1
      for (const topic of topics)
        expect(cameOn(subscriber, topic)).toEqual([
          { topic, payload: 'kept', qos: least, retain: true },
          { topic, payload: '', qos: least, retain: false },
        ])
    })

    test('what is published from SUBACK on comes once, live, whatever was there', async () => {
      const [subscriber, publisher] = await both('behind')
      const topics = Array.from({ length: rounds }, (_, round) => `behind/${who}/${round}`)
      for (const [round, topic] of topics.entries()) {
        if (round % 3 === 0) await publisher.publish(topic, 'old', { qos: 1, retain: true })
        await subscriber.subscribe(filterOf(topic, round), { qos, rap: round % 4 > 1 })
        await publisher.publish(topic, 'new', { qos, retain: true })
        await publisher.publish(topic, 'newer', { qos, retain: true })
      }
      await subscriber.arrives(
        ({ topic, payload }) => topic === topics.at(-1) && payload.toString() === 'newer',
      ) // of one publisher the last one
      await subscriber.settle()
      for (const [round, topic] of topics.entries()) {
        const retain = round % 4 > 1
        const [first, ...others] = cameOn(subscriber, topic)
        // What was there comes first. Out of a queue that is read from Redis a newer value may be there
        // sooner: then the old one is left out.
        const live = round % 3 === 0 && first?.payload === 'old' ? others : [first, ...others]
        expect(live).toEqual([
          { topic, payload: 'new', qos, retain },
          { topic, payload: 'newer', qos, retain },
        ])
        if (round % 3 === 0 && (clean || qos === 0)) expect(live).toBe(others)
        if (live === others)
          expect(first).toEqual({ topic, payload: 'old', qos: Math.min(qos, 1), retain: true })
      }
    })

    test('what is published in the very moment comes once', async () => {
      const random = seededRandom()
      const [subscriber, publisher] = await both('moment')
      const topics = Array.from({ length: rounds * 2 }, (_, round) => `moment/${who}/${round}`)
      for (const [round, topic] of topics.entries()) {
        if (round % 3 === 0) await publisher.publish(topic, 'old', { qos: 1, retain: true })
        const subscribed = subscriber.subscribe(filterOf(topic, round), { qos })
        for (let turn = random.below(8); turn > 0; turn--)
          await new Promise((resolve) => setImmediate(resolve))
        await Promise.all([subscribed, publisher.publish(topic, 'new', { qos, retain: true })])
        await publisher.publish(topic, 'last', { qos, retain: true })
      }
      await subscriber.arrives(
        ({ topic, payload }) => topic === topics.at(-1) && payload.toString() === 'last',
      )
      await subscriber.settle()
      for (const topic of topics) {
        const got = cameOn(subscriber, topic).map(({ payload }) => payload)
        // The new value may have been replaced before it was read.
        expect(
          got.filter((payload) => payload !== 'old'),
          `${topic}, SEED=${random.seed}`,
        ).toEqual(got.includes('new') ? ['new', 'last'] : ['last'])
        expect(got.lastIndexOf('old'), topic).toBeLessThan(1)
      }
    })
  })
})
