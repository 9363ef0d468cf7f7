// A storm of logins: clients connect for the first time, break all at once and come back at the same node, and once more at
// another, because theirs was killed (-9), which knows none of them. 400 are under way at a time; who is told that the
// node is busy comes again. What one costs, how long pings of a client take that is there all the time, and how often a
// webhook was asked.
import { once } from 'node:events'
import { connect as connectTcp, type Socket } from 'node:net'
import { connect as connectTls } from 'node:tls'
import { orderNode } from './node-order.ts'
import { quantilesOf } from './open-loop.ts'
import type { LoadAnswer, LoginPhase, Logins, Proofs } from './patterns.ts'
import { someAtOnce } from './peers.ts'
import { cpuMicroseconds } from './proc.ts'
import { encodeConnect, encodePing } from './wire.ts'
import type { World } from './world.ts'

/** As many SYNs are under way as a listener's backlog takes. */
const comingAtOnce = 400
const pingEveryMs = 10
/** Of CONNACK in 3.1.1: server unavailable. */
const comeAgain = 3

/** A client by its number: the code of its CONNACK, and its connection when that is 0. */
async function login(port: number, i: number, proofs: Proofs): Promise<{ code: number; socket: Socket }> {
  const { users, passwords, tls } = proofs
  const at = { port, host: '127.0.0.1' }
  const socket =
    tls === undefined ? connectTcp(at) : connectTls({ ...at, ...tls, checkServerIdentity: () => undefined })
  socket.setNoDelay().on('error', () => undefined)
  const user = users === 0 ? 0 : i % users
  const said = users === 0 ? undefined : { user: `u${user}`, password: passwords[user % passwords.length]! }
  socket.write(encodeConnect(`client-${i}`, true, said))
  const [answer] = (await Promise.race([
    once(socket, 'data'),
    once(socket, 'close').then(() => [Buffer.alloc(0)]),
  ])) as [Buffer]
  const code = answer[3] ?? comeAgain
  if (code !== 0) socket.destroy()
  return { code, socket }
}

/** Pings until it is told to stop. @returns ms of each */
function pinging(socket: Socket): () => Promise<number[]> {
  const times: number[] = []
  let goesOn = true
  const all = (async () => {
    while (goesOn) {
      const begun = performance.now()
      socket.write(encodePing())
      await once(socket, 'data')
      times.push(performance.now() - begun)
      await new Promise((resolve) => setTimeout(resolve, pingEveryMs))
    }
  })()
  return async () => {
    goesOn = false
    await all
    return times
  }
}

export async function logins(world: World, { count }: Logins): Promise<LoadAnswer> {
  const { ports, brokerPids, redisPid, proofs } = world.order
  const [here, there] = ports as [number, number]
  let open: Socket[] = []
  const witnesses = await Promise.all(
    [here, there].map(async (port, i) => (await login(port, count + i, proofs!)).socket),
  )
  const all = Array.from({ length: count })
  const phase = async (node: 0 | 1): Promise<LoginPhase> => {
    const { asked } = await orderNode('asked', 0)
    const pids = [brokerPids[node]!, redisPid!]
    const cpu = (): number => pids.reduce((sum, pid) => sum + (cpuMicroseconds(pid) ?? 0), 0)
    const stopPinging = pinging(witnesses[node]!)
    const [cpuBefore, begun] = [cpu(), performance.now()]
    let told = 0
    open = []
    await someAtOnce(
      all,
      async (_, i) => {
        for (;;) {
          const { code, socket } = await login(ports[node]!, i, proofs!)
          if (code === 0) return void open.push(socket)
          if (code !== comeAgain) throw new Error(`client-${i}: CONNACK ${code}`)
          told++
          await world.wait(100)
        }
      },
      comingAtOnce,
    )
    const seconds = (performance.now() - begun) / 1_000
    const cpuMicros = (cpu() - cpuBefore) / count
    const { p99, max } = quantilesOf(await stopPinging())
    const askedNow = (await orderNode('asked', 0)).asked
    return {
      perSecond: count / seconds,
      cpuMicros,
      pingP99: p99,
      pingMax: max,
      told,
      asked: (askedNow ?? 0) - (asked ?? 0),
    }
  }
  const broken = async (): Promise<void> => {
    const closing = open.filter(({ closed }) => !closed).map((socket) => once(socket, 'close'))
    for (const socket of open) socket.destroy()
    await Promise.all(closing)
  }
  const first = await phase(0)
  await broken()
  const back = await phase(0)
  await orderNode('kill', 0)
  await broken()
  const elsewhere = await phase(1)
  await broken()
  for (const socket of witnesses) socket.destroy()
  return world.answer('ok', { logins: { first, back, elsewhere } })
}
