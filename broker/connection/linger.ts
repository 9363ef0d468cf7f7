// How a connection ends whose client was told why: read on for a moment, and everything dropped, since a
// socket that is closed with something unread is reset, and the client would not get to read why. State:
// none.
import type { Duplex } from 'node:stream'
import { limits } from '../config/limits.ts'

/**
 * Ends `stream` when what waits is written, and destroys it when the client ends its side, at the latest after
 * `limits.lingerMs`.
 */
export function linger(stream: Duplex): void {
  stream.resume()
  stream.end()
  setTimeout(() => stream.destroy(), limits.lingerMs).unref()
}

/**
 * Destroys `stream` when the session is `released`, after `limits.lingerMs` at the latest: a client that said
 * good-bye and waits for the close finds at any node what it left, and its will void, however far Redis is.
 */
export function closeBehind(stream: Duplex, released: Promise<void> | undefined): void {
  if (released === undefined) return void stream.destroy()
  const late = setTimeout(() => stream.destroy(), limits.lingerMs).unref()
  void released.then(() => {
    clearTimeout(late)
    stream.destroy()
  })
}
