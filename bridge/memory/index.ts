// A bridge to nobody: one node without Redis. What it keeps is in this process, and in one file when the
// operator names one.
import type { Bridge } from '../bridge.ts'
import type { SystemEvents } from '../control/system-events.ts'
import { MemoryBans } from './memory-bans.ts'
import { Reports } from '../diagnostics.ts'
import { filterMatches } from '../matching/topic.ts'
import type { ValuesOf } from '../option.ts'
import { Clock } from '../pace/clock.ts'
import { Waits } from '../pace/waits.ts'
import type { StoreKind } from '../store.ts'
import { FileLog, type Fsync } from './state-file.ts'
import { MemoryCluster, type MemoryOptions } from './memory-cluster.ts'
import { memoryOptions } from './options.ts'
import { State } from './state.ts'
import { StateStore } from './state-store.ts'

export interface MemoryBridgeOptions extends MemoryOptions {
  /** Keeps the state over a restart; undefined: nothing does. */
  readonly file: string | undefined
  readonly fsync: Fsync
  /** CONNECTs that may wait for the disk; one beyond that is refused at once. */
  readonly claimsWaitingMax: number
  /** The channels of the node; undefined: nobody hears them as its own. */
  readonly reports?: Reports | undefined
  /** Hears of the end of a file that was cut off, and of a file that could not be written anew. */
  readonly onWarning: (text: string) => void
}

/** What is told under $SYS, to this node alone. */
class LocalEmitter implements SystemEvents {
  readonly #listeners = new Set<{
    readonly filter: string
    readonly listener: (topic: string, payload: Buffer) => void
  }>()

  on(filter: string, listener: (topic: string, payload: Buffer) => void): () => void {
    const one = { filter, listener }
    this.#listeners.add(one)
    return () => this.#listeners.delete(one)
  }

  emit(topic: string, payload: Buffer): void {
    setImmediate(() => {
      for (const { filter, listener } of this.#listeners)
        if (filterMatches(filter, topic)) listener(topic, payload)
    })
  }
}

/** @throws BridgeError ERR_BRIDGE_FILE when the file cannot be used */
export async function createMemoryBridge(options: MemoryBridgeOptions): Promise<Bridge> {
  const { file, fsync, name } = options
  const waits = new Waits(
    options.reports ?? new Reports(name),
    options.claimsWaitingMax,
    'ERR_BRIDGE_DISK_SLOW',
  )
  // asked once: what is in the file says in it when it expires, and in this process nobody sets it
  const clock = new Clock()
  clock.sample(performance.now(), performance.now(), Date.now())
  const opened =
    file === undefined
      ? undefined
      : await FileLog.open(file, fsync, options.onWarning, waits).catch((error: unknown) => {
          waits.close()
          throw error
        })
  if (opened !== undefined && opened.cut > 0)
    options.onWarning(
      `${opened.cut} bytes at the end of ${file} were cut off: they were being written when the process ended, and nobody was told that they are stored`,
    )
  const bans = new MemoryBans()
  const store = new StateStore(opened?.state ?? new State(), opened?.log)
  return {
    emitter: new LocalEmitter(),
    bans,
    storedAccess: undefined,
    join: (receiver) => new MemoryCluster(options, receiver, store, clock, waits).start(),
    probe: () => opened?.log.probe() ?? Promise.resolve(),
    get isStoring() {
      return opened?.log.problem === undefined
    },
    get probeMs() {
      return opened?.log.lastProbeMs ?? 0
    },
    get waiting() {
      return waits.waiting
    },
    get named() {
      return waits.named
    },
    close: async () => {
      waits.close()
      bans.close()
      await store.close()
    },
  }
}

export const memoryStore: StoreKind<ValuesOf<typeof memoryOptions>> = {
  options: memoryOptions,
  isNamed: () => true, // where no other is
  alone: {
    problem: 'needs Redis: without it a node is one process',
    hint: 'Add --redis redis://host:port, or leave it out',
  },
  unused: {
    problem: 'is for a node without Redis',
    hint: 'Leave it out, or --redis: a cluster keeps all in Redis',
  },
  of: ({ id, stateFile, ...options }) => ({
    label: stateFile === undefined ? 'memory' : 'file',
    notice: `no Redis is named: one node, which keeps sessions and messages in ${stateFile ?? 'memory: they are gone when it stops'}`,
    open: ({ onWarning, reports }) =>
      createMemoryBridge({ ...options, name: id, file: stateFile, onWarning, reports }),
    ping: () => Promise.resolve(),
    preflight: () => Promise.resolve([]),
    advice: () => Promise.resolve([]),
    adviceOnNodes: () => Promise.resolve([]),
    health: () => Promise.resolve([]),
    explain: ({ remedy }) => ({ reason: 'file', option: 'stateFile', hint: remedy }),
    changeBans: undefined,
    changeAccess: undefined,
    removeOrphans: undefined,
    backups: undefined,
    importer: undefined,
  }),
}
