// What a cluster's log says, and what is counted of it: who joined, left and was fenced, what the store
// lost, who waits for what and since when. It hears the channels of the bridge for one node. Each cause is
// one line when it begins, with what to do about it, and one when it is over. State: none.
import { isOfStore, type BridgeError, type Reports, type WaitReport } from '../../bridge/index.ts'
import type { FieldsOf } from './log-events.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'

/** What is wrong and what to do about it. */
export const problemOf = ({ message, remedy }: BridgeError): string => sentences(message, remedy)

const sentences = (...parts: readonly string[]): string =>
  parts
    .filter((part) => part !== '')
    .map((part) => part.replace(/\.?\s*$/, '.'))
    .join(' ')

/** How many of what, "3 publishers, 1 connect". */
function counts({ publishers, connects, writes, wills }: WaitReport): string {
  const all = Object.entries({ publisher: publishers, connect: connects, write: writes, will: wills }).filter(
    ([, count]) => count > 0,
  )
  return all.length === 0
    ? 'nobody'
    : all.map(([what, count]) => `${count} ${what}${count === 1 ? '' : 's'}`).join(', ')
}

/** One sentence about who waits, and for what. */
export const waitingText = (report: WaitReport): string =>
  sentences(
    `${report.store}: ${report.reason.replace(/\.?\s*$/, '')}: ${counts(report)} waiting for ${report.seconds} s`,
    report.remedy,
  )

/** One sentence about who had waited. */
export const waitedText = (report: WaitReport): string =>
  `${isOfStore(report.kind) ? `${report.store} is back` : 'it is over'} after ${report.seconds} s; ${counts(report)} had waited`

/** Where a node id has its name: the rest tells its boots apart. */
const nameOf = (nodeId: string): string => nodeId.slice(0, nodeId.lastIndexOf('@'))

const fieldsOf = (report: WaitReport): FieldsOf<'waiting'> => {
  const { store, code, kind, reason, remedy, seconds, publishers, connects, writes, wills } = report
  return { store, code, kind, reason, remedy, seconds, publishers, connects, writes, wills }
}

/** @returns ends it */
export function observe(reports: Reports, log: Log, metrics: Metrics): () => void {
  const ends: (() => void)[] = []
  const hear: Reports['hear'] = (channel, heard) => {
    const end = reports.hear(channel, heard)
    ends.push(end)
    return end
  }
  hear<WaitReport>('waiting', (report) => log.event('waiting', fieldsOf(report), waitingText(report)))
  hear<WaitReport>('waited', (report) => log.event('waited', fieldsOf(report), waitedText(report)))
  hear<{ code: string }>('storeError', ({ code }) => metrics.storeErrors.inc({ code }))
  hear<{ nodeId: string }>('nodeJoined', ({ nodeId }) => log.event('node-joined', { nodeId }))
  hear('fenced', () => metrics.fenced.inc())
  hear('rebuilt', () => metrics.rebuilds.inc())
  hear<{ nodeId: string; by: string }>('nodeLeft', ({ nodeId, by }) => {
    if (by !== nodeId) metrics.nodesLost.inc()
    if (by === nodeId) log.event('node-left', { nodeId })
    else if (nameOf(by) === nameOf(nodeId)) log.event('node-ended', { nodeId, by })
    else log.event('node-dead', { nodeId, by })
  })
  hear<{ nodeId: string }>('amnesia', ({ nodeId }) => {
    metrics.storeLosses.inc()
    log.event('store-lost-data', { nodeId })
  })
  return () => {
    for (const end of ends) end()
  }
}
