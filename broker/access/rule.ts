// A rule about what may be done, as data: rules.ts decides by them, rules-file.ts and mosquitto-acl.ts read them. No state.

export const actions = ['publish', 'subscribe', 'receive'] as const
export type Action = (typeof actions)[number]

export interface Question {
  readonly action: Action
  /** A topic; of SUBSCRIBE a filter, without the name of a group. */
  readonly topic: string
  readonly qos: 0 | 1 | 2
  /** Of PUBLISH. */
  readonly retain: boolean
  /** Of a Shared Subscription. */
  readonly group: string | undefined
}

/** A name as it is, or all that begin so. */
export type Name = string | { readonly prefix: string }

export interface Rule {
  readonly isAllowing: boolean
  readonly actions: readonly Action[]
  /** Undefined: all, also who has no user name. */
  readonly users: readonly Name[] | undefined
  readonly clients: readonly Name[] | undefined
  /** Undefined: of every tenant, and where there are none. */
  readonly tenants?: readonly Name[] | undefined
  /** Only clients without a user name. */
  readonly isOfAnonymous: boolean
  /** Common names of certificates. */
  readonly commonNames: readonly Name[] | undefined
  /** Undefined: every topic. */
  readonly topics: readonly Topics[] | undefined
  /** Undefined: each QoS. */
  readonly qos: readonly number[] | undefined
  /** Undefined: with RETAIN or without. */
  readonly retain: boolean | undefined
  /** Undefined: a Shared Subscription or none. */
  readonly groups: readonly Name[] | undefined
  /** Where it stands, for the log: file and line. */
  readonly place: string
  /** As it may be shown. */
  readonly text: string
}

/** A level as it is written, or what stands in it of the one who asks. */
export type Level = string | readonly Piece[]
export type Piece = string | { readonly placeholder: string }

export type Topics =
  | { readonly kind: 'filter'; readonly levels: readonly Level[] }
  | { readonly kind: 'prefix'; readonly prefix: string }
