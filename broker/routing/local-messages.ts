// Publishing and subscribing from within the process: for who embeds a node. A handler is a subscriber like a
// client without a session: it hears what is published anywhere in the cluster from the moment its
// `subscribe` resolves, for as long as the node lives. State: the handlers, which outlive a boot that was
// declared dead; publishes that are not stored yet, which do not.
import {
  isTenant,
  isValidFilter,
  isValidTopic,
  Message,
  ownTopic,
  Tenant,
  tenantOf,
} from '../../bridge/index.ts'
import type { Config } from '../config/config.ts'
import type { Router } from './router.ts'
import type { Match } from './local-table.ts'
import type { Subscriber } from './subscriber.ts'
import { isReserved } from '../protocol/control-packets.ts'
import { Refusal } from '../access/gate.ts'

/** A message as a handler gets it. */
export interface LocalMessage {
  readonly topic: string
  /** Shared with other subscribers: to be read, not written to. */
  readonly payload: Buffer
  readonly qos: 0 | 1 | 2
  /** As it was published. */
  readonly retain: boolean
  /** Where tenants are on: whose it is. */
  readonly tenant?: string
}

export interface PublishOptions {
  readonly qos?: 0 | 1 | 2
  /** Where tenants are on: whose it is; without one no client gets it. */
  readonly tenant?: string | undefined
  readonly retain?: boolean
}

/** @throws TypeError when it can be none */
function checkedTenant(name: string | undefined): Tenant | undefined {
  if (name !== undefined && !isTenant(name))
    throw new TypeError(
      `${JSON.stringify(name.slice(0, 100))} can be no tenant: 1 to 64 letters, digits, . _ -`,
    )
  return name === undefined ? undefined : new Tenant(name)
}

class Handler implements Subscriber {
  readonly clientId = undefined
  readonly filter: string
  readonly qos: 0 | 1 | 2
  readonly #handle: (message: Message, qos: 0 | 1 | 2) => void

  constructor(filter: string, qos: 0 | 1 | 2, handle: (message: Message, qos: 0 | 1 | 2) => void) {
    this.filter = filter
    this.qos = qos
    this.#handle = handle
  }

  deliver(message: Message, match: Match<Subscriber>): void {
    this.#handle(message, Math.min(message.qos, match.qos) as 0 | 1 | 2)
  }
}

export class LocalMessages {
  readonly #config: Config
  readonly #handlers = new Set<Handler>()
  readonly #publishing = new Set<(error: Error) => void>()
  #router: Router | undefined

  constructor(config: Config) {
    this.#config = config
  }

  /** A new boot: everybody is subscribed again before it serves. */
  async attach(router: Router): Promise<void> {
    this.#router = router
    await Promise.all(
      [...this.#handlers].map((handler) => router.addSubscriber(handler, handler.filter, handler.qos)),
    )
  }

  /** The boot is over: whether what was on its way is stored, nobody knows. */
  detach(): void {
    this.#router = undefined
    for (const reject of this.#publishing)
      reject(
        new Error(
          'the node ended or was declared dead: whether the message is stored is not known, publish it again',
        ),
      )
    this.#publishing.clear()
  }

  get #node(): Router {
    if (this.#router === undefined) throw new Error('the node does not serve now')
    return this.#router
  }

  /**
   * Resolves when it is stored for everybody who is subscribed; a QoS 0 message that is not retained at once.
   */
  async publish(
    topic: string,
    payload: Buffer | string,
    { qos = 0, retain = false, tenant }: PublishOptions = {},
  ): Promise<void> {
    await this.publishMessage(Message.ofBroker(topic, Buffer.from(payload as string), qos, retain), tenant)
  }

  /** @param of whose it is: its topic is as the tenant has it */
  async publishMessage(own: Message, of?: string): Promise<void> {
    const { topic } = own
    const tenant = checkedTenant(of)
    if (!isValidTopic(topic) || isReserved(topic))
      throw new TypeError(
        `${JSON.stringify(topic.slice(0, 100))} is not a topic that may be published to: it is empty, has a wildcard, or is below $SYS/`,
      )
    const message = tenant === undefined ? own : own.with({ topic: tenant.topic(topic) })
    const node = this.#node
    this.#check(message, node)
    const { publish: decide } = node.gate
    const decided = decide === undefined ? message : await decide(message, 'program', undefined)
    if (decided instanceof Refusal) throw new Error(`it may not be published: ${decided.reason}`)
    await this.#publish(decided, this.#node)
  }

  async #publish(message: Message, node: Router): Promise<void> {
    if (message.qos === 0 && !message.retain) return node.publishHere(message, undefined)
    await new Promise<void>((resolve, reject) => {
      this.#publishing.add(reject)
      const over = (end: () => void): void => {
        this.#publishing.delete(reject)
        end()
      }
      node.publishHere(
        message,
        () => over(resolve),
        (error) => over(() => reject(error)),
      )
    })
  }

  /** The bounds are those of clients. */
  #check({ topic: named, payload, properties, retain }: Message, node: Router): void {
    const topic = ownTopic(named)
    const { packetBytesMax } = this.#config
    const bytes = payload.length + Buffer.byteLength(topic) + (properties?.length ?? 0)
    if (bytes > packetBytesMax)
      throw new RangeError(`a message of ${bytes} bytes is larger than packetBytesMax, ${packetBytesMax}`)
    this.#checkName(topic)
    if (retain && payload.length > 0 && !node.mayRetain(named, payload.length))
      throw new RangeError(
        'there is no room for this Retained Message (retainedBytesMax, retainedMessagesMax, retainedMessageBytesMax)',
      )
  }

  /** A topic or a filter. */
  #checkName(name: string): void {
    const { topicBytesMax, topicLevelsMax } = this.#config
    if (
      Buffer.byteLength(name) > topicBytesMax ||
      name.split('/', topicLevelsMax + 1).length > topicLevelsMax
    )
      throw new RangeError(
        `a topic or filter may have ${topicBytesMax} bytes (topicBytesMax) and ${topicLevelsMax} levels (topicLevelsMax)`,
      )
  }

  /** @returns ends it */
  subscribe(
    filter: string,
    handle: (message: LocalMessage) => void,
    { qos = 2, tenant }: { readonly qos?: 0 | 1 | 2; readonly tenant?: string | undefined } = {},
  ): Promise<() => void> {
    return this.subscribeMessages(
      filter,
      ({ topic: named, payload, retain }, qos) => {
        const of = tenantOf(named)
        handle({ topic: ownTopic(named), payload, qos, retain, ...(of !== undefined && { tenant: of }) })
      },
      qos,
      tenant,
    )
  }

  /** @returns ends it */
  async subscribeMessages(
    own: string,
    handle: (message: Message, qos: 0 | 1 | 2) => void,
    qos: 0 | 1 | 2,
    of?: string,
  ): Promise<() => void> {
    if (!isValidFilter(own) || own.startsWith('$share/'))
      throw new TypeError(
        `${JSON.stringify(own.slice(0, 100))} is not a filter: # is the last level, + a whole one, and there are no shared subscriptions yet`,
      )
    this.#checkName(own)
    const filter = checkedTenant(of)?.topic(own) ?? own
    const handler = new Handler(filter, qos, handle)
    const node = this.#node
    await node.addSubscriber(handler, filter, qos)
    this.#handlers.add(handler)
    // a boot later: or the next one does it
    if (this.#router !== node) await this.#router?.addSubscriber(handler, filter, qos)
    return () => {
      if (this.#handlers.delete(handler)) this.#router?.removeSubscriber(handler, filter)
    }
  }
}
