// One HTTP request to a server that may be slow, broken or hostile: it has a deadline for all of the answer, and an answer
// has a bound in bytes. Redirects are not followed: who is asked, and told secrets, is who is configured. (node:http: `fetch`
// costs three times as much CPU.) State: connections that are kept for the next request.
import {
  Agent as HttpAgent,
  request as requestHttp,
  type ClientRequest,
  type IncomingMessage,
} from 'node:http'
import { Agent as HttpsAgent, request as requestHttps } from 'node:https'

export interface Asked {
  readonly method?: 'GET' | 'POST'
  readonly headers?: Readonly<Record<string, string>>
  readonly body?: string
  readonly timeoutMs: number
  /** Of the answer. */
  readonly bytesMax: number
}

export interface Answered {
  readonly status: number
  readonly text: string
}

/** No answer; the text is for the log, and tells nothing of what was sent. */
export class RequestError extends Error {}

const [httpAgent, httpsAgent] = [new HttpAgent({ keepAlive: true }), new HttpsAgent({ keepAlive: true })]

/** @throws RequestError */
export function boundedRequest(url: string, asked: Asked): Promise<Answered> {
  const until = performance.now() + asked.timeoutMs
  return attempt(new URL(url), asked, until).catch((error: unknown) => {
    // the server had closed a connection that was kept: nobody has heard the request
    if (error instanceof StaleError) return attempt(new URL(url), asked, until)
    throw error
  })
}

class StaleError extends RequestError {}

function attempt(
  url: URL,
  { method = 'GET', headers, body, timeoutMs, bytesMax }: Asked,
  until: number,
): Promise<Answered> {
  return new Promise((resolve, reject) => {
    const isSecure = url.protocol === 'https:'
    const request: ClientRequest = (isSecure ? requestHttps : requestHttp)(url, {
      method,
      headers: { ...headers, ...(body !== undefined && { 'content-length': Buffer.byteLength(body) }) },
      agent: isSecure ? httpsAgent : httpAgent,
    })
    const timer = setTimeout(
      () => fail(new RequestError(`no answer within ${timeoutMs} ms`)),
      Math.max(1, until - performance.now()),
    )
    const fail = (error: Error): void => {
      clearTimeout(timer)
      request.destroy()
      reject(error)
    }
    const failed = (error: NodeJS.ErrnoException): void => {
      const isStale = request.reusedSocket && (error.code === 'ECONNRESET' || error.code === 'EPIPE')
      const text = `cannot be reached (${error.code ?? error.message})`
      fail(isStale ? new StaleError(text) : new RequestError(text))
    }
    request.on('error', failed).on('response', (response: IncomingMessage) => {
      const chunks: Buffer[] = []
      let bytes = 0
      response
        .on('data', (chunk: Buffer) => {
          bytes += chunk.length
          if (bytes > bytesMax) fail(new RequestError(`its answer has more than ${bytesMax} bytes`))
          else chunks.push(chunk)
        })
        .on('error', failed)
        .on('end', () => {
          clearTimeout(timer)
          resolve({ status: response.statusCode ?? 0, text: Buffer.concat(chunks).toString() })
        })
    })
    request.end(body)
  })
}
