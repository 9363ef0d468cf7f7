// What log and metrics say of the connections that do not become clients. At most a line a minute for each
// cause and address.
import type { DescriptorEvents, Descriptors, DoorEvents } from '../listeners/index.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'

const raiseIt = 'raise it (ulimit -n, LimitNOFILE=)'
/** Connections below which the limit of open files is worth a word at the start. */
const fewConnections = 4_000

/** A bug of ours, in the handler of a connection or a request. */
const failed =
  (log: Log) =>
  (error: Error): void => {
    log.eventPerMinute('handler-failed', error.message, {
      error,
      stack: error.stack?.split('\n').slice(1, 4),
    })
  }

const sayNone = (log: Log, places: Descriptors): void =>
  log.eventPerMinute('descriptors-gone', '', { connections: places.open, openFilesMax: places.limit })

export const descriptorEvents = (log: Log, places: Descriptors): DescriptorEvents => ({
  none: () => sayNone(log, places),
  again: () => log.event('descriptors-back', { connections: places.open, openFilesMax: places.limit }),
})

/** What /readyz says of them while there are none. */
export const noDescriptors = `no file descriptor is left for connections: they are refused. The limit of open files is low: ${raiseIt}.`

export function doorEvents(log: Log, metrics: Metrics, places: Descriptors): DoorEvents {
  return {
    failed: failed(log),
    heldBack: () => metrics.heldBack.inc({ cause: 'connects' }),
    turnedAway: (cause, address, detail) => {
      metrics.turnedAway.inc({ cause })
      if (cause !== 'descriptors')
        return log.eventPerMinute('connection-refused', `${cause}\0${address}`, { cause, address, detail })
      sayNone(log, places)
    },
  }
}

/** The admin endpoint's: who asks it is no client. */
export const adminEvents = (log: Log): DoorEvents => ({
  failed: failed(log),
  turnedAway: () => undefined,
  heldBack: () => undefined,
})

/** A line when the process may not have as many connections as the node takes. */
export const descriptorAdvice = (places: Descriptors | undefined, connectionsMax: number): string[] =>
  places === undefined || places.max >= connectionsMax
    ? []
    : [
        `The limit of open files lets in ${places.max} connections, and connectionsMax is ${connectionsMax}. Raise the limit (ulimit -n, LimitNOFILE=), or lower connectionsMax`,
      ]

export function sayLowLimit(log: Log, places: Descriptors): void {
  if (places.max < fewConnections)
    log.event('descriptors-few', { connectionsMax: places.max, openFilesMax: places.limit })
}
