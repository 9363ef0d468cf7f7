// A healthy client in a thread of its own: whatever the test itself is busy with, a ping takes as long as its
// node does. Started by attacks.ts, from the built dist/, and stopped by a message.
import { once } from 'node:events'
import { openSync, readSync } from 'node:fs'
import { connect } from 'node:net'
import { parentPort, workerData } from 'node:worker_threads'

/** What a pinger has to say when it is stopped. */
export interface Pings {
  readonly answered: number
  /** Answered while the attacker had a part of what it is owed, and not all of it. */
  readonly midway: number
  readonly longestMs: number
  /** The most processor time that its node took while a ping waited, whatever else the machine did. */
  readonly longestCpuMs: number
}

export interface PingerData {
  readonly url: string
  /** Of its node. */
  readonly pid: number
  /** CONNECT, whole. */
  readonly connect: Uint8Array
  /** One number: the part of the attacker's work that is done. */
  readonly part: SharedArrayBuffer
}

const pingreq = Buffer.from([0xc0, 0])

/** What the thread that runs the event loop of a process had of a processor so far, ms (Linux). */
function clockOf(pid: number): () => number {
  const file = openSync(`/proc/${pid}/task/${pid}/schedstat`, 'r')
  const text = Buffer.alloc(64)
  return () => Number.parseInt(text.toString('latin1', 0, readSync(file, text, 0, text.length, 0)), 10) / 1e6
}

async function run({ url, pid, connect: packet, part }: PingerData): Promise<void> {
  const [done] = [new Float64Array(part)]
  const socket = connect(Number(new URL(url).port), '127.0.0.1').setNoDelay()
  socket.write(packet)
  await once(socket, 'data')
  parentPort!.postMessage('ready')
  let stopped = false
  parentPort!.once('message', () => {
    stopped = true
  })
  const used = clockOf(pid)
  let [answered, midway, longestMs, longestCpuMs] = [0, 0, 0, 0]
  while (!stopped) {
    const [sent, before] = [performance.now(), used()]
    socket.write(pingreq)
    await once(socket, 'data')
    longestCpuMs = Math.max(longestCpuMs, used() - before)
    longestMs = Math.max(longestMs, performance.now() - sent)
    answered++
    if (done[0]! > 0.1 && done[0]! < 0.9) midway++
    await new Promise((resolve) => {
      setTimeout(resolve, 2)
    })
  }
  socket.destroy()
  parentPort!.postMessage({ answered, midway, longestMs, longestCpuMs } satisfies Pings)
}

await run(workerData as PingerData)
