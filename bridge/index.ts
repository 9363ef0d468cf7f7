// What bridges the nodes to one another, as one door: a node imports this file and nothing else of
// bridge/. stores.ts lists what it may store in.
export type { Bridge } from './bridge.ts'
export { banKinds, bansMax, type Ban, type BanChanges, type BanKind, type Bans } from './ban.ts'
export {
  storedRulesBytesMax,
  storedUsersMax,
  type AccessChanges,
  type StoredAccess,
} from './stored-access.ts'
export type { Cluster, ClusterSessions, RetainedRead } from './cluster.ts'
export type { ClusterRequests, NodeAnswer } from './control/requests.ts'
export type {
  ClusterInspection,
  GroupFacts,
  QueuesLookedAt,
  SessionFacts,
  SessionPage,
  SubscriptionFacts,
  TopicTargets,
} from './inspection/inspection.ts'
export type { Receiver } from './options.ts'
export { Allowance } from './pace/allowance.ts'
export type { Later } from './messages/codec.ts'
export { diagnostics, Reports, type ChannelName } from './diagnostics.ts'
export { BridgeError, bridgeErrors, isOfStore, type BridgeErrorCode } from './errors.ts'
export {
  groupIds,
  type Delivery,
  type GroupHolder,
  type GroupWrites,
  type LeftDelivery,
} from './groups/group-holder.ts'
export { hashedOf } from './groups/node-picks.ts'
export { isShared, sharedFilterOf } from './groups/shared-filter.ts'
export { GroupRules, strategies, type Strategy } from './groups/group-rules.ts'
export { FilterTrie } from './matching/filter-trie.ts'
export { atOnce, made, type Making, type Pace } from './matching/making.ts'
export { MatchCache, type Maker } from './matching/match-cache.ts'
export { SmallMap } from './matching/small-map.ts'
export type { ImportCounts, ImportRequest, StockPacket } from './import/stock-import.ts'
export { importSource, importTargets } from './import/options.ts'
export { dayMs, name, positiveMs, whole, type Option, type OptionProblem, type ValuesOf } from './option.ts'
export { shownAddress, storeKindOf, storeKinds, storeOf, storeOptions, type StoreOptions } from './stores.ts'
export type { SharedSettings } from './options.ts'
export type { Backups, Store, StoreSettings } from './store.ts'
export { hashIndex } from './redis/keys.ts'
export type { BridgeFacts, BridgeStep, MessageTrace } from './messages/message-trace.ts'
export { isExpired, Message, secondsLeft, type MessageFields, type Publisher } from './messages/message.ts'
export { isOfBefore, Moment, type Stamps } from './retained/moment.ts'
export { OwedReplays, type Field, type OwedReplay } from './sessions/owed-replays.ts'
export { SessionOption } from './sessions/session-options.ts'
export type { SessionHolder, SessionReply, SessionWrites } from './sessions/session-writer.ts'
export {
  epochOf,
  type InFlightEntry,
  type Session,
  type SessionRequest,
  type UnderWay,
} from './sessions/session.ts'
export type { StoredSubscription } from './sessions/stored-subscription.ts'
export { RouteKind, type Route } from './routes/routing-table.ts'
export { retryPause } from './pace/retry.ts'
export { isBacklogged, whenWorkedOff, workOff } from './pace/backlog.ts'
export {
  atEnd,
  atEndAsync,
  connectsWait,
  later,
  laterConnect,
  laterOn,
  nextTurn,
  Slice,
  turnIsOver,
  worked,
} from './pace/turns.ts'
export type { Waiting, WaitReport } from './pace/waits.ts'
export {
  isTenant,
  nameIn,
  ownFilter,
  ownName,
  ownTopic,
  Tenant,
  tenantBytesMax,
  tenantOf,
  tenantOfName,
} from './matching/tenant.ts'
export { filterBytes, filterMatches, hasWildcard, isValidFilter, isValidTopic } from './matching/topic.ts'
