// A session whose client connects here while another node owns it: that node is asked to give it up before it
// is taken from it. What the client had sent there before (a DISCONNECT, a SUBSCRIBE, an acknowledgement) is
// read and done first, and the session released in order. The owner need not answer: it may be frozen, or
// dead and not found out. So a claim waits for its answer no longer than `waitMs`, or `leaveMs` when the
// answer is that it takes a moment, then takes the session; that is safe because of the fence (claims.ts),
// not because of the answer. State: which nodes did not answer lately.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Change } from '../messages/codec.ts'

/**
 * How long a claim waits, together for all owners that it meets; and how often it looks, however far Redis is
 * or slow this machine.
 */
const waitMs = 50
const looksMin = 5
/**
 * Who did not answer so often within `silentMs` is not asked meanwhile: the clients of a dead node come all
 * at once.
 */
const unansweredMax = 8
const silentMs = 500
/** How long, when the owner says that it is doing what came before the end of the earlier connection. */
const leaveMs = 2_000
/** Between two attempts. */
const pauseMsMax = 50

const nodeOf = (owner: string): string => owner.slice(0, owner.lastIndexOf(' '))

export class Handovers {
  readonly #append: (changes: readonly Change[]) => Promise<void>
  /** Node id → how often it did not answer of late. Those of the past go with the next one. */
  readonly #silent = new Map<string, { unanswered: number; readonly until: number }>()

  constructor(append: (changes: readonly Change[]) => Promise<void>) {
    this.#append = append
  }

  /** Of one claim. */
  begin(): Handover {
    return new Handover(this)
  }

  ask(sid: string, owner: string): void {
    this.#append([{ type: 'wanted', sid, owner }]).catch(() => undefined) // the claim goes on without
  }

  isSilent(nodeId: string): boolean {
    const silent = this.#silent.get(nodeId)
    return silent !== undefined && silent.unanswered >= unansweredMax && silent.until > performance.now()
  }

  unanswered(nodeId: string): void {
    const now = performance.now()
    for (const [name, { until }] of this.#silent) if (until <= now) this.#silent.delete(name)
    const silent = this.#silent.get(nodeId)
    if (silent === undefined) this.#silent.set(nodeId, { unanswered: 1, until: now + silentMs })
    else silent.unanswered++
  }
}

export class Handover {
  readonly #all: Handovers
  /** sid, space, owner. */
  readonly #asked = new Set<string>()
  #began = 0
  #pauseMs = 1
  #looks = 0
  /** Whether the next attempt is still to spare an owner on another node. */
  isPatient = true

  constructor(all: Handovers) {
    this.#all = all
  }

  /** An attempt met an owner: resolves when the next one is due. */
  async met(sid: string, owner: string, leaves: boolean): Promise<void> {
    const now = performance.now()
    const node = nodeOf(owner)
    if (!this.#asked.has(`${sid} ${owner}`)) {
      if (this.#all.isSilent(node)) return void (this.isPatient = false)
      this.#asked.add(`${sid} ${owner}`)
      this.#all.ask(sid, owner)
      this.#pauseMs = 1
      if (this.#began === 0) this.#began = now
    }
    const leftMs = this.#began + (leaves ? leaveMs : waitMs) - now
    if (++this.#looks > looksMin && leftMs <= 0) {
      if (!leaves) this.#all.unanswered(node)
      this.isPatient = false
    } else await sleep(Math.max(1, Math.min(this.#pauseMs, leftMs)))
    this.#pauseMs = Math.min(this.#pauseMs * 2, pauseMsMax)
  }

  /** Names of the wills of those who were asked: they leave them to who asks. */
  get wills(): string[] {
    return [...this.#asked].map(
      (asked) => `w:${asked.slice(0, asked.indexOf(' '))}:${asked.slice(asked.lastIndexOf(' ') + 1)}`,
    )
  }
}
