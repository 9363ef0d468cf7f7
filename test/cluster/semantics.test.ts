// What a subscription's options and identifiers mean, on the publisher's own node and on another alike.
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({ nodes: 2 })
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
})

describe.each([
  { where: 'local', node: 0 },
  { where: 'remote', node: 1 },
])('$where delivery', ({ where, node }) => {
  const connect = (id: string) => cluster.node(node).connect(`${where}-${id}`, { version: 5 })
  const publisher = () => cluster.node(0).connect(`${where}-publisher-${Math.random()}`, { version: 5 })

  test('[MQTT-3.3.4-4] overlapping subscriptions: one copy at the highest QoS, with every Subscription Identifier', async () => {
    const client = await connect('overlap')
    await client.subscribe(`${where}/o/#`, { qos: 0, properties: { subscriptionIdentifier: 7 } })
    await client.subscribe(`${where}/o/+`, { qos: 1, properties: { subscriptionIdentifier: 300 } })
    await client.subscribe(`${where}/o/x`, { qos: 0 })
    await (await publisher()).publish(`${where}/o/x`, 'once', { qos: 1 })
    await client.receives([{ topic: `${where}/o/x`, payload: 'once', qos: 1 }])
    expect([client.packets[0]!.properties?.subscriptionIdentifier].flat().sort()).toEqual([300, 7])
  })

  test('[MQTT-3.8.4-8] QoS is the lower of the two', async () => {
    const client = await connect('qos')
    const from = await publisher()
    for (const granted of [0, 1, 2] as const) {
      await client.subscribe(`${where}/qos`, { qos: granted })
      for (const qos of [0, 1, 2] as const) {
        await from.publish(`${where}/qos`, `${qos}`, { qos })
        await client.receives([
          { topic: `${where}/qos`, payload: `${qos}`, qos: Math.min(qos, granted) as 0 | 1 | 2 },
        ])
      }
    }
  })

  test('[MQTT-3.3.1-12] [MQTT-3.3.1-13] Retain As Published keeps the flag, without it the flag is cleared', async () => {
    const [keeps, clears] = [await connect('rap'), await connect('no-rap')]
    await keeps.subscribe(`${where}/rap`, { rap: true })
    await clears.subscribe(`${where}/rap`)
    await (await publisher()).publish(`${where}/rap`, 'flag', { retain: true })
    await keeps.receives([{ topic: `${where}/rap`, payload: 'flag', retain: true }])
    await clears.receives([{ topic: `${where}/rap`, payload: 'flag', retain: false }])
  })

  test('[MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11] Retain Handling 0, 1 and 2', async () => {
    await (await publisher()).publish(`${where}/rh`, 'kept', { retain: true })
    const client = await connect('rh')
    const kept = { topic: `${where}/rh`, payload: 'kept', retain: true }
    await client.subscribe(`${where}/rh`, { rh: 2 })
    await client.receives([])
    await client.subscribe(`${where}/rh`, { rh: 1 })
    await client.receives([])
    await client.subscribe(`${where}/rh`, { rh: 0 })
    await client.receives([kept])
    await client.unsubscribe(`${where}/rh`)
    await client.subscribe(`${where}/rh`, { rh: 1 })
    await client.receives([kept])
  })

  test('[MQTT-3.3.2-17] [MQTT-3.3.2-20] properties of a PUBLISH reach MQTT 5 subscribers unchanged', async () => {
    const client = await connect('properties')
    await client.subscribe(`${where}/properties`)
    const properties = {
      payloadFormatIndicator: true,
      contentType: 'text/plain',
      responseTopic: 'answers/here',
      correlationData: Buffer.from([0, 1, 255]),
      userProperties: { unit: 'C', site: ['a', 'b'] },
    }
    await (await publisher()).publish(`${where}/properties`, 'all', { properties })
    await client.receives([{ topic: `${where}/properties`, payload: 'all' }])
    expect(client.packets[0]!.properties).toMatchObject(properties)
  })

  test('[MQTT-4.7.2-1] wildcards do not match topics that begin with $; such a filter does', async () => {
    const client = await connect('dollar')
    await client.subscribe(['#', '+/dollar'], { qos: 1, rh: 2 })
    const from = await publisher()
    await from.publish(`$${where}/dollar`, 'hidden')
    await client.subscribe(`$${where}/+`)
    await from.publish(`$${where}/dollar`, 'seen')
    await client.receives([{ topic: `$${where}/dollar`, payload: 'seen' }])
  })

  test('[MQTT-4.7.1-2] empty levels are levels', async () => {
    const client = await connect('empty')
    await client.subscribe([`${where}/+/`, `+/${where}`, `${where}e/#`], { qos: 1 })
    const from = await publisher()
    for (const topic of [`${where}//`, `/${where}`, `${where}e`, `${where}e//`]) {
      await from.publish(topic, topic)
      await client.receives([{ topic, payload: topic }])
    }
    await from.publish(where, 'no level')
    await client.receives([])
  })
})

test("[MQTT-3.8.3-3] No Local: nothing of one's own, all of others", async () => {
  const client = await cluster.node(0).connect('no-local', { version: 5 })
  await client.subscribe('nl/#', { nl: true, qos: 1 })
  await client.publish('nl/x', 'own')
  await cluster.node(1).publish('nl/x', 'remote')
  await client.receives([{ topic: 'nl/x', payload: 'remote' }])
})

test('clients cannot publish under $SYS, and stay connected under MQTT 5', async () => {
  const client = await cluster.node(0).connect('sys', { version: 5 })
  await expect(client.publish('$SYS/a/new/clients', 'sys', { qos: 1 })).rejects.toThrow()
  expect(client.mqtt.connected).toBe(true)
})

test('[MQTT-4.6.0-2] [MQTT-4.6.0-3] a PUBLISH that is refused is answered in the order of the PUBLISHes', async () => {
  const client = await WireClient.connect(cluster.node(0).url, 'refused')
  for (const qos of [1, 2] as const) {
    const topics = ['t/1', '$SYS/2', '$SYS/3', 't/4', '$SYS/5']
    const base = { cmd: 'publish', payload: 'x', retain: false, dup: false, qos } as const
    client.send(...topics.map((topic, i) => ({ ...base, topic, messageId: i + 1 })))
    const answers: unknown[] = []
    while (answers.length < topics.length) {
      const { messageId, reasonCode } = await client.next(qos === 1 ? 'puback' : 'pubrec')
      answers.push([messageId, reasonCode])
    }
    expect(answers).toEqual(topics.map((topic, i) => [i + 1, topic.startsWith('$') ? 0x87 : 0]))
  }
})
