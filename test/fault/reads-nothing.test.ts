// Clients that read slowly or not at all, while what waits for them is as large as a packet may be.
import { randomBytes } from 'node:crypto'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { startCluster, type TestCluster } from '../support/cluster.ts'
import { WireClient } from '../support/wire.ts'

const large = 17 * 1024 * 1024
let cluster: TestCluster
beforeAll(async () => {
  cluster = await startCluster({
    nodes: 1,
    argv: [
      '--drain-timeout-ms',
      '1000',
      '--packet-bytes-max',
      String(64 * 1024 * 1024),
      '--client-bytes-max',
      String(1024 * 1024 * 1024),
    ],
  })
})
afterAll(() => cluster[Symbol.asyncDispose]())

const will = { will: { topic: 'wills/x', payload: Buffer.from('gone'), qos: 1, retain: false } } as const

test.each([
  ['says nothing', false],
  ['goes on sending', true],
])('who reads nothing and %s is ended after drainTimeoutMs', async (_, sends) => {
  const watcher = await cluster.node(0).connect(`watches ${sends}`)
  await watcher.subscribe('wills/#')
  await using client = await WireClient.connect(cluster.node(0).url, `deaf ${sends}`, will)
  await client.subscribe('flood', { qos: 1 })
  client.socket.pause()
  const pings = setInterval(() => {
    if (sends && client.socket.writable) client.send({ cmd: 'pingreq' })
  }, 50)
  const publisher = await cluster.node(0).connect(`floods ${sends}`)
  // more than the kernel takes
  await Promise.all(Array.from({ length: 16 }, () => publisher.publish('flood', randomBytes(1024 * 1024))))
  await watcher.receives([{ topic: 'wills/x', payload: 'gone' }])
  clearInterval(pings)
})

test.each([
  ['clean', {}],
  ['lasting', { clean: false, properties: { sessionExpiryInterval: 60 } }],
])(
  'the largest packet that is accepted comes to a %s subscriber that reads slowly and pings',
  async (kind, options) => {
    await using client = await WireClient.connect(cluster.node(0).url, `slow ${kind}`, options)
    await client.subscribe(`large/${kind}`)
    const publisher = await cluster.node(0).connect(`publishes ${kind}`)
    client.socket.pause()
    const published = publisher.publish(`large/${kind}`, Buffer.alloc(large, 1))
    let pausing: NodeJS.Timeout | undefined
    const reading = setInterval(() => {
      client.send({ cmd: 'pingreq' })
      client.socket.resume()
      pausing = setTimeout(() => client.socket.pause(), 5)
    }, 25)
    await expect.poll(() => client.packets.some(({ cmd }) => cmd === 'publish')).toBe(true)
    clearInterval(reading)
    clearTimeout(pausing)
    client.socket.resume()
    await published
    // what is sent to it behind the large one is an answer, not that it must go
    client.send({
      cmd: 'subscribe',
      messageId: 2,
      subscriptions: [{ topic: 'another', qos: 0, nl: false, rap: false, rh: 0 }],
    })
    await expect
      .poll(() => client.packets.map(({ cmd }) => cmd).filter((cmd) => cmd !== 'pingresp'))
      .toEqual(['publish', 'suback'])
  },
)
