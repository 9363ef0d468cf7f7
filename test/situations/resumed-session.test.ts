// A session is a session, however long it is to live: one that is resumed without a Session Expiry Interval
// brings what waited for it, what was in flight and the PUBREL that is owed, and ends with its connection
// [MQTT-3.1.2-23] [MQTT-4.4.0-1].
import { expect, test } from 'vitest'
import { situation } from '../support/situation.ts'

const kept = { clean: true, properties: { sessionExpiryInterval: 1_000 } } as const
const resumed = { clean: false } as const

situation('a session that is resumed without an expiry', ({ connectThere, wire, wireThere }) => {
  test('brings what was queued, and is gone afterwards', async () => {
    const first = await wire('queued', kept)
    await first.subscribe('queued/#')
    first.send({ cmd: 'disconnect', reasonCode: 0 })
    await first.closed
    const publisher = await connectThere('publishes queued')
    for (const payload of ['1', '2', '3']) await publisher.publish('queued/x', payload)
    const again = await wireThere('queued', resumed)
    expect(again.connack.sessionPresent).toBe(true)
    for (const payload of ['1', '2', '3']) {
      const message = await again.next('publish')
      expect(String(message.payload)).toBe(payload)
      again.send({ cmd: 'puback', messageId: message.messageId! })
    }
    await publisher.publish('queued/x', 'live')
    const live = await again.next('publish')
    expect(String(live.payload)).toBe('live')
    again.send({ cmd: 'puback', messageId: live.messageId! }, { cmd: 'disconnect', reasonCode: 0 })
    await again.closed
    const third = await wire('queued', resumed)
    expect(third.connack.sessionPresent).toBe(false)
    third.socket.destroy()
  })

  test('sends what was in flight again, and the PUBREL that is owed', async () => {
    const first = await wire('in flight', kept)
    await first.subscribe('in-flight/#', { qos: 2 })
    const publisher = await connectThere('publishes in flight')
    await publisher.publish('in-flight/1', 'one', { qos: 1 })
    const one = await first.next('publish')
    await publisher.publish('in-flight/2', 'two', { qos: 2 })
    const two = await first.next('publish')
    first.send({ cmd: 'pubrec', messageId: two.messageId! })
    await first.next('pubrel')
    first.socket.destroy()
    await first.closed
    const again = await wireThere('in flight', resumed)
    expect(await again.next('publish')).toMatchObject({
      topic: 'in-flight/1',
      messageId: one.messageId,
      dup: true,
    })
    expect(await again.next('pubrel')).toMatchObject({ messageId: two.messageId })
    again.send({ cmd: 'puback', messageId: one.messageId! }, { cmd: 'pubcomp', messageId: two.messageId! })
    expect(await again.settled()).toEqual([])
    again.socket.destroy()
  })

  test('knows the QoS 2 PUBLISH that is sent again', async () => {
    const watcher = await connectThere('watches twice')
    await watcher.subscribe('twice', { qos: 1 })
    const publish = {
      cmd: 'publish',
      topic: 'twice',
      payload: 'once',
      qos: 2,
      messageId: 7,
      retain: false,
    } as const
    const first = await wire('twice', kept)
    first.send({ ...publish, dup: false })
    await first.next('pubrec')
    expect(await first.settled()).toEqual([])
    first.socket.destroy()
    await first.closed
    const again = await wireThere('twice', resumed)
    again.send({ ...publish, dup: true })
    await again.next('pubrec')
    again.send({ cmd: 'pubrel', messageId: 7 })
    expect(await again.next('pubcomp')).toMatchObject({ reasonCode: 0 })
    await watcher.receives([{ topic: 'twice', payload: 'once' }])
    again.socket.destroy()
  })

  test('UNSUBSCRIBE and SUBSCRIBE change it as any other', async () => {
    const first = await wire('changes', kept)
    await first.subscribe('changes/old')
    first.send({ cmd: 'disconnect', reasonCode: 0 })
    await first.closed
    const again = await wireThere('changes', resumed)
    again.send({ cmd: 'unsubscribe', messageId: 2, unsubscriptions: ['changes/old'] })
    await again.next('unsuback')
    await again.subscribe('changes/new', { qos: 2 })
    const publisher = await connectThere('publishes changes')
    await publisher.publish('changes/old', 'old')
    await publisher.publish('changes/new', 'new')
    expect(await again.next('publish')).toMatchObject({ topic: 'changes/new' })
    again.socket.destroy()
  })
})
