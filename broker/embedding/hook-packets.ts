// Messages as Aedes' hooks and events have them, and back. No state.
import type { IPublishPacket } from 'mqtt-packet'
import { isDeepStrictEqual } from 'node:util'
import { isValidTopic, ownName, ownTopic, Tenant, tenantOf, type Message } from '../../bridge/index.ts'
import { messageOfPacket, propertiesOf } from '../aedes/aedes-packets.ts'
import { isReserved } from '../protocol/control-packets.ts'

/** A message as a hook or event gets it. */
export type AedesPublishPacket = Omit<IPublishPacket, 'payload'> & {
  payload: Buffer
  /** Client Identifier of its publisher, where this node knows it. */
  clientId?: string
  /** Where tenants are on: whose it is. Topic and Client Identifier are as the tenant has them. */
  tenant?: string
  brokerId: string
  brokerCounter: number
}

/** What a program publishes. */
export type PublishPacket = Partial<Omit<IPublishPacket, 'topic' | 'payload'>> & {
  topic: string
  payload?: Buffer | string
  /** Where tenants are on: whose it is. */
  tenant?: string
}

export const completed = (packet: PublishPacket): Omit<IPublishPacket, 'cmd'> => ({
  dup: false,
  qos: 0,
  retain: false,
  payload: '',
  ...packet,
})

let counter = 0

/** A copy of its own: what is done to it is done to nobody else. */
export function packetOf(message: Message, brokerId: string): AedesPublishPacket {
  const { payload, qos, retain, by } = message
  const topic = ownTopic(message.topic)
  const tenant = tenantOf(message.topic)
  const properties = propertiesOf(message)
  return {
    cmd: 'publish',
    topic,
    payload,
    qos,
    retain,
    dup: false,
    brokerId,
    brokerCounter: ++counter,
    ...(by?.clientId === undefined ? {} : { clientId: ownName(by.clientId) }),
    ...(tenant === undefined ? {} : { tenant }),
    ...(properties === undefined ? {} : { properties }),
  }
}

/**
 * The message as a hook left its packet: itself, when nothing was changed. Its QoS stays, since the publisher is
 * answered by it.
 * @throws Error when the topic is none that may be published to
 */
export function changedBy(packet: PublishPacket, message: Message): Message {
  const { topic, payload = '', retain = false, properties } = packet
  const isSame = isDeepStrictEqual(properties, propertiesOf(message))
  const before = ownTopic(message.topic)
  if (topic === before && payload === message.payload && retain === message.retain && isSame) return message
  if (topic !== before && (!isValidTopic(topic) || isReserved(topic)))
    throw new Error(`a hook made ${JSON.stringify(topic.slice(0, 100))} of a topic, which is none`)
  const changed = messageOfPacket({
    ...completed(packet),
    properties: (isSame ? undefined : properties) ?? {},
  })
  const { expiresAt, expirySeconds } = changed
  const tenant = tenantOf(message.topic) // which it stays in
  return message.with({
    topic: tenant === undefined ? topic : new Tenant(tenant).topic(topic),
    payload: changed.payload,
    retain,
    ...(isSame ? {} : { properties: changed.properties, expiresAt, expirySeconds }),
  })
}
