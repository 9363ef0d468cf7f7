// What a configuration says that may not be what was meant: a node works with it, and names it at its start; so does
// `aedes-cluster check`. No state.
import type { Config, ListenerConfig } from './options.ts'

/** Lines, each with what to write. */
export const adviceOn = (config: Config): string[] => [
  ...config.listeners.flatMap((listener) => withoutCertificate(listener)),
  ...fingerprintAdvice(config),
  ...tenantAdvice(config),
]

/** Of a chain such as `[certificate, password-file]` a client needs one link, not both. */
function withoutCertificate({ url, tlsCa, tlsClients, authentication }: ListenerConfig): string[] {
  if (tlsCa === undefined || tlsClients !== undefined) return []
  if (!authentication.includes('certificate') || authentication.length === 1) return []
  const others = authentication.filter((name) => name !== 'certificate').join(', ')
  return [
    `${url}: a client without a certificate is let in when ${others} knows it, since authentication names other links beside certificate. Write tls.clients: any when that is meant, tls.clients: certificate when each must show one`,
  ]
}

function fingerprintAdvice({ certificateUser, sessionTakeover, listeners }: Config): string[] {
  const isAsked = listeners.some(({ authentication }) => authentication.includes('certificate'))
  if (certificateUser !== 'fingerprint' || sessionTakeover !== 'same-user' || !isAsked) return []
  return [
    'access.certificateUser: fingerprint makes a client with a renewed certificate another user: it is refused its Client Identifier (0x85) until the session of the certificate before has expired, or is ended by `aedes-cluster disconnect ID --end-session`. Write cn or san, which a renewal keeps',
  ]
}

/** Links whose answer may name a tenant. */
const naming: readonly string[] = ['jwt', 'webhook', 'hooks']

function tenantAdvice({ tenants, tenantFrom, listeners }: Config): string[] {
  if (tenants === 'off' || tenantFrom.some((from) => from !== 'sni')) return []
  return listeners
    .filter(
      ({ tenant, authentication }) =>
        tenant === undefined && !authentication.some((link) => naming.includes(link)),
    )
    .map(
      ({ url }) =>
        `${url}: nobody is let in, since nothing names the tenant of a client: a server name (access.tenantFrom: sni) is no proof of one. Give the listener a tenant, or write access.tenantFrom: [certificate, sni]`,
    )
}
