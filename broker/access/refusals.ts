// What bounds and guards refuse, by cause, and what the client gets for it: one table. Each cause is a label of the
// metric `aedes_cluster_refusals_total`. broker/README.md shows the table, and test/tidy.test.ts checks it. No state.

interface Refused {
  readonly what: 'filter' | 'connection' | 'message' | 'packet' | 'filter or packet'
  /** The option that sets the bound (config/limits.ts has its default), or where a constant stands. */
  readonly bound: string
  /** The file in broker/ that finds it, or several. */
  readonly checkedIn: string | readonly string[]
  /** What a client of MQTT 5 gets. */
  readonly v5: string
  /** What a client of MQTT 3.1.1 gets. */
  readonly v311: string
}

const filter = (bound: string, v5: string, checkedIn = 'routing/subscription-bounds.ts'): Refused => ({
  what: 'filter',
  bound,
  checkedIn,
  v5: `SUBACK ${v5} for this filter alone`,
  v311: 'SUBACK 0x80 for this filter alone',
})

const silently = 'closed without a word'

/** A bound on a topic or filter. */
const name = (bound: string): Refused => ({
  what: 'filter or packet',
  bound,
  checkedIn: ['routing/subscription-bounds.ts', 'protocol/control-packets.ts'],
  v5: 'SUBACK 0x8F for this filter alone; of a PUBLISH or its Response Topic DISCONNECT 0x90, of a will CONNACK 0x90',
  v311: `SUBACK 0x80 for this filter alone; of a PUBLISH ${silently}, of a will CONNACK 5`,
})
export const refusalCauses = {
  'topic-levels': name('topicLevelsMax'),
  'topic-bytes': name('topicBytesMax'),
  'subscribe-filters': filter('subscribeFiltersMax', '0x97', 'aedes/subscribe.ts'),
  subscriptions: filter('subscriptionsMax', '0x97'),
  'subscription-bytes': filter('subscriptionBytesMax', '0x97'),
  'routing-bytes': filter('routingBytesMax', '0x97'),
  'group-members': {
    what: 'filter',
    bound:
      '1,000 members of a group (bridge/groups/group-calls.ts), 128 groups of a session (bridge/groups/group-holder.ts)',
    checkedIn: 'groups/shared-subscriptions.ts',
    v5: 'SUBACK 0x97 for this filter alone; CONNACK 0x97 when its session resumes',
    v311: 'SUBACK 0x80 for this filter alone; CONNACK 3 when its session resumes',
  },
  'client-id': {
    what: 'connection',
    bound: 'clientIdBytesMax',
    checkedIn: 'protocol/control-packets.ts',
    v5: 'CONNACK 0x85',
    v311: 'CONNACK 2',
  },
  'connect-bytes': {
    what: 'connection',
    bound: 'connectBytesMax',
    checkedIn: 'protocol/packet-reader.ts',
    v5: 'CONNACK 0x95',
    v311: silently,
  },
  drained: {
    what: 'connection',
    bound: 'the node is drained, and knows where else to go (serverReference, advertisedAddress)',
    checkedIn: 'access/admission.ts',
    v5: 'CONNACK 0x9C (0x9D with serverMoved) with Server Reference',
    v311: 'CONNACK 3',
  },
  connections: {
    what: 'connection',
    bound: 'connectionsMax',
    checkedIn: 'access/admission.ts',
    v5: 'CONNACK 0x97',
    v311: 'CONNACK 3',
  },
  connecting: {
    what: 'connection',
    bound: 'connectingMax',
    checkedIn: 'access/admission.ts',
    v5: silently,
    v311: silently,
  },
  claims: {
    what: 'connection',
    bound: 'claimsWaitingMax, claimTimeoutMs',
    checkedIn: 'connection/client-sessions.ts',
    v5: 'CONNACK 0x89 when too many wait, 0x88 after the time',
    v311: 'CONNACK 3',
  },
  sessions: {
    what: 'connection',
    bound: 'sessionsMax, storedBytesMax',
    checkedIn: 'connection/client-sessions.ts',
    v5: 'CONNACK 0x97',
    v311: 'CONNACK 3',
  },
  'user-sessions': {
    what: 'connection',
    bound: 'userSessionsMax',
    checkedIn: 'connection/client-sessions.ts',
    v5: 'CONNACK 0x97',
    v311: 'CONNACK 3',
  },
  'tenant-sessions': {
    what: 'connection',
    bound: 'tenantSessionsMax',
    checkedIn: 'connection/client-sessions.ts',
    v5: 'CONNACK 0x97',
    v311: 'CONNACK 3',
  },
  'will-bytes': {
    what: 'connection',
    bound: 'willBytesMax',
    checkedIn: 'aedes/connect.ts',
    v5: 'CONNACK 0x97',
    v311: 'CONNACK 3',
  },
  'session-user': {
    what: 'connection',
    bound: "sessionTakeover: the session of its Client Identifier is another user's",
    checkedIn: 'connection/client-sessions.ts',
    v5: 'CONNACK 0x85',
    v311: 'CONNACK 2',
  },
  banned: {
    what: 'connection',
    bound: 'a ban (aedes-cluster bans), flappingConnectsMax',
    checkedIn: 'aedes/connect.ts',
    v5: 'CONNACK 0x8A; DISCONNECT 0x98 when it is connected',
    v311: 'CONNACK 5; closed without a word when it is connected',
  },
  tenant: {
    what: 'connection',
    bound: 'tenants: it belongs to none, to two, or to one that can be none',
    checkedIn: 'aedes/connect.ts',
    v5: 'CONNACK 0x87',
    v311: 'CONNACK 5',
  },
  'tenant-connections': {
    what: 'connection',
    bound: 'tenantConnectionsMax',
    checkedIn: 'aedes/connect.ts',
    v5: 'CONNACK 0x97',
    v311: 'CONNACK 3',
  },
  'user-connections': {
    what: 'connection',
    bound: 'userConnectionsMax',
    checkedIn: 'aedes/connect.ts',
    v5: 'CONNACK 0x97',
    v311: 'CONNACK 3',
  },
  retained: {
    what: 'message',
    bound:
      'retainedBytesMax, retainedMessagesMax, retainedMessageBytesMax, tenantRetainedMax, tenantRetainedBytesMax',
    checkedIn: 'connection/inbound.ts',
    v5: 'PUBACK or PUBREC 0x97; at QoS 0 it goes to subscribers and is not retained',
    v311: 'acknowledged; it goes to subscribers and is not retained',
  },
  'publish-rate': {
    what: 'message',
    bound: 'publishesPerSecondMax, publishBytesPerSecondMax, unless publishTooFast is wait',
    checkedIn: 'connection/inbound.ts',
    v5: 'publishTooFast refuse: PUBACK or PUBREC 0x97, at QoS 0 dropped; disconnect: DISCONNECT 0x96',
    v311: 'refuse: at QoS 0 dropped, at QoS 1 and 2 it waits; disconnect: closed without a word',
  },
  'receive-maximum': {
    what: 'packet',
    bound: 'receiveMaximum',
    checkedIn: 'connection/unstored-publishes.ts',
    v5: 'DISCONNECT 0x93',
    v311: silently,
  },
  'packet-bytes': {
    what: 'packet',
    bound: 'packetBytesMax',
    checkedIn: 'protocol/packet-reader.ts',
    v5: 'DISCONNECT 0x95',
    v311: silently,
  },
  'alias-bytes': {
    what: 'packet',
    bound: 'aliasBytesMax in protocol/packet-reader.ts',
    checkedIn: 'protocol/packet-reader.ts',
    v5: 'DISCONNECT 0x97',
    v311: 'there are no Topic Aliases',
  },
  'topic-alias': {
    what: 'packet',
    bound: 'topicAliasMax',
    checkedIn: 'protocol/packet-reader.ts',
    v5: 'DISCONNECT 0x94',
    v311: 'there are no Topic Aliases',
  },
  'client-bytes': {
    what: 'connection',
    bound: 'clientBytesMax',
    checkedIn: 'connection/connection.ts',
    v5: 'DISCONNECT 0x97',
    v311: silently,
  },
  denied: {
    what: 'packet',
    bound: 'what a guard says',
    checkedIn: 'access/gate.ts',
    v5: 'its reason code in CONNACK, PUBACK, PUBREC or SUBACK',
    v311: 'CONNACK 4 or 5; SUBACK 0x80; a PUBLISH by refusedPublish: acknowledged and dropped, or closed',
  },
  'decision-late': {
    what: 'packet',
    bound: 'decisionTimeoutMs',
    checkedIn: 'access/gate.ts',
    v5: 'CONNACK 0x88; PUBACK, PUBREC or SUBACK 0x83',
    v311: 'CONNACK 3; SUBACK 0x80; a PUBLISH by refusedPublish',
  },
  'decision-failed': {
    what: 'packet',
    bound: 'a guard that throws',
    checkedIn: 'access/gate.ts',
    v5: 'CONNACK 0x88; PUBACK, PUBREC or SUBACK 0x83',
    v311: 'CONNACK 3; SUBACK 0x80; a PUBLISH by refusedPublish',
  },
} as const satisfies Readonly<Record<string, Refused>>
export type RefusalCause = keyof typeof refusalCauses

/**
 * Why a connection is read no further for a while: nothing is refused, and what it sends waits in its socket.
 */
export const heldCauses = ['publishes', 'publish-rate', 'requests', 'connects'] as const
export type HeldCause = (typeof heldCauses)[number]
