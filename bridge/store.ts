// What a node needs of what it keeps its sessions and messages in, whatever that is: its options, what is
// wrong with it and what to do, and the bridge over it. A store is a folder of bridge/ that gives a
// `StoreKind`, and stands in stores.ts; a node knows no store by its name. No state.
import type { BackupCounts } from './backup/backup.ts'
import type { RestoreCounts, RestoreRequest } from './backup/restore.ts'
import type { BanChanges } from './ban.ts'
import type { Bridge } from './bridge.ts'
import type { Reports } from './diagnostics.ts'
import type { BridgeError } from './errors.ts'
import type { ImportCounts, ImportRequest } from './import/stock-import.ts'
import type { Option, OptionProblem } from './option.ts'
import type { SharedSettings } from './options.ts'
import type { AccessChanges } from './stored-access.ts'

/** What a node tells every store, by the names of its own options. */
export interface StoreSettings {
  /** Name of the node, unique in the cluster. */
  readonly id: string
  /** CONNECTs that may wait for the store; one beyond that is refused at once. */
  readonly claimsWaitingMax: number
  /** Messages that the queue of a session holds; beyond it the oldest goes. */
  readonly queueMessagesMax: number
  /** The same in bytes. */
  readonly queueBytesMax: number
  /** Sessions in the cluster: a new one that outlives its connection is refused beyond it. */
  readonly sessionsMax: number
  /** Which groups distribute their messages how. */
  readonly groupStrategies: string
  /** Memory that the topics of Retained Messages may take on each node: a new one is refused beyond it. */
  readonly retainedBytesMax: number
  /** How many of them there may be; undefined: any number. */
  readonly retainedMessagesMax?: number | undefined
  /** Bytes of the payload of one; undefined: any number. */
  readonly retainedMessageBytesMax?: number | undefined
  /** Retained Messages of a tenant, and what their topics may take on each node; undefined: any. */
  readonly tenantRetainedMax?: number | undefined
  readonly tenantRetainedBytesMax?: number | undefined
  /** Sessions of a tenant, in the cluster; undefined: any number. */
  readonly tenantSessionsMax?: number | undefined
  /** Sessions of a user that outlive their connections; undefined: any number. */
  readonly userSessionsMax?: number | undefined
}

export interface StoreEvents {
  /** The channels of the node that opens it. */
  readonly reports: Reports
  /** Hears of lost connections and failed commands; the bridge itself goes on. */
  readonly onError: (error: Error) => void
  /** Hears what an operator should know, and need not do anything about at once. */
  readonly onWarning: (text: string) => void
}

/** What an error is to an operator: which kind it is of, which option it is about, what to do. */
export interface Explained {
  /** `store`: it cannot be reached, or refuses us. */
  readonly reason: 'store' | 'duplicate' | 'format' | 'file'
  readonly option: string
  /** Instead of the error's own message. */
  readonly problem?: string
  readonly hint: string
}

/** The store of one configuration. */
export interface Store {
  /** What /readyz calls it. */
  readonly label: string
  /** What is to be known of it when a node starts with it; undefined: nothing. */
  readonly notice: string | undefined
  /** @throws BridgeError when it cannot be used at all */
  open(events: StoreEvents): Promise<Bridge>
  /** Whether it answers. @throws BridgeError */
  ping(): Promise<unknown>
  /** All that would keep a node from starting, or from storing; writes nothing. */
  preflight(): Promise<BridgeError[]>
  /** A line about each thing that should be otherwise in the store: what it is and what to do. */
  advice(): Promise<string[]>
  /** The same of settings that differ from those of the other nodes. */
  adviceOnNodes(): Promise<string[]>
  /** The same of what only who looks should hear: replicas, memory, files, clocks. */
  health(): Promise<string[]>
  explain(error: BridgeError): Explained
  /** Does something about bans, on a connection of its own; undefined: only the node itself can. @throws BridgeError */
  readonly changeBans: (<T>(change: (bans: BanChanges) => Promise<T>) => Promise<T>) | undefined
  /** The same about users and rules; undefined: it keeps none. @throws BridgeError */
  readonly changeAccess: (<T>(change: (access: AccessChanges) => Promise<T>) => Promise<T>) | undefined
  /** Removes what nothing reaches; undefined: there is nothing like that. @returns a line for each @throws BridgeError */
  readonly removeOrphans: (() => Promise<string[]>) | undefined
  /** Backups of what it has; undefined: it has a file that is copied. */
  readonly backups: Backups | undefined
  /** Moves an old installation into it; undefined: it takes none. */
  readonly importer: Importer | undefined
}

export interface Backups {
  /**
   * What is durable, as lines of a file; counts are those of what was read so far. What it throws while it is read: as here.
   * @param by who makes it
   * @throws BridgeError
   */
  take(
    by: string,
  ): Promise<{ readonly texts: AsyncIterable<string>; readonly counts: Readonly<BackupCounts> }>
  /** @throws BridgeError */
  restore(request: RestoreRequest, ended: AbortSignal): Promise<RestoreCounts>
}

export interface Importer {
  /** @throws BridgeError */
  run(request: ImportRequest, ended: AbortSignal): Promise<ImportCounts>
  explain(error: BridgeError): Explained
}

/** A way to store. */
export interface StoreKind<Options extends object> {
  readonly options: Readonly<Record<string, Option>>
  /** Whether a configuration names it. */
  isNamed(options: Partial<Options>): boolean
  /** What is wrong with an option of it that `needsStore`, where another one is used. */
  readonly unused: Omit<OptionProblem, 'option'>
  /** What is wrong with several nodes that use it, where it is for one. */
  readonly alone?: Omit<OptionProblem, 'option'>
  /** An address of it as it may be shown; undefined: the text is none. */
  shownAddress?(text: string): string | undefined
  /** @param textOf the text of the file that an option names */
  of(
    options: Options & StoreSettings,
    shared: SharedSettings,
    textOf: (option: keyof Options & string) => string,
  ): Store
}
