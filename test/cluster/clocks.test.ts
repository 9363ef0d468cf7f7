// Clocks are not trusted (P14): a Message Expiry Interval counts down from what was received, whatever the
// wall clocks of the nodes say, apart by 20 ms or by an hour, before or behind, or stepping while messages
// wait. Each node's clock is its own here (test/support/inside.ts); Redis has the machine's.
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

const never = 0xffffffff
const hour = 3_600_000
const lasting = { clean: false, properties: { sessionExpiryInterval: 600 } } as const
const wire = (node: number, id: string, options: Parameters<typeof WireClient.connect>[2] = {}) =>
  WireClient.connect(cluster.node(node).url, id, options)

interface Sent {
  readonly payload: string
  readonly messageExpiryInterval: number
}

/** Publishes with these intervals, QoS as given, and waits until all are acknowledged. */
async function publish(
  node: number,
  topic: string,
  qos: 0 | 1 | 2,
  sent: readonly Sent[],
  retain = false,
): Promise<void> {
  const publisher = await cluster.node(node).connect(`publisher-${Math.random()}`, { version: 5 })
  for (const { payload, messageExpiryInterval } of sent)
    await publisher.publish(topic, payload, { qos, retain, properties: { messageExpiryInterval } })
  await publisher.disconnect()
}

/** The next messages, each acknowledged: payload and interval. */
async function take(client: WireClient, count: number): Promise<Sent[]> {
  const got: Sent[] = []
  while (got.length < count) {
    const packet = await client.any('publish')
    if (packet.cmd !== 'publish') continue // PUBREL
    if (packet.qos > 0)
      client.send({ cmd: packet.qos === 1 ? 'puback' : 'pubrec', messageId: packet.messageId! })
    got.push({
      payload: String(packet.payload),
      messageExpiryInterval: packet.properties!.messageExpiryInterval!,
    })
  }
  return got
}

/** As sent, or less by what the machine took: never more. */
function expectCounted(got: readonly Sent[], sent: readonly Sent[]): void {
  expect(got.map(({ payload }) => payload)).toEqual(sent.map(({ payload }) => payload))
  for (const [i, { messageExpiryInterval }] of got.entries()) {
    expect(messageExpiryInterval, got[i]!.payload).toBeLessThanOrEqual(sent[i]!.messageExpiryInterval)
    expect(messageExpiryInterval, got[i]!.payload).toBeGreaterThanOrEqual(sent[i]!.messageExpiryInterval - 3)
  }
}

const all: readonly Sent[] = [never, 4_294_000_000, 60, 5].map((messageExpiryInterval) => ({
  payload: `expires in ${messageExpiryInterval}`,
  messageExpiryInterval,
}))

describe.each([-hour, -1_500, -20, 20, 1_500, hour])('a node whose clock is %i ms apart', (ms) => {
  beforeAll(async () => {
    await cluster.node(1).setClock(ms)
  })

  test.each([
    ['to it', 0, 1],
    ['from it', 1, 0],
    ['on it', 1, 1],
  ] as const)(
    'live, %s: every QoS, clean and lasting, each once with its interval',
    async (where, from, to) => {
      const subscribers = await Promise.all(
        [{}, lasting].map((options, i) => wire(to, `live ${ms} ${where} ${i}`, options)),
      )
      for (const subscriber of subscribers) await subscriber.subscribe(`live/${ms}/#`, { qos: 2 })
      for (const qos of [0, 1, 2] as const) await publish(from, `live/${ms}/${qos}`, qos, all)
      for (const subscriber of subscribers) {
        for (let qos = 0; qos < 3; qos++) expectCounted(await take(subscriber, all.length), all)
        expect((await subscriber.settled()).filter(({ cmd }) => cmd === 'publish')).toEqual([])
        await subscriber[Symbol.asyncDispose]()
      }
    },
  )

  test('queued, retained and in wills: from both nodes to both', async () => {
    const name = `rest/${ms}`
    for (const to of [0, 1]) {
      const away = await wire(1 - to, `${name} ${to}`, lasting)
      await away.subscribe(`${name}/queued/#`, { qos: 2 })
      away.socket.destroy()
      await away.closed
    }
    for (const from of [0, 1]) {
      await publish(from, `${name}/queued/${from}`, 1, all)
      await publish(from, `${name}/retained/${from}`, 1, [all[3]!], true)
      const doomed = await wire(from, `${name} doomed ${from}`, {
        will: {
          topic: `${name}/retained/will ${from}`,
          payload: Buffer.from('will'),
          qos: 1,
          retain: true,
          properties: { messageExpiryInterval: 5 },
        },
      })
      doomed.socket.destroy()
    }
    for (const to of [0, 1]) {
      await using back = await wire(to, `${name} ${to}`, lasting)
      expectCounted(await take(back, 8), [...all, ...all])
      await using late = await wire(to, `${name} late ${to}`)
      await late.subscribe(`${name}/retained/#`)
      const got = (await take(late, 4)).sort((a, b) => (a.payload < b.payload ? -1 : 1))
      expectCounted(got, [
        all[3]!,
        all[3]!,
        { payload: 'will', messageExpiryInterval: 5 },
        { payload: 'will', messageExpiryInterval: 5 },
      ])
    }
  })
})

