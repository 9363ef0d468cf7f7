// What log and metrics say of decisions at the gate (access/gate.ts): a line a minute for each cause.
import type { AccessEvents } from '../access/access.ts'
import type { ForeignEvents } from '../access/foreign-links.ts'
import type { GateEvents } from '../access/gate.ts'
import type { Log } from './log.ts'
import type { Metrics } from './metrics.ts'

export function gateEvents(log: Log, metrics: Metrics): GateEvents {
  return {
    onDenied: () => metrics.refused.inc({ cause: 'denied' }),
    onLate: (step) => {
      metrics.refused.inc({ cause: 'decision-late' })
      log.eventPerMinute('hook-late', step, { step })
    },
    onFailed: (step, error) => {
      metrics.refused.inc({ cause: 'decision-failed' })
      const reason = error instanceof Error ? (error.stack ?? error.message) : String(error)
      log.eventPerMinute('hook-failed', step, { step, reason })
    },
  }
}

/** What is denied is a line a minute for each client and rule. */
export function accessEvents(log: Log, onDamaged: AccessEvents['onDamaged'] = () => undefined): AccessEvents {
  return {
    onDamaged,
    onDenied: ({ clientId, principal: { user } }, { action, topic }, rule) =>
      log.eventPerMinute('denied', `${action} ${rule?.place ?? ''}\0${clientId}`, {
        clientId,
        user,
        action,
        topic,
        rule: rule === undefined ? 'none is about it' : `${rule.place} ${rule.text}`,
      }),
  }
}

/** That whoever is asked who clients are does not answer is a line, and that it does again is one. */
export function foreignEvents(log: Log, metrics: Metrics, onKeyTaken: () => void): ForeignEvents {
  const away = new Set<string>()
  return {
    onKeyTaken: () => {
      log.event('key-removed', { link: 'jwt' })
      onKeyTaken()
    },
    onDecided: (by) => metrics.webhookDecisions.inc({ by }),
    onAnswer: (link, problem) => {
      metrics.authenticatorUp.set({ link }, problem === undefined ? 1 : 0)
      if (problem === undefined && away.delete(link)) log.event('authenticator-back', { link })
      if (problem === undefined) return
      if (!away.has(link)) log.event('authenticator-away', { link, problem })
      away.add(link)
    },
  }
}
