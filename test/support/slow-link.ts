// A TCP link that takes its time: whatever goes through arrives `delayMs` later, in order, in both
// directions. What a Redis in another building is to a node.
import { once } from 'node:events'
import { connect, createServer, type AddressInfo, type Socket } from 'node:net'

export interface SlowLink extends AsyncDisposable {
  /** As `--redis` takes it. */
  readonly url: string
  delayMs: number
}

/** A link to `port` on this machine. */
export async function startSlowLink(port: number, delayMs: number): Promise<SlowLink> {
  const sockets = new Set<Socket>()
  const pass = (from: Socket, to: Socket, link: { delayMs: number }): void => {
    sockets.add(from)
    from.setNoDelay().on('error', () => undefined)
    from.on('data', (chunk: Buffer) => {
      setTimeout(() => to.write(chunk), link.delayMs)
    })
    from.on('close', () => {
      sockets.delete(from)
      setTimeout(() => to.destroy(), link.delayMs)
    })
  }
  const server = createServer((near) => {
    const far = connect(port, '127.0.0.1')
    pass(near, far, link)
    pass(far, near, link)
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const link = {
    url: `redis://127.0.0.1:${(server.address() as AddressInfo).port}`,
    delayMs,
    [Symbol.asyncDispose]: async () => {
      server.close()
      for (const socket of sockets) socket.destroy()
      await Promise.resolve()
    },
  }
  return link
}
