// A mosquitto.conf as our configuration (broker/config/mosquitto-conf.ts): what it becomes, what is said of the rest, and
// that a node takes it.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { stringify } from 'yaml'
import { loadConfig } from '../../broker/config/config.ts'
import { readMosquitto } from '../../broker/config/mosquitto-conf.ts'
import { makeCertificates } from '../support/certificates.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-mosquitto-'))
const certificates = makeCertificates()
afterAll(() => (rmSync(folder, { recursive: true }), certificates[Symbol.dispose]()))
const file = (name: string, text: string): string => {
  writeFileSync(join(folder, name), text)
  return join(folder, name)
}

test('a configuration that uses much of it', () => {
  const [users, acl] = [
    file('users', 'ann:$6$AAAAAAAAAAAAAAAA$AAAA\n'),
    file('acl', 'user ann\ntopic readwrite #\n'),
  ]
  mkdirSync(join(folder, 'conf.d'))
  file('conf.d/more.conf', 'max_keepalive 300\nplugin /usr/lib/x.so\n')
  const { config, left } = readMosquitto(
    'm.conf',
    `# ours
persistence true
persistence_location ${folder}
password_file ${users}
acl_file ${acl}
allow_anonymous false
max_queued_messages 0
max_inflight_messages 20
persistent_client_expiration 2w
log_type all
include_dir ${join(folder, 'conf.d')}
listener 0 /run/a.sock
listener 0 /run/mosquitto.sock
listener 8083 ::1
protocol websockets
max_connections 100
listener 8883
certfile ${certificates.server.cert}
keyfile ${certificates.server.key}
cafile ${certificates.ca}
require_certificate true
use_identity_as_username true
connection other
address 10.0.0.1:1883
topic # both
`,
  )
  expect(config).toEqual({
    listeners: [
      { url: 'ws://[::1]:8083', limits: { connectionsMax: 100 }, authentication: ['password-file'] },
      {
        url: 'mqtts://0.0.0.0:8883',
        tls: {
          cert: certificates.server.cert,
          key: certificates.server.key,
          ca: certificates.ca,
          clients: 'certificate', // as require_certificate says, whatever else is asked
        },
        authentication: ['certificate', 'password-file'],
      },
    ],
    access: { passwordFile: users, aclFile: acl },
    state: { file: join(folder, 'aedes-cluster.state') },
    limits: { inFlightMax: 20, sessionExpirySecondsMax: 14 * 86_400 },
    mqtt: { keepAliveSecondsMax: 300 },
  })
  expect(left.map((line) => line.replace(/^.*\/(?=more)/, '').replace(/: .*/, ''))).toEqual([
    'm.conf:12 listener',
    'm.conf:13 listener',
    'm.conf:23 connection',
    'm.conf:2 persistence',
    'm.conf:7 max_queued_messages',
    'm.conf:10 log_type',
    'more.conf:2 plugin',
  ])
  const path = file('node.yaml', stringify(config))
  expect(loadConfig({ config: path }, {}).listeners).toHaveLength(2)
})

test.each([
  ['', ['mqtt://127.0.0.1:1883'], [['anonymous']], 0],
  ['listener 1884', ['mqtt://0.0.0.0:1884'], [undefined], 1],
  ['port 1884\nallow_anonymous true', ['mqtt://0.0.0.0:1884'], [['anonymous']], 0],
  [
    'per_listener_settings true\nlistener 1 localhost\nallow_anonymous true\nlistener 2\npassword_file a\nlistener 3\npassword_file b',
    ['mqtt://localhost:1', 'mqtt://0.0.0.0:2', 'mqtt://0.0.0.0:3'],
    [['anonymous'], ['password-file'], ['password-file']],
    1,
  ],
] as const)('who may connect: %j', (text, urls, chains, leftOut) => {
  const { config, left } = readMosquitto('m.conf', text)
  const listeners = config.listeners as { url: string; authentication?: string[] }[]
  expect(listeners.map(({ url }) => url)).toEqual(urls)
  expect(listeners.map(({ authentication }) => authentication)).toEqual(chains)
  expect(left).toHaveLength(leftOut)
})

test('a line with what ends no line in it is said to be left', () => {
  for (const text of ['log_type a\rb', 'log_type a\u2028b'])
    expect(readMosquitto('m.conf', text, () => []).left.length, JSON.stringify(text)).toBeGreaterThan(0)
})
