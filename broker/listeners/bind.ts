// Binding one address: what is wrong with it is said in the operator's words. No state.
import type { AddressInfo, Server } from 'node:net'
import { OperatorError } from '../operator-errors.ts'

/**
 * Binds `server` to the host and port of `url`; resolves to the URL with the port that was bound.
 * @param exclusive also among workers (cli/workers.ts), which share an address otherwise (node:cluster)
 * @throws OperatorError (reason `listen`) when the address cannot be had
 */
export function bind(
  server: Server,
  url: URL,
  field: string,
  defaultPort: number,
  exclusive = false,
): Promise<string> {
  const host = url.hostname.replace(/^\[|\]$/g, '')
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) => {
      const example = `${field} ${url.protocol}//${url.hostname}:${Number(url.port) + 1}`
      const [message, hint] =
        error.code === 'EADDRINUSE'
          ? ([
              'the port is in use',
              `Another node, an \`aedes-cluster up\` or another broker may be running: end it, or choose another port, e.g. ${example}${field === '--admin' ? ', or --admin off' : ''}`,
            ] as const)
          : ([
              `cannot listen (${error.code ?? error.message})`,
              'Choose an address of this machine and a port that you may use',
            ] as const)
      reject(
        new OperatorError(message, {
          reason: 'listen',
          field,
          value: url.href.replace(/\/$/, ''),
          hint,
          cause: error,
        }),
      )
    })
    server.listen({ host, port: url.port === '' ? defaultPort : Number(url.port), exclusive }, () => {
      server.removeAllListeners('error')
      const bound = new URL(url.href)
      bound.port = String((server.address() as AddressInfo).port)
      resolve(bound.href.replace(/\/$/, ''))
    })
  })
}
