// The options of a node, one table: types, defaults, validation, flags, environment names, the help text and
// the table in broker/README.md come from it. deploy/config/node.yaml is written by hand, and a test compares the
// two. What a store needs stands with the store (bridge/stores.ts). State: none.
import { hostname } from 'node:os'
import { z } from 'zod'
import {
  GroupRules,
  isTenant,
  name,
  positiveMs,
  storeOptions,
  strategies,
  whole,
  type Option,
  type ValuesOf,
} from '../../bridge/index.ts'
import { tokensFileProblem } from '../admin/tokens.ts'
import { certificateNames } from '../access/certificate-link.ts'
import { linkNames, type LinkName } from '../access/link-names.ts'
import { isNetwork } from '../access/networks.ts'
import { revocationListsProblem } from '../access/revocation-lists.ts'
import { aclFileProblem } from '../access/mosquitto-acl.ts'
import { rulesFileProblem } from '../access/rules-file.ts'
import { passwordFileProblem } from '../access/password-file.ts'
import { tenantSources } from '../access/tenancy.ts'
import { slowPolicies } from '../routing/pressure.ts'
import { foreignOptions } from './foreign-options.ts'
import { limits } from './limits.ts'

const tenantName = z
  .string()
  .refine(
    isTenant,
    'has more than 64 characters, or others than letters, digits, dots, dashes and underscores',
  )

/** `true` and `false` of YAML, too. */
const onOff = (value: unknown): unknown =>
  value === true || value === 'true' ? 'on' : value === false || value === 'false' ? 'off' : value

