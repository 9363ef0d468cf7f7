// One publisher, one subscriber with a filter that matches both topics: the order of each topic is kept
// [MQTT-4.6.0-6].
import { expect, test } from 'vitest'
import { situation } from '../support/situation.ts'

situation('messages of one publisher on two topics', ({ connect, connectThere }) => {
  test.each([0, 1, 2] as const)('come in the order of each topic, QoS %i', async (qos) => {
    const subscriber = await connect(`order-subscriber-${qos}`)
    const publisher = await connectThere(`order-publisher-${qos}`)
    await subscriber.subscribe(`order/${qos}/+`, { qos })
    // all on their way at once: one by one nothing could overtake
    await Promise.all(
      Array.from({ length: 20 }, (_, n) => publisher.publish(`order/${qos}/${n % 2}`, String(n), { qos })),
    )
    await subscriber.arrivals(20)
    const got = subscriber.packets.map(({ topic, payload }) => `${topic} ${payload.toString()}`)
    for (const topic of [0, 1]) {
      const wanted = Array.from({ length: 10 }, (_, i) => `order/${qos}/${topic} ${2 * i + topic}`)
      expect(got.filter((line) => line.startsWith(`order/${qos}/${topic} `))).toEqual(wanted)
    }
  })
})
