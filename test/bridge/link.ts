// A link to Redis that a test can freeze, thaw and cut: what a node sees of a frozen host, and a reply that
// gets lost. Bytes sent while it is frozen wait in it and arrive when it thaws, as they do from a node that
// wakes up.
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'
import type { TestRedis } from '../support/redis.ts'

export interface Link extends AsyncDisposable {
  readonly url: string
  freeze(): void
  thaw(): void
  /**
   * The connections that there are hear nothing any more, not even an end, as when their host loses power;
   * new ones work.
   */
  strand(): void
  /**
   * Cuts the connection on which the next reply holds `text`, before the reply arrives; resolves when it was
   * cut.
   */
  loseReply(text: string): Promise<void>
  /** The same again and again, until what it returns is called. */
  loseReplies(text: string): () => void
  /** Holds the next reply with `text` up, and all behind it; resolves when it came, with what lets it go. */
  holdReply(text: string): Promise<() => void>
}

export async function startLink(redis: TestRedis): Promise<Link> {
  const pairs = new Set<readonly [Socket, Socket]>()
  let frozen = false
  let holding: { text: string; held: (go: () => void) => void } | undefined
  let losing: { text: string; lost: () => void; again?: boolean } | undefined
  const server = createServer((client) => {
    const upstream = connect(redis.port, '127.0.0.1')
    const pair = [client, upstream] as const
    pairs.add(pair)
    const end = (): void => {
      client.destroy()
      upstream.destroy()
      pairs.delete(pair)
    }
    for (const socket of pair) socket.on('error', () => undefined).on('close', end)
    client.on('data', (chunk: Buffer) => upstream.write(chunk))
    upstream.on('data', (chunk: Buffer) => {
      if (holding !== undefined && chunk.includes(holding.text)) {
        upstream.pause()
        holding.held(() => {
          client.write(chunk)
          upstream.resume()
        })
        holding = undefined
        return
      }
      if (losing === undefined || !chunk.includes(losing.text)) return void client.write(chunk)
      end()
      losing.lost()
      if (losing.again !== true) losing = undefined
    })
    if (frozen) for (const socket of pair) socket.pause()
  }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  return {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    freeze: () => {
      frozen = true
      for (const pair of pairs) for (const socket of pair) socket.pause()
    },
    strand: () => {
      for (const pair of pairs) for (const socket of pair) socket.pause()
    },
    thaw: () => {
      frozen = false
      for (const pair of pairs) for (const socket of pair) socket.resume()
    },
    loseReply: (text) =>
      new Promise((lost) => {
        losing = { text, lost }
      }),
    loseReplies: (text) => {
      losing = { text, lost: () => undefined, again: true }
      return () => {
        losing = undefined
      }
    },
    holdReply: (text) =>
      new Promise((held) => {
        holding = { text, held }
      }),
    [Symbol.asyncDispose]: async () => {
      for (const pair of pairs) for (const socket of pair) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  }
}
