// How a connection ends whose client was told why: read on for a moment, and everything dropped, since a socket that is closed
// with something unread is reset, and the client would not get to read why. State: none.
import type { Duplex } from 'node:stream'

/** What the client has for it, whether it ends its side or not. */
const lingerMs = 500

/** Ends `stream` behind what is written, and destroys it when the client ends its side, at the latest after `lingerMs`. */
export function linger(stream: Duplex): void {
  stream.resume()
  stream.end()
  setTimeout(() => stream.destroy(), lingerMs).unref()
}
