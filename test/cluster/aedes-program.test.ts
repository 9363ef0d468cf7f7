// A program that was written for Aedes, run with Aedes and with ours: nothing but the import is another. What it hears
// by hooks and events, and what its clients see, is the same, but for what broker/EMBEDDING.md says.
import { Aedes as Original } from 'aedes'
import { once } from 'node:events'
import { createServer, type AddressInfo } from 'node:net'
import { expect, test } from 'vitest'
import { Aedes as Ours, type Client } from '../../broker/index.ts'
import { TestClient } from '../support/client.ts'

/** What the program below needs of either. */
type Broker = typeof Ours

/** @returns what happened, each kind in its order */
async function program(Aedes: Broker): Promise<Record<string, unknown[]>> {
  const heard: Record<string, unknown[]> = {}
  const say = (kind: string, ...what: unknown[]): void => {
    ;(heard[kind] ??= []).push(what.length === 1 ? what[0] : what)
  }
  const aedes = await Aedes.createBroker({
    id: 'broker',
    preConnect: (client, packet, callback) => {
      say('preConnect', packet.clientId, typeof client.conn.write)
      callback(null, true)
    },
    authenticate: (client, username, password, callback) => {
      say('authenticate', client.id, username, password?.toString())
      if (username === 'nobody') return callback(Object.assign(new Error('who?'), { returnCode: 4 }), false)
      setImmediate(callback, null, username === 'user')
    },
  })
  aedes.authorizePublish = (client, packet, callback) => {
    say('authorizePublish', client?.id, packet.topic, packet.payload.toString())
    if (packet.topic === 'changed') packet.payload = Buffer.from('other')
    callback(packet.topic === 'forbidden' ? new Error('forbidden') : null)
  }
  aedes.authorizeSubscribe = (client, subscription, callback) => {
    say('authorizeSubscribe', client.id, subscription.topic, subscription.qos)
    callback(null, subscription.topic === 'hidden' ? null : subscription)
  }
  aedes.authorizeForward = (client, packet) =>
    packet.topic === 'private' && client.id === 'reader' ? null : packet
  aedes.published = (packet, client, callback) => {
    if (!packet.topic.startsWith('$SYS')) say('published', packet.topic, client?.id)
    callback()
  }
  const tell =
    (kind: string) =>
    (client: Client): void =>
      say(kind, client.id)
  for (const kind of ['client', 'clientReady', 'clientDisconnect'] as const) aedes.on(kind, tell(kind))
  aedes.on('clientError', (client, error) => say('clientError', client.id, error.message))
  aedes.on('connackSent', (packet, client) =>
    say('connackSent', client.id, packet.returnCode ?? packet.reasonCode),
  )
  aedes.on('subscribe', (all, client) =>
    say('subscribe', client.id, all.map(({ topic, qos }) => `${topic} ${qos}`).sort()),
  )
  aedes.on('unsubscribe', (all, client) => {
    if (!client.closed) say('unsubscribe', client.id, all)
  })
  aedes.on('publish', (packet, client) => {
    if (!packet.topic.startsWith('$SYS'))
      say('publish', packet.topic, packet.payload.toString(), packet.qos, client?.id)
  })
  aedes.on('ack', (_packet, client) => say('ack', client.id)) // of a clean session Aedes has no packet here
  aedes.on('ping', (packet, client) => say('ping', packet.cmd, client.id))
  aedes.on('closed', () => say('closed', aedes.closed))

  const server = createServer(aedes.handle).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const url = `mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`
  const options = { username: 'user', password: 'secret', version: 5 } as const
  await TestClient.connect(url, 'stranger', { ...options, username: 'nobody' }).catch(() =>
    say('refused', 'stranger'),
  )
  const reader = await TestClient.connect(url, 'reader', options)
  await reader.subscribe(['open/#', 'changed', 'private', 'own'], { qos: 2 })
  await reader.mqtt.subscribeAsync('hidden').catch(() => say('refused', 'hidden'))
  await reader.unsubscribe('own')
  const writer = await TestClient.connect(url, 'writer', options)
  for (const [topic, qos] of [
    ['open/1', 1],
    ['changed', 0],
    ['private', 1],
    ['open/2', 2],
  ] as const)
    await writer.publish(topic, 'text', { qos })
  await writer
    .publish('forbidden', 'text', { qos: 1 })
    .catch((error: unknown) => say('refused', String(error)))
  await reader.arrivals(3)
  const deliver = (packet: { topic: string; payload: Buffer | string }, callback: () => void): void => {
    say('delivered', packet.topic, packet.payload.toString())
    callback()
  }
  await new Promise<void>((resolve) => aedes.subscribe('by/+', deliver, resolve))
  await new Promise<void>((resolve) =>
    aedes.publish(
      { cmd: 'publish', topic: 'by/broker', payload: 'text', qos: 1, retain: false, dup: false },
      () => resolve(),
    ),
  )
  await expect.poll(() => heard.delivered).toHaveLength(1)
  await new Promise<void>((resolve) => aedes.unsubscribe('by/+', deliver, resolve))
  await writer.ping()
  await expect.poll(() => heard.ack).toHaveLength(2)
  say(
    'received',
    ...reader.packets.map(({ topic, payload, qos }) => `${topic} ${payload.toString()} ${qos}`).sort(),
  )
  await writer.disconnect()
  await expect.poll(() => heard.clientDisconnect).toHaveLength(1)
  const ended = new Promise<void>((resolve) => reader.mqtt.once('close', () => resolve()))
  await new Promise<void>((resolve) => void aedes.close(resolve))
  await ended
  say('told', reader.serverDisconnect)
  server.close()
  return heard
}

test('a program of Aedes does the same with ours', async () => {
  const original = await program(Original as unknown as Broker)
  const ours = await program(Ours)
  expect(ours).toEqual(original)
})
