// Opens the admin endpoint of a configuration.
import { isLoopback } from '../config/listener-chains.ts'
import type { Config } from '../config/config.ts'
import { adminEvents } from '../observe/door-events.ts'
import type { Log } from '../observe/log.ts'
import { TlsContexts } from '../listeners/tls-contexts.ts'
import { startAdmin, type AdminServer, type AdminSource } from './server.ts'

/**
 * @returns undefined when it is off
 * @throws OperatorError (reason `listen`) when the address cannot be had
 */
export async function openAdmin(
  config: Config,
  source: AdminSource,
  log: Log,
): Promise<AdminServer | undefined> {
  const { admin, adminHosts = [] } = config
  if (admin === 'off') return undefined
  const url = new URL(admin)
  const contexts =
    url.protocol === 'https:'
      ? new TlsContexts({
          tlsCert: config.adminTlsCert,
          tlsKey: config.adminTlsKey,
          tlsCa: config.adminTlsCa,
          tlsClients: 'any',
          tlsCrl: undefined,
          tlsSniCert: undefined,
          tlsSniKey: undefined,
          authentication: [],
        })
      : undefined
  const server = await startAdmin(url, adminHosts, source, adminEvents(log), contexts)
  if (!isLoopback(url)) log.event('admin-reachable', { admin: server.url })
  return server
}