export const listenUrl = z.string().superRefine((text, context) => {
  const problem = urlProblem(text, ['mqtt:', 'mqtts:', 'ws:', 'wss:'])
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

const adminUrl = z.string().superRefine((text, context) => {
  const problem = text === 'off' ? undefined : urlProblem(text, ['http:', 'https:'])
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

const hostName = z.string().regex(/^[A-Za-z0-9._-]{1,253}$/, 'is not a host name')

const network = z.string().refine(isNetwork, 'is not an address or network')

/** host:port. */
const server = /^(?:\[[\da-f:]+\]|[\w.-]+)(?::\d{1,5})?$/i
/** host:port, a blank between two (MQTT 5 section 4.11). */
const servers = /^(?:\[[\da-f:]+\]|[\w.-]+)(?::\d{1,5})?(?: (?:\[[\da-f:]+\]|[\w.-]+)(?::\d{1,5})?)*$/i
const originUrl = z.string().superRefine((text, context) => {
  const problem =
    urlProblem(text, ['http:', 'https:']) ??
    (new URL(text).origin === text.toLowerCase() ? undefined : 'is more than an origin')
  if (problem !== undefined) context.addIssue({ code: 'custom', message: problem })
})

/**
 * Every option of a node: key in the file, `--kebab-case` as flag, `AEDES_CLUSTER_SNAKE_CASE` in the
 * environment.
 */
export const options = {
  id: {
    schema: name.default(
      hostname()
        .replaceAll(/[^A-Za-z0-9._-]/g, '-')
        .slice(0, 64) || 'node',
    ),
    about: 'name of this node, unique in the cluster (default: the host name)',
    shape: 'name',
    hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores, e.g. --id a',
  },
  workers: {
    schema: whole(1, 64).default(1),
    about:
      'processes that serve the listeners of `aedes-cluster node`, for a machine of several cores: each is a node of the cluster, named ID-1, ID-2 and so on, with limits of its own; for nodes that share a store',
    shape: 'count',
    hint: 'Use a number from 1 to 64, as many as the machine has cores',
  },
  listen: {
    schema: z.array(listenUrl).min(1).default(['mqtt://127.0.0.1:1883']),
    about:
      'where MQTT clients connect; repeats; mqtt://, mqtts://, ws://, wss:// (comma-separated in the environment)',
    shape: 'url',
    list: true,
    hint: 'Write scheme://host:port, e.g. --listen mqtt://127.0.0.1:1883 --listen ws://127.0.0.1:8083/mqtt',
  },
  authentication: {
    ofListener: true,
    schema: z.array(z.enum(linkNames, `is none of ${linkNames.join(', ')}`)).optional(),
    about: `who may connect, by whom is asked in this order until one knows the client, which is enough: ${linkNames.join(', ')}; repeats; without it what is configured, and where nothing is, everybody on loopback and nobody elsewhere`,
    shape: 'link',
    list: true,
    hint: `Write a list of ${linkNames.join(', ')}`,
  },
  tenants: {
    schema: z.preprocess(onOff, z.enum(['off', 'on'], 'is not on or off').default('off')),
    about:
      'whether each client belongs to a tenant, whose topics, Client Identifiers, Retained Messages, $SYS, bans and limits no other tenant meets; who belongs to none is refused; the same on every node',
    shape: 'off|on',
    hint: 'Use on or off',
    shared: true,
  },
  tenant: {
    ofListener: true,
    schema: tenantName.optional(),
    about:
      'with tenants, the tenant of all who come by a listener; who proves to be of another one is refused, who proves none (bob of a file of users that several listeners share) is bob of each tenant whose listener he reaches',
    shape: 'name',
    hint: 'Use 1 to 64 letters, digits, dots, dashes or underscores',
  },
  ...storeOptions,
  tenantFrom: {
    at: 'access.tenantFrom',
    schema: z.array(z.enum(tenantSources, `is none of ${tenantSources.join(', ')}`)).default(['user']),
    about:
      'with tenants, what names the tenant of a client besides its listener, its token, the webhook and hooks: user (what stands before the first / of its user name), certificate (its organization); sni names none, and refuses who asks for a server name whose first label is another tenant; repeats; all that name one must name the same',
    shape: tenantSources.join('|'),
    list: true,
    hint: `Write a list of ${tenantSources.join(', ')}`,
  },
  passwordFile: {
    at: 'access.passwordFile',
    schema: z.string().optional(),
    about:
      'file of users and what is kept of their passwords (`aedes-cluster passwd` writes it; one of Mosquitto will do)',
    shape: 'file',
    hint: 'Name a readable file; aedes-cluster passwd --password-file FILE --user NAME makes one',
    file: true,
    contentProblem: passwordFileProblem,
  },
  rulesFile: {
    at: 'access.rulesFile',
    schema: z.string().optional(),
    about: 'file of rules: who may publish and subscribe to what; with any rule what none is about is denied',
    shape: 'file',
    hint: 'Name a readable file',
    file: true,
    contentProblem: rulesFileProblem,
  },
  certificateUser: {
    at: 'access.certificateUser',
    schema: z.enum(certificateNames, `is none of ${certificateNames.join(', ')}`).default('cn'),
    about:
      'what of the certificate of a client is its user name: the common name, the first alternative name (DNS, e-mail, URI), or the SHA-256 fingerprint in hexadecimal digits. With a renewed certificate a client is the same user by cn and san, and another one by fingerprint: the session of the certificate before keeps its Client Identifier until it expires or is ended (aedes-cluster disconnect ID --end-session)',
    shape: certificateNames.join('|'),
    hint: `Use ${certificateNames.join(', ')}`,
  },
  certificateClient: {
    at: 'access.certificateClient',
    schema: z.enum(['any', 'same'], 'is none of any, same').default('any'),
    about: 'whether that must be the Client Identifier, too (0x85 when it is not)',
    shape: 'any|same',
    hint: 'Use any or same',
  },
  sessionTakeover: {
    at: 'access.sessionTakeover',
    schema: z.enum(['same-user', 'any'], 'is none of same-user, any').default('same-user'),
    about:
      'who may connect with the Client Identifier of a session that a user made: that user alone (0x85 otherwise), or anybody, as the standard has it; what was made without a user name is for everybody',
    shape: 'same-user|any',
    hint: 'Use same-user or any',
  },
  aclFile: {
    at: 'access.aclFile',
    schema: z.string().optional(),
    about: 'file of rules of Mosquitto (acl_file), which is read as it is; those of rulesFile come first',
    shape: 'file',
    hint: 'Name a readable file',
    file: true,
    contentProblem: aclFileProblem,
  },
  ...foreignOptions,
  admin: {
    at: 'admin.url',
    schema: adminUrl.default('http://127.0.0.1:18083'),
    about: 'where /livez, /readyz, /metrics and the API (/api/v1) answer; `off` for nowhere',
    shape: 'url',
    hint: 'Write http://host:port, e.g. --admin http://127.0.0.1:18083, or https://host:port, or --admin off',
  },
  adminTlsCert: {
    at: 'admin.tlsCert',
    schema: z.string().optional(),
    about: 'PEM certificate chain of the admin endpoint, for https://',
    shape: 'file',
    hint: 'Name a PEM file',
    file: true,
  },
  adminTlsKey: {
    at: 'admin.tlsKey',
    schema: z.string().optional(),
    about: 'PEM private key of the admin endpoint',
    shape: 'file',
    hint: 'Name a PEM file that only the node may read',
    file: true,
    secret: 'unless-path',
  },
  adminTlsCa: {
    at: 'admin.tlsCa',
    schema: z.string().optional(),
    about:
      'PEM certificates of the authority of those who use the admin API, one of its own, that signs no devices: who shows one of it may do what a line `ROLE COMMON-NAME certificate` of the file of tokens says',
    shape: 'file',
    hint: 'Name a PEM file',
    file: true,
  },
  adminHosts: {
    at: 'admin.hosts',
    schema: z.array(hostName).optional(),
    about:
      'names by which the admin endpoint is asked, besides IP addresses, localhost and the name of this machine; repeats',
    shape: 'name',
    list: true,
    hint: 'Write a host name without a port, e.g. --admin-hosts broker-a.example',
  },
  adminTokensFile: {
    at: 'admin.tokensFile',
    schema: z.string().optional(),
    about:
      'file of tokens for the admin API (/api/v1), a line for each: role (read or write), name, token; without it the API is open on loopback where MQTT lets in everybody, and nowhere else',
    shape: 'file',
    hint: 'Name a readable file with lines as `write admin TOKEN`',
    file: true,
    secret: 'unless-path',
    contentProblem: tokensFileProblem,
  },
  wsOrigins: {
    at: 'websocket.origins',
    ofListener: true,
    schema: z.array(originUrl).optional(),
    about:
      'origins of the web pages that may connect by WebSocket; repeats; without it pages of every origin may',
    shape: 'url',
    list: true,
    hint: 'Write scheme://host[:port] as browsers send it, e.g. --ws-origins https://app.example',
  },
  proxyNetworks: {
    at: 'proxy.networks',
    ofListener: true,
    schema: z.array(network).min(1).optional(),
    about:
      'networks of the proxies that say who connects, by PROXY protocol v1 or v2 (10.0.0.0/8, fd00::/8, one address); repeats; with it every connection begins with such a header, and whoever comes from elsewhere is closed',
    shape: 'network',
    list: true,
    hint: 'Write an address, or a network as address/bits, e.g. --proxy-networks 10.0.0.0/8',
  },
  sysIntervalSeconds: {
    schema: whole(0, 86_400).default(10),
    about:
      'how often counts are told under $SYS/broker/, in the names of Mosquitto and summed over the cluster, to whoever is subscribed there; 0: never',
    shape: 's',
    hint: 'Use 0 to 86400',
  },
  sysEvents: {
    schema: z.enum(['off', 'on'], 'is not on or off').default('off'),
    about:
      'whether $SYS/ tells everybody that may subscribe who comes and goes and what they subscribe to; the same on every node',
    shape: 'off|on',
    hint: 'Use on or off',
    shared: true,
  },
  tlsCert: {
    at: 'tls.cert',
    ofListener: true,
    schema: z.string().optional(),
    about: 'certificate chain for mqtts:// and wss://',
    shape: 'file',
    hint: 'Name a readable PEM file',
    file: true,
  },
  tlsKey: {
    at: 'tls.key',
    ofListener: true,
    schema: z.string().optional(),
    about: 'private key for mqtts:// and wss://',
    shape: 'file',
    secret: 'unless-path',
    hint: 'Name a readable PEM file',
    file: true,
  },
  tlsCa: {
    at: 'tls.ca',
    ofListener: true,
    schema: z.string().optional(),
    about:
      'certificate authorities for client certificates; with it, clients must show one, unless tlsClients lets others in (Mosquitto: require_certificate, EMQX: fail_if_no_peer_cert, HAProxy: verify required); who is connected by one that is taken out is told to go',
    shape: 'file',
    hint: 'Name a readable PEM file',
    file: true,
  },
  tlsCrl: {
    at: 'tls.crl',
    ofListener: true,
    schema: z.string().optional(),
    about:
      'revocation lists of the certificates of clients, in PEM: one of each authority of tlsCa, none of which may be over; who shows a certificate that is in one is closed, also when it is connected',
    shape: 'file',
    hint: 'Name a readable PEM file',
    file: true,
    contentProblem: revocationListsProblem,
  },
  tlsClients: {
    at: 'tls.clients',
    ofListener: true,
    schema: z.enum(['certificate', 'any'], 'is none of certificate, any').optional(),
    about:
      'with tlsCa, who may come in: certificate (clients that show a certificate of that authority, and are refused otherwise in their handshake, whatever password they have), or any (others as well: the links of `authentication` decide). Without it any where `authentication` names certificate and other links, since one link that knows a client lets it in, and certificate elsewhere; aedes-cluster check tells',
    shape: 'certificate|any',
    hint: 'Use certificate or any',
  },
  tlsSniCert: {
    at: 'tls.sniCert',
    ofListener: true,
    schema: z.array(z.string()).min(1).optional(),
    about:
      'certificate chains for other names of this server: a client is shown the one that has the name which it asks for (SNI; *.example.com, too), and that of tlsCert when none has; repeats',
    shape: 'file',
    list: true,
    hint: 'Name readable PEM files',
  },
  tlsSniKey: {
    at: 'tls.sniKey',
    ofListener: true,
    schema: z.array(z.string()).min(1).optional(),
    about: 'private keys of tlsSniCert, in the same order; repeats',
    shape: 'file',
    secret: 'unless-path',
    list: true,
    hint: 'Name readable PEM files',
  },
  logLevel: {
    at: 'log.level',
    schema: z.enum(['debug', 'info', 'warn', 'error', 'silent'], 'is not a level').default('info'),
    about: 'how much is logged (on standard error: JSON lines, text at a terminal)',
    shape: 'level',
    hint: 'Use debug, info, warn, error or silent',
  },
  packetBytesMax: {
    at: 'limits.packetBytesMax',
    ofListener: true,
    schema: whole(1024, 268_435_455).default(limits.packetBytesMax),
    about: 'largest MQTT packet accepted, in bytes; the same on every node',
    shape: 'bytes',
    hint: 'Use a number from 1024 to 268435455',
    shared: true,
  },
  connectTimeoutMs: {
    at: 'limits.connectTimeoutMs',
    ofListener: true,
    schema: positiveMs.default(limits.connectTimeoutMs),
    about: 'time a new connection has to send its CONNECT',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  claimTimeoutMs: {
    at: 'limits.claimTimeoutMs',
    schema: positiveMs.default(limits.claimTimeoutMs),
    about:
      'time that a CONNECT waits for its session while the store is away; then the client is told to come again (0x88, or 3)',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  claimsWaitingMax: {
    at: 'limits.claimsWaitingMax',
    schema: whole(1, 10_000_000).default(limits.claimsWaitingMax),
    about: 'CONNECTs that may wait for the store; beyond it they are refused at once (0x89, or 3)',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  decisionTimeoutMs: {
    at: 'limits.decisionTimeoutMs',
    schema: positiveMs.default(limits.decisionTimeoutMs),
    about:
      'time that a hook of the program which embeds the node has for a decision; without one by then what it was asked about is refused',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  drainTimeoutMs: {
    at: 'limits.drainTimeoutMs',
    schema: positiveMs.default(limits.drainTimeoutMs),
    about: 'time after which a client that reads nothing is disconnected',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  shutdownMs: {
    at: 'limits.shutdownMs',
    schema: positiveMs.default(limits.shutdownMs),
    about: 'time a graceful stop may take',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  drainRate: {
    at: 'limits.drainRate',
    schema: whole(1, 1_000_000).default(limits.drainRate),
    about:
      'clients that are told to go within a second, when the node is drained or stops; a stop tells all who are left after half of shutdownMs',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  queueMessagesMax: {
    at: 'limits.queueMessagesMax',
    schema: whole(1, 1_000_000_000).default(limits.queueMessagesMax),
    about:
      'messages that wait for a session that is not connected; beyond it the oldest goes; the same on every node',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
    shared: true,
  },
  queueBytesMax: {
    at: 'limits.queueBytesMax',
    schema: whole(1, 2 ** 40).default(limits.queueBytesMax),
    about: 'bytes that wait for such a session; beyond it the oldest message goes; the same on every node',
    shape: 'bytes',
    hint: 'Use a whole number, 1 or more',
    shared: true,
  },
  retainedBytesMax: {
    at: 'limits.retainedBytesMax',
    schema: whole(1_024, 2 ** 40).default(limits.retainedBytesMax),
    about:
      'memory that the topics of all Retained Messages may take on each node, in bytes (a store in memory: the messages, too); no new topic is retained beyond it',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  retainedMessagesMax: {
    at: 'limits.retainedMessagesMax',
    schema: whole(1, 2 ** 32).optional(),
    about:
      'Retained Messages in the cluster, as each node knows them; no new topic is retained beyond it; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  retainedMessageBytesMax: {
    at: 'limits.retainedMessageBytesMax',
    schema: whole(1, 268_435_455).optional(),
    about:
      'bytes of the payload of a Retained Message; a larger one is not retained; without it as large as a packet may be',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1 or more',
  },
  sessionsMax: {
    at: 'limits.sessionsMax',
    schema: whole(1, 2 ** 32).default(limits.sessionsMax),
    about:
      'sessions in the cluster; above this, new sessions that outlive their connections are refused; the same on every node',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
    shared: true,
  },
  sessionExpirySecondsMax: {
    at: 'limits.sessionExpirySecondsMax',
    schema: whole(1, 0xfffffffe).default(limits.sessionExpirySecondsMax),
    about:
      'longest time that a session outlives its connection, in seconds; who asks for more gets this; the same on every node',
    shape: 's',
    hint: 'Use a number of seconds, from 1 to 4294967294',
    shared: true,
  },
  messageExpirySecondsMax: {
    at: 'limits.messageExpirySecondsMax',
    schema: whole(1, 0xffffffff).optional(),
    about:
      'longest time that a message of a client waits or is retained, in seconds: a longer Message Expiry Interval, or none, is this one; without it messages live as long as their publisher says',
    shape: 's',
    hint: 'Use a number of seconds, from 1 to 4294967295',
  },
  clientIdBytesMax: {
    at: 'limits.clientIdBytesMax',
    schema: whole(23, 65_535).default(limits.clientIdBytesMax),
    about: 'longest Client Identifier, in bytes',
    shape: 'bytes',
    hint: 'Use a number from 23 to 65535',
  },
  connectBytesMax: {
    at: 'limits.connectBytesMax',
    ofListener: true,
    schema: whole(1_024, 268_435_455).default(limits.connectBytesMax),
    about: 'largest CONNECT packet accepted, in bytes',
    shape: 'bytes',
    hint: 'Use a number from 1024 to 268435455',
  },
  connectionsMax: {
    at: 'limits.connectionsMax',
    ofListener: true,
    schema: whole(1, 10_000_000).default(limits.connectionsMax),
    about: 'connections of this node; one more is refused',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  connectingMax: {
    at: 'limits.connectingMax',
    ofListener: true,
    schema: whole(1, 10_000_000).default(limits.connectingMax),
    about: 'connections that have not sent their CONNECT; one more, and the oldest of them goes',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  connectsPerSecondMax: {
    at: 'limits.connectsPerSecondMax',
    ofListener: true,
    schema: whole(1, 1_000_000).optional(),
    about:
      'connections that a listener lets in within a second: those beyond it wait for their turn, unread, for 20 seconds at most; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  addressConnectionsMax: {
    at: 'limits.addressConnectionsMax',
    schema: whole(1, 10_000_000).optional(),
    about:
      'connections of one address (IPv6: of one network of 64 bits) to this node, also before their CONNECT; one more is closed; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  userConnectionsMax: {
    at: 'limits.userConnectionsMax',
    schema: whole(1, 10_000_000).optional(),
    about:
      'connections of one user (who has proved who it is) to this node; one more is refused; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  userSessionsMax: {
    at: 'limits.userSessionsMax',
    schema: whole(1, 1_000).optional(),
    about:
      'sessions of one user that outlive their connections, in the cluster (where its store has several partitions, in each of them); one more is refused; without it any number',
    shape: 'count',
    hint: 'Use a whole number from 1 to 1000',
  },
  tenantConnectionsMax: {
    at: 'limits.tenantConnectionsMax',
    schema: whole(1, 10_000_000).optional(),
    about: 'connections of one tenant to this node; one more is refused; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  tenantSessionsMax: {
    at: 'limits.tenantSessionsMax',
    schema: whole(1, 2 ** 32).optional(),
    about:
      'sessions of one tenant that outlive their connections, in the cluster (where its store has several partitions, a part of it in each); one more is refused; without it any number; the same on every node',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
    shared: true,
  },
  tenantRetainedMax: {
    at: 'limits.tenantRetainedMax',
    schema: whole(1, 2 ** 32).optional(),
    about:
      'Retained Messages of one tenant in the cluster, as each node knows them; no new topic is retained beyond it; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  tenantRetainedBytesMax: {
    at: 'limits.tenantRetainedBytesMax',
    schema: whole(1_024, 2 ** 40).optional(),
    about:
      'memory that the topics of the Retained Messages of one tenant may take on each node, in bytes; no new topic is retained beyond it; without it any',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  willBytesMax: {
    at: 'limits.willBytesMax',
    schema: whole(1, 268_435_455).optional(),
    about:
      'bytes of the topic and payload of a will; a CONNECT with a larger one is refused; without it as large as CONNECT may be',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1 or more',
  },
  publishesPerSecondMax: {
    at: 'limits.publishesPerSecondMax',
    ofListener: true,
    schema: whole(1, 10_000_000).optional(),
    about: 'messages that one client may publish within a second; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  publishBytesPerSecondMax: {
    at: 'limits.publishBytesPerSecondMax',
    ofListener: true,
    schema: whole(1, 2 ** 40).optional(),
    about: 'bytes of topics and payloads that one client may publish within a second; without it any number',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1 or more',
  },
  deliveriesPerSecondMax: {
    at: 'limits.deliveriesPerSecondMax',
    ofListener: true,
    schema: whole(1, 10_000_000).optional(),
    about:
      'messages that one client is sent within a second: beyond them QoS 0 is dropped, and QoS ≥ 1 waits; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  deliveryBytesPerSecondMax: {
    at: 'limits.deliveryBytesPerSecondMax',
    ofListener: true,
    schema: whole(1, 2 ** 40).optional(),
    about: 'the same in bytes of PUBLISH packets',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1 or more',
  },
  publishTooFast: {
    at: 'limits.publishTooFast',
    ofListener: true,
    schema: z.enum(['wait', 'refuse', 'disconnect'], 'is not wait, refuse or disconnect').default('wait'),
    about:
      'what becomes of a client that publishes faster: it is read no further for a while, and its pings are answered all the same; or what is too much is refused (0x97; QoS 0: dropped and counted; 3.1.1 waits); or it is disconnected (0x96)',
    shape: 'wait|refuse|disconnect',
    hint: 'Use wait, refuse or disconnect',
  },
  flappingConnectsMax: {
    at: 'limits.flappingConnectsMax',
    schema: whole(1, 1_000_000).optional(),
    about:
      'how often one Client Identifier may connect to this node within a minute; who connects more often is banned in the whole cluster for flappingBanSeconds; without it any number',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  flappingBanSeconds: {
    at: 'limits.flappingBanSeconds',
    schema: whole(1, 31_536_000).default(limits.flappingBanSeconds),
    about: 'how long a client is banned that connects too often, in seconds',
    shape: 's',
    hint: 'Use a number of seconds, from 1 to 31536000',
  },
  subscribeFiltersMax: {
    at: 'limits.subscribeFiltersMax',
    schema: whole(1, 100_000_000).default(limits.subscribeFiltersMax),
    about: 'filters of one SUBSCRIBE; those after them are refused',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  subscriptionsMax: {
    at: 'limits.subscriptionsMax',
    schema: whole(1, 100_000_000).default(limits.subscriptionsMax),
    about: 'subscriptions of one client; one more is refused',
    shape: 'count',
    hint: 'Use a whole number, 1 or more',
  },
  subscriptionBytesMax: {
    at: 'limits.subscriptionBytesMax',
    schema: whole(1_024, 2 ** 40).default(limits.subscriptionBytesMax),
    about:
      'memory that the subscriptions of one client may cost, in bytes (about 800 for a short one, 240 more for each level of one with wildcards); one more is refused',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  routingBytesMax: {
    at: 'limits.routingBytesMax',
    schema: whole(1_024, 2 ** 40).default(limits.routingBytesMax),
    about:
      'memory that all subscriptions of the cluster may cost this node, in bytes; above this, new subscriptions are refused',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  topicBytesMax: {
    at: 'limits.topicBytesMax',
    schema: whole(1, 65_535).default(limits.topicBytesMax),
    about: 'longest filter and topic, in bytes',
    shape: 'bytes',
    hint: 'Use a number from 1 to 65535',
  },
  topicLevelsMax: {
    at: 'limits.topicLevelsMax',
    schema: whole(1, limits.topicLevelsMax).default(limits.topicLevelsMax),
    about: 'levels that a filter or topic may have',
    shape: 'count',
    hint: 'Use a number from 1 to 100',
  },
  refusedPublish: {
    schema: z.enum(['drop', 'close'], 'is not drop or close').default('drop'),
    shape: 'drop|close',
    hint: 'Use drop or close',
    about:
      'what becomes of a PUBLISH of MQTT 3.1.1 that is refused (below $SYS/): it is acknowledged and dropped, or its connection is closed',
  },
  unusualCharacters: {
    at: 'mqtt.unusualCharacters',
    schema: z.enum(['pass', 'refuse'], 'is not pass or refuse').default('pass'),
    shape: 'pass|refuse',
    hint: 'Use pass or refuse',
    about:
      'control characters (U+0001 to U+001F, U+007F to U+009F) and non-characters in topics, filters and Client Identifiers: they are like any others, or a packet that has some is malformed (0x81)',
  },
  payloadFormat: {
    at: 'mqtt.payloadFormat',
    schema: z.enum(['pass', 'check'], 'is not pass or check').default('pass'),
    shape: 'pass|check',
    hint: 'Use pass or check',
    about:
      'Payload Format Indicator 1: passed on as it came, or a message whose payload is not UTF-8 is refused (0x99; QoS 0: dropped and counted)',
  },
  keepAliveSecondsMax: {
    at: 'mqtt.keepAliveSecondsMax',
    schema: whole(1, 65_535).optional(),
    shape: 's',
    hint: 'Use a number of seconds, from 1 to 65535',
    about:
      'longest Keep Alive of a client of MQTT 5: who asks for more, or for none, is told this one (Server Keep Alive); 3.1.1 cannot be told',
  },
  responseInformation: {
    at: 'mqtt.responseInformation',
    schema: z
      .string()
      .max(1_024, 'has more than 1024 characters')
      .regex(/^[\w.~%/-]+$/, 'has other signs than a topic for answers may have')
      .optional(),
    shape: 'text',
    hint: 'Write a topic of letters, digits and . _ ~ - /, e.g. answers/%c/',
    about:
      'what a client of MQTT 5 that asks for Response Information gets, the beginning of a topic for answers to it; %c is its Client Identifier, percent-encoded',
  },
  advertisedAddress: {
    at: 'mqtt.advertisedAddress',
    schema: z.string().max(255, 'has more than 255 characters').regex(server, 'is not host:port').optional(),
    shape: 'host:port',
    hint: 'Write host:port, e.g. a.example:1883',
    about:
      'where clients reach this node and no other, when each node has an address of its own: clients of a node that is drained or stops are sent to those of the other nodes (0x9C with Server Reference); without it they are told none, as behind a balancer',
  },
  serverReference: {
    at: 'mqtt.serverReference',
    schema: z
      .string()
      .max(1_024, 'has more than 1024 characters')
      .regex(servers, 'is not host:port')
      .optional(),
    shape: 'host:port',
    hint: 'Write host:port, several with a blank between them, e.g. "b.example:1883 c.example:1883"',
    about:
      'where else clients of MQTT 5 are told to go when this node stops (DISCONNECT 0x9C with Server Reference); without it 0x8B',
  },
  serverMoved: {
    at: 'mqtt.serverMoved',
    schema: z.enum(['off', 'on'], 'is not on or off').default('off'),
    shape: 'off|on',
    hint: 'Use on or off',
    about: 'with serverReference: that they are to go there for good (0x9D in place of 0x9C)',
  },
  receiveMaximum: {
    at: 'limits.receiveMaximum',
    schema: whole(1, 65_535).default(limits.receiveMaximum),
    about:
      'publishes of one client that are not acknowledged; a client of MQTT 5 that sends more is disconnected',
    shape: 'count',
    hint: 'Use a number from 1 to 65535',
  },
  publishingBytesMax: {
    at: 'limits.publishingBytesMax',
    schema: whole(1_024, 2 ** 30).default(limits.publishingBytesMax),
    about:
      'bytes of publishes of one client that are not stored; beyond it the client is read no further until they are',
    shape: 'bytes',
    hint: 'Use a number from 1024 to 1073741824',
  },
  topicAliasMax: {
    at: 'limits.topicAliasMax',
    schema: whole(0, 65_535).default(limits.topicAliasMax),
    about: 'Topic Aliases that a client may use; CONNACK tells it, and one that uses more is disconnected',
    shape: 'count',
    hint: 'Use a number from 0 to 65535',
  },
  inFlightMax: {
    at: 'limits.inFlightMax',
    schema: whole(1, 65_535).default(limits.inFlightMax),
    about:
      'messages of QoS 1 and 2 in flight to one client, whatever Receive Maximum it names; further ones wait',
    shape: 'count',
    hint: 'Use a number from 1 to 65535',
  },
  inFlightBytesMax: {
    at: 'limits.inFlightBytesMax',
    schema: whole(1_024, 2 ** 40).default(limits.inFlightBytesMax),
    about: 'bytes in flight to one session that outlives its connection; further messages wait in its queue',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  slowBytesMax: {
    at: 'limits.slowBytesMax',
    schema: whole(1_024, 2 ** 30).default(limits.slowBytesMax),
    about:
      'bytes that wait for one client; beyond it QoS 0 to it is dropped, and who publishes to it waits for `slowHoldMs`',
    shape: 'bytes',
    hint: 'Use a number from 1024 to 1073741824',
  },
  waitingBytesMax: {
    at: 'limits.waitingBytesMax',
    schema: whole(1_024, 2 ** 40).default(limits.waitingBytesMax),
    about:
      'bytes that wait for one client, besides a packet of the largest size; beyond it the client is disconnected',
    shape: 'bytes',
    hint: 'Use a number of bytes, 1024 or more',
  },
  slowSubscriber: {
    at: 'limits.slowSubscriber',
    ofListener: true,
    schema: z.enum(slowPolicies, `is not ${slowPolicies.join(' or ')}`).default('hold'),
    about:
      'what becomes of a client without a lasting session that reads slower than others publish to it at QoS ≥ 1: hold (they wait for it as long as it reads), disconnect (they wait for `slowHoldMs`, and beyond `waitingBytesMax` it is disconnected), drop (beyond `slowBytesMax` it does not get them; nobody waits)',
    shape: 'policy',
    hint: 'Write hold, disconnect or drop',
  },
  slowHoldMs: {
    at: 'limits.slowHoldMs',
    schema: positiveMs.default(limits.slowHoldMs),
    about: 'time for which a client that does not read holds back who publishes to it; then they go on',
    shape: 'ms',
    hint: 'Use a number of milliseconds, from 1 to 86400000',
  },
  controlPacketsMax: {
    at: 'limits.controlPacketsMax',
    schema: whole(1, 65_535).default(limits.controlPacketsMax),
    about:
      'SUBSCRIBE and UNSUBSCRIBE packets of one client that wait for one another; beyond it the client is read no further until they are done',
    shape: 'count',
    hint: 'Use a number from 1 to 65535',
  },
  replayBytesMax: {
    at: 'limits.replayBytesMax',
    schema: whole(16_384, 2 ** 40).default(limits.replayBytesMax),
    about:
      'bytes of Retained Messages that are read for the SUBSCRIBEs of one client and not sent yet; the rest waits until it has read them',
    shape: 'bytes',
    hint: 'Use a number of bytes, 16384 or more',
  },
  clientBytesMax: {
    at: 'limits.clientBytesMax',
    schema: whole(16_777_216, 2 ** 50).default(limits.clientBytesMax),
    about:
      'memory that this node holds for all its clients together, in bytes: publishers wait and QoS 0 is dropped beyond it',
    shape: 'bytes',
    hint: 'Use a number of bytes, 16777216 or more',
  },
  groupStrategies: {
    at: 'groups.strategies',
    schema: z
      .string()
      .default('#=demand')
      .superRefine((text, context) => {
        try {
          new GroupRules(text)
        } catch (error) {
          context.addIssue({ code: 'custom', message: (error as Error).message })
        }
      }),
    about: `which member of a group (Shared Subscription) gets a message, by filters of group/filter: jobs/#=hash-topic; +/orders/#=round-robin+ordered; the first that matches; ${Object.keys(strategies).join(', ')}; +ordered: one message of a topic in flight at a time; the same on every node`,
    shape: 'rules',
    shared: true,
    hint: `Write pattern=strategy, separated by ;, with one of ${Object.keys(strategies).join(', ')}`,
  },
} as const satisfies Record<string, Option>

export type OptionName = keyof typeof options
type Values = ValuesOf<typeof options>

type OfListener = {
  [K in OptionName]: (typeof options)[K] extends { readonly ofListener: true } ? K : never
}[OptionName]

/** One listener: its address, and the options that hold for it. */
export type ListenerConfig = { readonly url: string; readonly authentication: readonly LinkName[] } & Omit<
  Pick<Values, OfListener>,
  'authentication'
>

/** What a node runs by: every option by its name, and its listeners. */
export type Config = Omit<Values, 'listen'> & { readonly listeners: readonly ListenerConfig[] }

type SectionName<Names extends OptionName = OptionName> = {
  [K in Names]: (typeof options)[K] extends { readonly at: `${infer Section}.${string}` } ? Section : never
}[Names]
type SectionOf<Section extends string, Names extends OptionName = OptionName> = {
  readonly [
    K in Names as (typeof options)[K] extends { readonly at: `${Section}.${infer Key}` } ? Key : never
  ]?: Values[K] | undefined
}

/** A listener as it is given: its url, and sections that hold for it alone. */
export type ListenerOptions = {
  readonly url: string
  readonly authentication?: readonly LinkName[] | undefined
  readonly tenant?: string | undefined
} & { readonly [Section in SectionName<OfListener>]?: SectionOf<Section, OfListener> }

/** What `createNode` takes: options in sections, as in a file, or by their own names, as flags have them. */
export type NodeOptions = { readonly [K in Exclude<OptionName, SectionName>]?: Values[K] | undefined } & {
  readonly [Section in SectionName]?:
    SectionOf<Section> | (Section extends OptionName ? Values[Section] : never) | undefined
} & { readonly listeners?: readonly (string | ListenerOptions)[] | undefined }

function urlProblem(text: string, schemes: readonly string[]): string | undefined {
  if (!URL.canParse(text)) return 'is not a URL'
  const { protocol, hostname, username, password, pathname, search, hash } = new URL(text)
  if (!schemes.includes(protocol))
    return `has another scheme than ${schemes.map((scheme) => scheme + '//').join(', ')}`
  if (hostname === '') return 'has no host'
  if (username !== '' || password !== '') return 'has a user or password, which nobody would be asked for'
  if (search !== '' || hash !== '') return 'has something after its path'
  return protocol.startsWith('ws') || pathname === '' || pathname === '/'
    ? undefined
    : 'has a path, which only ws:// and wss:// have'
}
