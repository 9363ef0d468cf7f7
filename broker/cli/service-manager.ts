// What systemd is told of a node that it runs (sd_notify): that it serves, that it stops, and, as often as the watchdog of
// the unit asks for it, that its event loop goes round. It is said to a datagram socket, which Node has none of: systemd's
// own `systemd-notify` says it, so the unit needs NotifyAccess=all. Elsewhere nothing is said. State: what is being
// said, one after the other; the timer of the watchdog.
import { spawn } from 'node:child_process'

/** What systemd has for hearing something, when the process would end otherwise. */
const saidMs = 1_000

type Environment = Readonly<Record<string, string | undefined>>

export class ServiceManager {
  readonly #isThere: boolean
  readonly #watchdogMs: number
  #said: Promise<void> = Promise.resolve()
  #watchdog: NodeJS.Timeout | undefined

  /** @param env NOTIFY_SOCKET, and WATCHDOG_USEC with WATCHDOG_PID, which may be about another process */
  constructor(env: Environment, pid: number) {
    this.#isThere = (env.NOTIFY_SOCKET ?? '') !== ''
    const isOurs = env.WATCHDOG_PID === undefined || env.WATCHDOG_PID === String(pid)
    const microseconds = Number(env.WATCHDOG_USEC)
    this.#watchdogMs = isOurs && microseconds > 0 ? microseconds / 1_000 : 0
  }

  /** It serves: from now on the watchdog hears of it, twice in the time that it has. */
  ready(): void {
    this.#say('READY=1', 'STATUS=serving')
    if (this.#watchdogMs > 0 && this.#isThere)
      this.#watchdog ??= setInterval(() => this.#say('WATCHDOG=1'), this.#watchdogMs / 2).unref()
  }

  /** It stops: resolves when that is said. The watchdog hears of it until it has ended: a stop that hangs is ended by the time that the unit gives it. */
  stopping(): Promise<void> {
    this.#say('STOPPING=1', 'STATUS=tells its clients to go')
    return Promise.race([this.#said, new Promise<void>((resolve) => setTimeout(resolve, saidMs).unref())])
  }

  #say(...what: readonly string[]): void {
    if (!this.#isThere) return
    this.#said = this.#said.then(
      () =>
        new Promise((resolve) => {
          const child = spawn('systemd-notify', [...what], { stdio: 'ignore' })
          child.once('error', () => resolve()) // there is none: the unit says how long it waits for one
          child.once('close', () => resolve())
        }),
    )
  }
}