test('a clock that steps while messages wait changes none: in the window, in the queue, retained', async () => {
  await cluster.node(1).setClock(0)
  const sent: readonly Sent[] = [
    { payload: 'short', messageExpiryInterval: 1 },
    { payload: 'long', messageExpiryInterval: 30 },
  ]
  await using slow = await wire(1, 'step slow', { properties: { receiveMaximum: 1 } })
  await using stored = await wire(1, 'step stored', {
    clean: false,
    properties: { sessionExpiryInterval: 600, receiveMaximum: 1 },
  })
  for (const client of [slow, stored]) {
    await client.subscribe('step/#', { qos: 1 })
    await publish(1, 'step/first', 1, [{ payload: 'first', messageExpiryInterval: 30 }])
  }
  await publish(0, 'step/rest', 1, sent)
  await publish(0, 'step/kept', 1, sent.slice(1), true)
  await cluster.node(1).setClock(-hour)
  await new Promise((resolve) => setTimeout(resolve, 1_100)) // the short one expires in real time
  await cluster.node(1).setClock(hour)
  const [live, queued] = [await take(slow, 4), await take(stored, 3)]
  expect([live.map(({ payload }) => payload), queued.map(({ payload }) => payload)]).toEqual([
    ['first', 'first', 'long', 'long'],
    ['first', 'long', 'long'],
  ])
  for (const { messageExpiryInterval } of [...live.slice(1), ...queued.slice(1)]) {
    expect(messageExpiryInterval).toBeLessThanOrEqual(29)
    expect(messageExpiryInterval).toBeGreaterThan(20)
  }
  await using late = await wire(1, 'step late')
  await late.subscribe('step/kept')
  expectCounted(await take(late, 1), sent.slice(1))
  expect(cluster.nodes.map(({ running }) => running)).toEqual([true, true])
})

test('the largest numbers that MQTT has: a session, a will and its delay', async () => {
  await using watcher = await wire(0, 'largest watcher')
  await watcher.subscribe('largest', { qos: 1 })
  const largest = {
    clean: false,
    properties: { sessionExpiryInterval: 0xfffffffe },
    will: {
      topic: 'largest',
      payload: Buffer.from('will'),
      qos: 1,
      retain: false,
      properties: { willDelayInterval: never, messageExpiryInterval: never },
    },
  } as const
  for (const present of [false, true, true]) {
    const client = await wire(1, 'largest', largest)
    expect(client.connack.sessionPresent).toBe(present)
    client.socket.destroy()
    await client.closed
  }
  await using last = await wire(1, 'largest', { clean: true }) // ends the session, and its will is due
  expectCounted(await take(watcher, 1), [{ payload: 'will', messageExpiryInterval: never }])
  expect((await watcher.settled()).length + (await last.settled()).length).toBe(0)
})
