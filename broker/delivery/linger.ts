// How a connection ends whose client was told why: read on for a moment, and everything dropped, since a socket that is closed
// with something unread is reset, and the client would not get to read why. State: none.
import type { Duplex } from 'node:stream'
import { limits } from '../limits.ts'

/** Ends `stream` behind what is written, and destroys it when the client ends its side, at the latest after `limits.lingerMs`. */
export function linger(stream: Duplex): void {
  stream.resume()
  stream.end()
  setTimeout(() => stream.destroy(), limits.lingerMs).unref()
}
