// A member of a group as a node has it while its client is connected, without the client: it acknowledges whatever it is
// given, unless told otherwise.
import type { GroupHolder, GroupWrites, Session } from '../../bridge/index.ts'
import type { Plane } from './planes.ts'

export class Member implements GroupHolder {
  readonly #at: Plane
  readonly name: string
  readonly sid: string
  readonly owner: string
  readonly qos = 2
  readonly lasting: boolean
  readonly base = 49_152
  /** 0: it takes nothing, so that messages wait in the backlog. */
  limit = 100
  readonly payloads: string[] = []
  isLost = false
  acknowledges = true
  #done: number[] = []

  constructor(at: Plane, { sid, owner }: Session, name: string, lasting = true) {
    this.#at = at
    this.name = name
    this.sid = sid
    this.owner = owner
    this.lasting = lasting
  }

  get isBusy(): boolean {
    return this.#done.length > 0
  }

  get kept(): readonly number[] {
    return this.#done
  }

  takeWrites(): GroupWrites {
    return { limit: this.limit, acknowledged: [...this.#done], received: [], returned: [] }
  }

  written({ acknowledged }: GroupWrites): void {
    this.#done = this.#done.slice(acknowledged.length)
  }

  unwritten(): void {
    // the same is taken again
  }

  give({ id, seq, message }: Parameters<GroupHolder['give']>[0]): void {
    if (message !== undefined && message !== 'later') this.payloads.push(message.payload.toString())
    if (!this.acknowledges) return
    this.#done.push(id, seq)
    this.#at.plane.groups.schedule(this)
  }

  resume(left: Parameters<GroupHolder['resume']>[0]): void {
    for (const delivery of left) this.give(delivery)
  }

  settled(): Promise<void> {
    return Promise.resolve()
  }

  lost(): void {
    this.isLost = true
  }
}
