// What log and metrics say of clients: who came from where, and why each connection ended. Each of them is a
// line at level debug; those that ended by an error are one at level info, at most once a minute for each
// client, whatever it does.
import type { Socket } from 'node:net'
import type { Connection } from '../connection/connection.ts'
import type { RouterEvents } from '../routing/router.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'
import type { Traces } from './traces.ts'

/** Address and port of its peer. */
function addressOf(connection: Connection): string {
  const { outbox, peer } = connection
  const { address } = connection
  return address === '' ? '' : `${address} ${peer?.port ?? (outbox.socket as Partial<Socket>).remotePort}`
}

export function clientEvents(
  log: Log,
  metrics: Metrics,
  traces: Traces,
): Pick<RouterEvents, 'onClient' | 'onClientError' | 'onEnd'> {
  return {
    onClient: (connection) => {
      const { clientId, level, session } = connection
      metrics.connects.inc()
      if (traces.isOn)
        traces.client('connected', clientId, {
          address: addressOf(connection),
          protocolLevel: level,
          sessionPresent: session?.present === true,
        })
      log.event('client-connected', {
        clientId,
        user: connection.principal.user,
        address: addressOf(connection),
        protocolLevel: level,
        sessionPresent: session?.present,
      })
    },
    onClientError: (connection, { message: reason }) => {
      metrics.clientErrors.inc()
      const { clientId } = connection
      log.eventPerMinute('connection-failed', clientId === '' ? connection.address : clientId, {
        clientId,
        address: addressOf(connection),
        reason,
      })
    },
    onEnd: (connection) => {
      const reason =
        connection.endReason === '' ? 'its socket was closed, without DISCONNECT' : connection.endReason
      if (traces.isOn)
        traces.client(connection.isConnected ? 'disconnected' : 'refused', connection.clientId, {
          address: addressOf(connection),
          why: reason,
        })
      const { bytesRead, bytesWritten } = connection.outbox.socket as Partial<Socket>
      log.event('connection-ended', {
        clientId: connection.clientId,
        address: addressOf(connection),
        reason,
        seconds: Math.round((performance.now() - connection.since) / 1_000),
        bytesIn: bytesRead,
        bytesOut: bytesWritten,
      })
    },
  }
}
