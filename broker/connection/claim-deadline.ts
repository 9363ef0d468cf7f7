// CONNECTs that wait for their session because Redis is away: each has a deadline, after which its client is
// told to come again (0x88, in 3.1.1 return code 3), rather than that it is not authorized, or nothing. What
// a claim that is given up may still get, because the reply of Redis was lost, is handed back. How many may
// wait is the bridge's (bridge/sessions/claim-queue.ts), which knows what they wait for. State: none.
import { BridgeError, type Session } from '../../bridge/index.ts'

/** What Aedes takes as the answer to CONNECT: 0x88 for MQTT 5, return code 3 for 3.1.1 [MQTT-3.1.4-2]. */
export interface ServerUnavailable extends Error {
  readonly returnCode: 3
}

const unavailable = (cause: unknown): ServerUnavailable =>
  Object.assign(
    new Error(`server unavailable: ${cause instanceof Error ? cause.message : String(cause)}`, { cause }),
    { returnCode: 3 as const },
  )

/**
 * @param claim makes the node the owner of the session; `abandoned`, `givenUp`: nobody waits for it any more
 * @param release gives back a session that came too late
 * @throws ServerUnavailable
 */
export async function withinDeadline(
  ms: number,
  claim: (abandoned: () => boolean, givenUp: Promise<void>) => Promise<Session>,
  release: (session: Session) => void,
): Promise<Session> {
  let isLate = false
  let timer: NodeJS.Timeout | undefined
  let giveUp!: () => void
  const claiming = claim(
    () => isLate,
    new Promise((resolve) => {
      giveUp = resolve
    }),
  )
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => {
      isLate = true
      giveUp()
      claiming.then(release, () => undefined) // it was told already
      reject(new BridgeError('ERR_BRIDGE_LATE', `no session within ${ms} ms`))
    }, ms)
  })
  try {
    return await Promise.race([claiming, late])
  } catch (cause) {
    throw unavailable(cause)
  } finally {
    clearTimeout(timer)
  }
}
