// What a dead node had not read of its inbox for members of groups without a backlog: others get it. By then the inbox
// takes nothing any more (membership.ts seals it first), so nothing comes after what is read here. State:
// {inbox:<node id>}:stream, state. Invariant: what is there was not handed on, or not noted as such, but for the entry
// that is named `place`. Bound: some entries at a time.
import { EntryReader, type Share } from '../messages/codec.ts'
import type { Message } from '../messages/message.ts'
import type { Clock } from '../pace/clock.ts'
import { Slice } from '../pace/turns.ts'
import type { Keys } from '../redis/keys.ts'
import { retrying, type Redis } from '../redis/redis.ts'

/** An entry is 1 MiB at most, or one message that is larger. */
const entriesPerRead = 4
const nothing = (): void => undefined

/**
 * Resolves when all of it is handed on: what its reader had, and died before it noted it, comes twice. So it is of
 * QoS 1 only. In their order, in slices.
 */
export async function handOnUnread(
  redis: Redis,
  keys: Keys,
  nodeId: string,
  clock: Clock,
  handOn: (message: Message, share: Share) => Promise<void>,
): Promise<void> {
  const key = keys.inbox(nodeId, 'stream')
  const place = await retrying(redis, () => redis.hget(keys.inbox(nodeId, 'state'), 'place'))
  const slice = new Slice()
  for (let from: string | undefined = '-'; from !== undefined;) {
    const begin: string = from
    const entries = await retrying(redis, () => redis.xrangeBuffer(key, begin, '+', 'COUNT', entriesPerRead))
    const handedOn: Promise<void>[] = []
    const onShared = (message: Message, share: Share): void => {
      if (message.qos === 1) handedOn.push(handOn(message, share))
    }
    const others = { onGiven: nothing, onLook: nothing, onBell: nothing, onHold: nothing, onLater: nothing }
    for (const [id, [, body]] of entries) {
      if (body === undefined || body.length === 0 || id.toString() === place) continue
      const reader = new EntryReader(body, clock, nothing, { ...others, onShared })
      while (reader.next()) if (slice.isOver) await slice.next()
    }
    await Promise.all(handedOn)
    const last = entries.at(-1)?.[0].toString()
    from = last === undefined ? undefined : `(${last}`
  }
}
