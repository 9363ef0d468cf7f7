// What a dead node had not read of its inbox for members of groups without a backlog: others get it. Its reader notes
// how many bytes it handled; entries that it handled may still stand there, and its last one does for ever. State:
// {inbox:<node id>}:stream, state. Bound: what an inbox holds.
import { EntryReader, type Share } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import type { Clock } from '../pace/clock.ts'
import { Slice } from '../pace/turns.ts'
import type { Keys } from '../redis/keys.ts'
import { retrying, type Redis } from '../redis/redis.ts'

const entriesPerRead = 64
const nothing = (): void => undefined

/** Of QoS 1: what was read and not noted comes twice, which QoS 2 may not. In slices. */
export async function unreadShares(
  redis: Redis,
  keys: Keys,
  nodeId: string,
  clock: Clock,
  each: (message: Message, share: Share) => void,
): Promise<void> {
  const onShared = (message: Message, share: Share): void => {
    if (message.qos === 1) each(message, share)
  }
  const others = { onGiven: nothing, onLook: nothing, onBell: nothing, onHold: nothing, onLater: nothing }
  const slice = new Slice()
  for (const body of (await unread(redis, keys, nodeId)).reverse()) {
    const reader = new EntryReader(body, clock, nothing, { ...others, onShared })
    while (body.length > 0 && reader.next()) if (slice.isOver) await slice.next()
  }
}

/** The last one first. */
async function unread(redis: Redis, keys: Keys, nodeId: string): Promise<Buffer[]> {
  const [entered, handled] = await retrying(redis, () =>
    redis.hmget(keys.inbox(nodeId, 'state'), 'in', 'out'),
  )
  let bytes = Number(entered ?? 0) - Number(handled ?? 0)
  const bodies: Buffer[] = []
  for (let to = '+'; bytes > 0;) {
    const entries = await retrying(redis, () =>
      redis.xrevrangeBuffer(keys.inbox(nodeId, 'stream'), to, '-', 'COUNT', entriesPerRead),
    )
    for (const [, [, body]] of entries) {
      if (body !== undefined && bytes > 0) bodies.push(body)
      bytes -= body?.length ?? 0
    }
    if (entries.length < entriesPerRead) break
    to = `(${entries.at(-1)![0].toString()}`
  }
  return bodies
}
