// An HTTP server of a test whose answers change: it hangs, breaks, comes back. Counts who asks.
import { once } from 'node:events'
import { createServer, type IncomingMessage, type RequestListener, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'

export class HttpServer {
  readonly #server: Server
  #listener: RequestListener
  /** Requests that came. */
  asked = 0

  private constructor(listener: RequestListener) {
    this.#listener = listener
    this.#server = createServer((request, response) => {
      this.asked++
      this.#listener(request, response)
    })
  }

  static async start(listener: RequestListener): Promise<HttpServer> {
    const server = new HttpServer(listener)
    server.#server.listen(0, '127.0.0.1')
    await once(server.#server, 'listening')
    return server
  }

  get url(): string {
    return `http://127.0.0.1:${(this.#server.address() as AddressInfo).port}/`
  }

  /** From now on. */
  answer(listener: RequestListener): void {
    this.#listener = listener
  }

  /** Answers in JSON, by what was sent. */
  say(answerTo: (sent: Record<string, unknown>) => unknown): void {
    this.answer((request, response) => {
      void textOf(request).then((text) => {
        response.setHeader('content-type', 'application/json')
        response.end(JSON.stringify(answerTo(JSON.parse(text) as Record<string, unknown>)))
      })
    })
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#server.closeAllConnections()
    await new Promise((resolve) => this.#server.close(resolve))
  }
}

export async function textOf(request: IncomingMessage): Promise<string> {
  let text = ''
  for await (const chunk of request) text += String(chunk)
  return text
}
