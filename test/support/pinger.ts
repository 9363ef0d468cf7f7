// A healthy client in a thread of its own: whatever the test itself is busy with, a ping takes as long as its
// node does. Started by attacks.ts, from the built dist/, and stopped by a message.
import { once } from 'node:events'
import { connect } from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'

/** What a pinger has to say when it is stopped. */
export interface Pings {
  readonly answered: number
  /** Answered while the attacker had a part of what it is owed, and not all of it. */
  readonly midway: number
  readonly longestMs: number
}

export interface PingerData {
  readonly url: string
  /** CONNECT, whole. */
  readonly connect: Uint8Array
  /** One number: the part of the attacker's work that is done. */
  readonly part: SharedArrayBuffer
}

const pingreq = Buffer.from([0xc0, 0])

async function run({ url, connect: packet, part }: PingerData): Promise<void> {
  const [done] = [new Float64Array(part)]
  const socket = connect(Number(new URL(url).port), '127.0.0.1').setNoDelay()
  socket.write(packet)
  await once(socket, 'data')
  parentPort!.postMessage('ready')
  let stopped = false
  parentPort!.once('message', () => {
    stopped = true
  })
  let [answered, midway, longestMs] = [0, 0, 0]
  while (!stopped) {
    const sent = performance.now()
    socket.write(pingreq)
    await once(socket, 'data')
    longestMs = Math.max(longestMs, performance.now() - sent)
    answered++
    if (done[0]! > 0.1 && done[0]! < 0.9) midway++
    await new Promise((resolve) => {
      setTimeout(resolve, 2)
    })
  }
  socket.destroy()
  parentPort!.postMessage({ answered, midway, longestMs } satisfies Pings)
}

await run(workerData as PingerData)
