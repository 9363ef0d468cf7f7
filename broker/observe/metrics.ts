// The metrics of one node, in Prometheus' text format at /metrics. The table in broker/README.md is checked
// against them. Counters live in this process and start at 0 with it.
import { bridgeErrors, isOfStore } from '../../bridge/index.ts'
import { collectDefaultMetrics, Counter, Gauge, Registry } from 'prom-client'
import { turnedAwayCauses } from '../listeners/door.ts'
import type { LiveTenant } from '../access/tenancy.ts'
import { heldCauses, refusalCauses } from '../access/refusals.ts'
import { showTraffic } from './traffic-metrics.ts'
import { Traffic } from './traffic.ts'

const dropCauses = [
  'slow-subscriber',
  'slow-node',
  'full-queue',
  'full-store',
  'ended-session',
  'too-large',
  'expired',
  'failed',
  'refused',
  'denied',
  'client-bytes',
  'events',
]
const garbagePlaces = [
  'backlog',
  'channel',
  'due',
  'given',
  'inbox',
  'incoming',
  'inflight',
  'journal',
  'queue',
  'retained',
  'session',
  'subscriptions',
  'will',
]

/** Of Prometheus' text format. */
export const metricsContentType = Registry.PROMETHEUS_CONTENT_TYPE

export class Metrics {
  readonly registry = new Registry()
  readonly traffic = new Traffic()
  readonly connections = new Gauge({
    name: 'aedes_cluster_connections',
    help: 'clients connected to this node: CONNACK accepted them and their connection is open',
    registers: [this.registry],
  })
  readonly connects = new Counter({
    name: 'aedes_cluster_connects_total',
    help: 'clients that CONNACK accepted',
    registers: [this.registry],
  })
  readonly published = new Counter({
    name: 'aedes_cluster_publishes_received_total',
    help: 'PUBLISH packets taken from clients',
    labelNames: ['qos'],
    registers: [this.registry],
  })
  readonly dropped = new Counter({
    name: 'aedes_cluster_messages_dropped_total',
    help: 'deliveries that did not happen, by cause: slow-subscriber, delivery-rate (deliveriesPerSecondMax, deliveryBytesPerSecondMax), slow-node, full-queue, full-store (storedBytesMax), ended-session (of a group, at QoS 2: it was sent to a member whose session ended before it was completed), too-large, expired, failed, refused, denied (a guard does not forward it to this client), client-bytes, events (of $SYS, while the store is away)',
    labelNames: ['cause', 'qos'],
    registers: [this.registry],
  })
  readonly refused = new Counter({
    name: 'aedes_cluster_refusals_total',
    help: 'what a bound or guard refused, by cause: a filter (topic-levels, topic-bytes, subscribe-filters, subscriptions, subscription-bytes, routing-bytes, group-members), a connection (client-id, connect-bytes, connections, connecting, claims, banned, user-connections, sessions: also no room for what they have in flight, storedBytesMax), a Retained Message or will that is not retained (retained), a PUBLISH that came too fast (publish-rate), or what ended one (receive-maximum, packet-bytes, alias-bytes, client-bytes); a CONNECT, PUBLISH or filter that a guard denied (denied), did not decide in time (decision-late) or threw at (decision-failed)',
    labelNames: ['cause'],
    registers: [this.registry],
  })
  readonly #tenantConnections = new Gauge({
    name: 'aedes_cluster_tenant_connections',
    help: 'connections of a tenant to this node, of the 100 tenants that have most',
    labelNames: ['tenant'],
    registers: [this.registry],
  })
  readonly #tenantPublishes = new Counter({
    name: 'aedes_cluster_tenant_publishes_total',
    help: 'messages that the clients of such a tenant published at this node',
    labelNames: ['tenant'],
    registers: [this.registry],
  })
  readonly #tenantDeliveries = new Counter({
    name: 'aedes_cluster_tenant_deliveries_total',
    help: 'messages that this node sent to the clients of such a tenant',
    labelNames: ['tenant'],
    registers: [this.registry],
  })
  readonly authenticatorUp = new Gauge({
    name: 'aedes_cluster_authenticator_up',
    help: '1 while whom a link of `authentication` asks answers as it should (jwt: what jwtKeysUrl names; webhook), 0 while it does not',
    labelNames: ['link'],
    registers: [this.registry],
  })
  readonly webhookDecisions = new Counter({
    name: 'aedes_cluster_webhook_decisions_total',
    help: 'clients about which the link webhook decided, by what: request (it was asked), remembered, last (the last that is known, while it does not answer), nobody (told to come again)',
    labelNames: ['by'],
    registers: [this.registry],
  })
  readonly heldBack = new Counter({
    name: 'aedes_cluster_held_back_total',
    help: 'how often a connection was read no further for a while, by cause: publishes that are not stored (receiveMaximum, or 256 KiB), publish-rate: it publishes too fast (publishesPerSecondMax, publishBytesPerSecondMax), requests: SUBSCRIBEs and UNSUBSCRIBEs that wait (controlPacketsMax, or 256 KiB), connects: more came than may come in a second (connectsPerSecondMax)',
    labelNames: ['cause'],
    registers: [this.registry],
  })
  readonly clientBytes = new Gauge({
    name: 'aedes_cluster_client_bytes',
    help: 'memory that this node holds for its clients, as it is bounded by clientBytesMax',
    registers: [this.registry],
  })
  readonly slowSubscribers = new Gauge({
    name: 'aedes_cluster_slow_subscribers',
    help: 'clients for which more than slowBytesMax waits, until they have read three quarters of it',
    registers: [this.registry],
  })
  readonly heldTopics = new Gauge({
    name: 'aedes_cluster_held_topics',
    help: 'topics whose publishers wait for slow subscribers, of this node or another',
    registers: [this.registry],
  })
  readonly groupMembers = new Gauge({
    name: 'aedes_cluster_group_members',
    help: 'members of groups (Shared Subscriptions) that are connected to this node',
    registers: [this.registry],
  })
  readonly groupMessages = new Gauge({
    name: 'aedes_cluster_group_backlog_messages',
    help: 'messages that wait for a member of their group, of the groups that this node has to do with, as it saw them last',
    registers: [this.registry],
  })
  readonly groupBytes = new Gauge({
    name: 'aedes_cluster_group_backlog_bytes',
    help: 'the same in bytes',
    registers: [this.registry],
  })
  readonly unstored = new Gauge({
    name: 'aedes_cluster_unstored_deliveries',
    help: 'messages to many sessions that are on their way to their queues, one for each session: when there are many the next message waits',
    registers: [this.registry],
  })
  readonly unstoredBytes = new Gauge({
    name: 'aedes_cluster_unstored_delivery_bytes',
    help: 'the same in bytes, roughly',
    registers: [this.registry],
  })
  readonly givenBack = new Counter({
    name: 'aedes_cluster_group_given_back_total',
    help: 'messages of groups that went to another member: the one that had them did not acknowledge them',
    registers: [this.registry],
  })
  readonly nodes = new Gauge({
    name: 'aedes_cluster_nodes',
    help: 'nodes alive in the cluster as this node knows it',
    registers: [this.registry],
  })
  readonly garbage = new Counter({
    name: 'aedes_cluster_garbage_total',
    help: 'entries in the store that were not ours or not whole, skipped',
    labelNames: ['where'],
    registers: [this.registry],
  })
  readonly later = new Counter({
    name: 'aedes_cluster_later_records_total',
    help: 'records that a later version wrote and this one did not understand: kept where they are stored, passed by where they travel',
    labelNames: ['where'],
    registers: [this.registry],
  })
  readonly failed = new Counter({
    name: 'aedes_cluster_failed_messages_total',
    help: 'exceptions while one message was handled (a bug): that message was passed by',
    labelNames: ['where'],
    registers: [this.registry],
  })
  readonly willsLeft = new Counter({
    name: 'aedes_cluster_wills_left_total',
    help: 'due wills that were not taken yet, because 1,000 were already waiting for a store that is full',
    registers: [this.registry],
  })
  readonly damaged = new Counter({
    name: 'aedes_cluster_damaged_total',
    help: 'keys in the store that were damaged, each at most once a minute; mended as far as they could be',
    registers: [this.registry],
  })
  readonly damagedFiles = new Gauge({
    name: 'aedes_cluster_damaged_files',
    help: 'files of users, rules, keys, tokens, certificates or options that were read again and are not in order: what they said before holds',
    registers: [this.registry],
  })
  readonly sealed = new Counter({
    name: 'aedes_cluster_inboxes_sealed_total',
    help: 'inboxes of other nodes that this node found full and unread: those nodes were given up',
    registers: [this.registry],
  })
  readonly clientErrors = new Counter({
    name: 'aedes_cluster_client_errors_total',
    help: 'connections ended by an error: protocol, keep alive, socket',
    registers: [this.registry],
  })
  readonly sockets = new Gauge({
    name: 'aedes_cluster_sockets',
    help: "connections at the listeners, also those that are no client's yet",
    registers: [this.registry],
  })
  readonly socketsMax = new Gauge({
    name: 'aedes_cluster_sockets_max',
    help: 'connections for which there are file descriptors; +Inf where the system does not tell',
    registers: [this.registry],
  })
  readonly turnedAway = new Counter({
    name: 'aedes_cluster_connections_turned_away_total',
    help: "connections that ended before they were a client's: descriptors (none left), deadline (no CONNECT in time), crowd (too many at once: the oldest goes), pace (as many wait for their turn as are let in within 20 seconds: connectsPerSecondMax), proxy (no PROXY header, or from no network of proxies: proxyNetworks), address (as many as one may have: addressConnectionsMax), handshake (TLS), request (not the upgrade that MQTT needs)",
    labelNames: ['cause'],
    registers: [this.registry],
  })
  readonly logLinesDropped = new Counter({
    name: 'aedes_cluster_log_lines_dropped_total',
    help: 'log lines that were left out since nobody read standard error, or it could not be written',
    registers: [this.registry],
  })
  readonly storeUp = new Gauge({
    name: 'aedes_cluster_store_up',
    help: '1 while the store takes writes: one is tried every second',
    registers: [this.registry],
  })
  readonly storeErrors = new Counter({
    name: 'aedes_cluster_store_errors_total',
    help: 'what the store refused or did not answer, by code (bridge/README.md); it was tried again',
    labelNames: ['code'],
    registers: [this.registry],
  })
  readonly probeSeconds = new Gauge({
    name: 'aedes_cluster_store_probe_seconds',
    help: 'how long the last write took that was tried; the deadline when there was no answer',
    registers: [this.registry],
  })
  readonly storeLosses = new Counter({
    name: 'aedes_cluster_store_losses_total',
    help: 'how often the store had lost data, which this node wrote down again as far as it has them',
    registers: [this.registry],
  })
  readonly fenced = new Counter({
    name: 'aedes_cluster_fenced_total',
    help: 'how often the others declared this node dead, which began anew',
    registers: [this.registry],
  })
  readonly nodesLost = new Counter({
    name: 'aedes_cluster_nodes_lost_total',
    help: 'other nodes that were declared dead, as the journal has it',
    registers: [this.registry],
  })
  readonly rebuilds = new Counter({
    name: 'aedes_cluster_rebuilds_total',
    help: 'how often this node read its tables anew from the snapshot',
    registers: [this.registry],
  })
  readonly retainedTopics = new Gauge({
    name: 'aedes_cluster_retained_topics',
    help: 'topics that have a Retained Message in the cluster, as this node knows them',
    registers: [this.registry],
  })
  readonly routingBytes = new Gauge({
    name: 'aedes_cluster_routing_bytes',
    help: 'memory that the routes of the cluster take on this node, roughly',
    registers: [this.registry],
  })
  readonly subscriptions = new Gauge({
    name: 'aedes_cluster_subscriptions',
    help: 'subscriptions of the clients connected to this node',
    registers: [this.registry],
  })
  readonly waiting = new Gauge({
    name: 'aedes_cluster_waiting',
    help: 'who waits for the store now: publishers (clients), connects, writes, wills',
    labelNames: ['who'],
    registers: [this.registry],
  })
  readonly waitingSeconds = new Gauge({
    name: 'aedes_cluster_waiting_seconds',
    help: 'age of the oldest wait, in seconds; 0 when nobody waits',
    registers: [this.registry],
  })

  /** Publishes since the last look, by QoS: a counter of prom-client costs more than a PUBLISH may. */
  readonly #publishes = [0, 0, 0]

  constructor() {
    collectDefaultMetrics({ register: this.registry })
    // gauges that are named as counters: the sums of what stands beside them
    for (const what of ['handles', 'requests', 'resources'])
      this.registry.removeSingleMetric(`nodejs_active_${what}_total`)
    showTraffic(this.traffic, this.registry)
    this.#beginAtZero()
  }

  /** A counter that is absent until its first event hides that event from whoever watches its increase. */
  #beginAtZero(): void {
    for (const qos of [0, 1, 2]) {
      this.published.inc({ qos }, 0)
      for (const cause of dropCauses) this.dropped.inc({ cause, qos }, 0)
    }
    for (const where of garbagePlaces) {
      this.garbage.inc({ where }, 0)
      if (where !== 'channel') this.later.inc({ where }, 0)
    }
    for (const where of ['inbox', 'delivery']) this.failed.inc({ where }, 0)
    for (const who of ['publishers', 'connects', 'writes', 'wills']) this.waiting.set({ who }, 0)
    for (const [code, { kind }] of Object.entries(bridgeErrors))
      if (isOfStore(kind) || kind === 'damaged') this.storeErrors.inc({ code }, 0)
    for (const cause of Object.keys(refusalCauses)) this.refused.inc({ cause }, 0) // known before its first event
    for (const cause of heldCauses) this.heldBack.inc({ cause }, 0)
    for (const cause of turnedAwayCauses) this.turnedAway.inc({ cause }, 0)
  }

  publish(qos: number): void {
    this.#publishes[qos]!++
  }

  /** In place of those that were shown before. */
  showTenants(tenants: readonly LiveTenant[]): void {
    for (const metric of [this.#tenantConnections, this.#tenantPublishes, this.#tenantDeliveries])
      metric.reset()
    for (const { name: tenant, connections, publishes, deliveries } of tenants) {
      this.#tenantConnections.set({ tenant }, connections)
      this.#tenantPublishes.inc({ tenant }, publishes)
      this.#tenantDeliveries.inc({ tenant }, deliveries)
    }
  }

  /** Prometheus' text format. */
  async text(): Promise<string> {
    for (const [qos, count] of this.#publishes.entries()) {
      this.published.inc({ qos }, count)
      this.#publishes[qos] = 0
    }
    return this.registry.metrics()
  }
}
