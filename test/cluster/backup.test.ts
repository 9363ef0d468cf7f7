// A backup of a cluster that runs and is used, and its restore: into an empty Redis, where other nodes go on with it. What a
// client had is there again, in order; what stands there already stays. And what is of
// nobody in it is found and removed.
import { spawnSync } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test, vi } from 'vitest'
import { backupCommand, restoreCommand } from '../../broker/cli/backup-command.ts'
import { operate } from '../../broker/cli/operate.ts'
import { messageOf, storedMessage, type StoredMessage } from '../../bridge/backup/lines.ts'
import { Message } from '../../bridge/messages/message.ts'
import { Keys } from '../../bridge/redis/keys.ts'
import { openClient } from '../bridge/planes.ts'
import { mainPath, startCluster, type TestCluster } from '../support/cluster.ts'
import { orphans } from '../support/orphans.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { WireClient } from '../support/wire.ts'

let folder: string
let file: string
let empty: TestRedis
let cluster: TestCluster
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-backup-'))
  file = join(folder, 'backup')
  ;[empty, cluster] = await Promise.all([startRedis(), startCluster({ nodes: 2 })])
})
afterAll(async () => {
  await cluster[Symbol.asyncDispose]()
  await empty[Symbol.asyncDispose]()
  rmSync(folder, { recursive: true })
})

const never = { first: new Promise<void>(() => undefined), onReload: () => undefined }

/** What a command prints. */
async function printed(run: () => Promise<void>): Promise<string> {
  const out: string[] = []
  const write = vi.spyOn(process.stdout, 'write').mockImplementation((text) => out.push(String(text)) > 0)
  try {
    await run()
  } finally {
    write.mockRestore()
  }
  return out.join('')
}
const backup = (to: string): Promise<string> =>
  printed(() => backupCommand([to, '--redis', cluster.redis.url, '--prefix', 'test'], never))
const restore = (from: string, ...flags: string[]): Promise<string> =>
  printed(() => restoreCommand([from, '--redis', empty.url, '--prefix', 'test', ...flags], never))

const lasting = { clean: false, properties: { sessionExpiryInterval: 600 } } as const
const wire = (
  of: TestCluster,
  node: number,
  id: string,
  options: Parameters<typeof WireClient.connect>[2] = {},
) => WireClient.connect(of.node(node).url, id, { ...lasting, ...options })

async function drop(gone: WireClient): Promise<void> {
  gone.socket.destroy()
  await gone.closed
}

/** The next messages, acknowledged. */
async function take(from: WireClient, count: number): Promise<string[]> {
  const got: string[] = []
  while (got.length < count) {
    const packet = await from.next('publish')
    if (packet.qos === 1) from.send({ cmd: 'puback', messageId: packet.messageId! })
    if (packet.qos === 2) {
      from.send({ cmd: 'pubrec', messageId: packet.messageId! })
      await from.first('pubrel')
      from.send({ cmd: 'pubcomp', messageId: packet.messageId! })
    }
    got.push(String(packet.payload))
  }
  return got
}

async function willsDueIn(server: TestRedis): Promise<number> {
  using redis = openClient(server)
  const due = await redis.zrange(new Keys('test').partition(0, 'due'), 0, -1)
  return due.filter((member) => member.startsWith('w:')).length
}

const numbers = (from: number, to: number): string[] =>
  Array.from({ length: to - from }, (_, i) => String(from + i))

test('what is durable comes back, in order, out of a backup that was made under load', async () => {
  // a queue, of a client that is away
  const sleeper = await wire(cluster, 0, 'sleeper')
  await sleeper.subscribe('queue/+', { qos: 2 })
  await drop(sleeper)
  // in flight, of a client that is connected, also what it has said PUBREC for
  const busy = await wire(cluster, 0, 'busy', { properties: { ...lasting.properties, receiveMaximum: 3 } })
  await busy.subscribe('busy', { qos: 2 })
  // members of a group, away
  for (const id of ['m0', 'm1']) {
    const member = await wire(cluster, 1, id)
    await member.subscribe('$share/g/jobs/#', { qos: 1 })
    await drop(member)
  }
  for (const n of numbers(0, 30)) {
    await cluster.node(1).publish(`queue/${Number(n) % 2}`, n, { qos: 2 })
    await cluster.node(1).publish('jobs/x', n, { qos: 1 })
  }
  for (const n of numbers(0, 5)) await cluster.node(1).publish('busy', n, { qos: 2 })
  const first = await busy.next('publish')
  busy.send({ cmd: 'pubrec', messageId: first.messageId! })
  await busy.next('publish')
  await busy.next('publish')
  await busy.first('pubrel')
  await cluster.node(0).publish('kept/a', 'retained', { qos: 1, retain: true })

  // a will that waits
  const will = { topic: 'estate', payload: Buffer.from('x'), qos: 1 as const, retain: false }
  const delayed = { ...will, properties: { willDelayInterval: 3_600 } }
  await drop(await wire(cluster, 0, 'mourned', { will: delayed }))
  await expect.poll(() => willsDueIn(cluster.redis)).toBe(1)

  // somebody publishes all the while
  const load = await wire(cluster, 0, 'load')
  const heard = await wire(cluster, 1, 'heard')
  await heard.subscribe('load', { qos: 1 })
  await drop(heard)
  let [isOver, sent] = [false, 0]
  const publishing = (async () => {
    while (!isOver) {
      load.send({
        cmd: 'publish',
        topic: 'load',
        payload: String(sent++),
        qos: 1,
        dup: false,
        retain: false,
        messageId: 1,
      })
      await load.first('puback')
    }
  })()
  await expect.poll(() => sent).toBeGreaterThan(20)
  const said = await backup(file)
  isOver = true
  await publishing
  expect(said).toMatch(/sessions \d+ .* connected \d+/)
  await drop(load)
  await drop(busy)

  expect(await restore(file)).toMatch(/^restored\/found, the others were there already: sessions (\d+)\/\1 /)
  expect(await willsDueIn(empty)).toBe(1)
  await using again = await startCluster({ nodes: 2, redis: empty })
  await using awake = await wire(again, 1, 'sleeper')
  expect(awake.connack.sessionPresent).toBe(true)
  await again.node(0).publish('queue/0', 'after', { qos: 1 })
  expect(await take(awake, 31)).toEqual([...numbers(0, 30), 'after'])
  await using resumed = await wire(again, 0, 'busy')
  // PUBREC had come: PUBREL is owed, and the message comes no more
  expect((await resumed.first('pubrel')).messageId).toBe(first.messageId)
  resumed.send({ cmd: 'pubcomp', messageId: first.messageId! })
  expect(await take(resumed, 4)).toEqual(numbers(1, 5))
  await using member = await wire(again, 0, 'm1')
  expect(await take(member, 30)).toEqual(numbers(0, 30))
  await again.node(1).publish('jobs/x', 'after', { qos: 1 })
  expect(await take(member, 1)).toEqual(['after'])
  await using reader = await wire(again, 1, 'reader')
  await reader.subscribe('kept/#')
  expect(await take(reader, 1)).toEqual(['retained'])
  // of what came while it was made, a beginning without a gap
  await using hears = await wire(again, 0, 'heard')
  await again.node(0).publish('load', 'end', { qos: 1 })
  const loaded: string[] = []
  while (loaded.at(-1) !== 'end') loaded.push(...(await take(hears, 1)))
  expect(loaded.slice(0, -1)).toEqual(numbers(0, loaded.length - 1))
  expect(loaded.length).toBeGreaterThan(20)
  await expect.poll(() => orphans(empty.url, 'test')).toEqual([])
})

test('where there is no room for all of it, a backup fails, and the one before stays', () => {
  const before = readFileSync(file)
  const argv = [mainPath, 'backup', file, '--redis', cluster.redis.url, '--prefix', 'test']
  const failed = spawnSync('bash', ['-c', 'ulimit -f 1; exec "$@"', '-', process.execPath, ...argv])
  expect(String(failed.stderr)).toMatch(/cannot be used \(EFBIG\)/)
  expect(failed.status).toBe(2)
  expect(readFileSync(file)).toEqual(before)
  expect(before.length).toBeGreaterThan(1_024)
  expect(existsSync(`${file}.partial`)).toBe(false)
})

test.each(['ann', null, undefined])(
  'a will of the user %s is his in a backup: rules are asked by it',
  (user) => {
    const of = {
      topic: 'w',
      payload: Buffer.from('x'),
      qos: 1,
      retain: false,
      properties: undefined,
    } as const
    const will = Message.will({ ...of, expirySeconds: -1 }, { clientId: 'c', user })
    const read = JSON.parse(JSON.stringify(storedMessage(will))) as StoredMessage
    expect(messageOf(read).by).toEqual({ clientId: 'c', user })
  },
)

test('a backup that is ended leaves nothing of it, and can be run again', async () => {
  const ended = { first: Promise.resolve(), onReload: () => undefined }
  const other = join(folder, 'ended')
  const argv = [other, '--redis', cluster.redis.url, '--prefix', 'test']
  await expect(backupCommand(argv, ended)).rejects.toMatchObject({ exitCode: 9 })
  expect([other, `${other}.partial`].filter((name) => existsSync(name))).toEqual([])
})

test('a target that is not empty is refused; with --add what it has stays, and nothing comes twice', async () => {
  await expect(restore(file)).rejects.toMatchObject({
    problem: expect.stringMatching(/is not empty/) as string,
  })
  expect(await restore(file, '--add')).toMatch(
    /sessions 0\/\d+ · messages 0\/\d+ · retained 0\/1 · backlog 0\/30 /,
  )
})

test.each([
  ['was cut off', (text: string) => text.slice(0, text.length >> 1), /no JSON|has no end/],
  ['lacks a line', (text: string) => text.split('\n').toSpliced(3, 1).join('\n'), /not what was written/],
  ['was changed', (text: string) => text.replace('retained"', 'restored"'), /not what was written/],
  ['has a line that is nothing', (text: string) => text.replace('\n', '\nnull\n'), /line 2 is nothing/],
  ['is none', () => '{"kind":"head","format":"other"}\n', /no backup/],
  ['is of a later version', (text: string) => text.replace('"version":1', '"version":2'), /is of version 2/],
])('a file that %s is refused, and nothing of it is restored', async (_what, changed, why) => {
  const other = join(folder, 'other')
  writeFileSync(other, changed(readFileSync(file, 'utf8')))
  await expect(
    printed(() => restoreCommand([other, '--redis', empty.url, '--prefix', 'nothing'], never)),
  ).rejects.toMatchObject({ problem: expect.stringMatching(why) as string })
})

test('doctor --repair removes what is of nobody, and nothing else', async () => {
  const keys = new Keys('test')
  using redis = openClient(cluster.redis)
  const known = await orphans(cluster.redis.url, 'test')
  const sid = '0planted_session'
  await redis.hset(keys.session(sid, 'session'), 'client', 'planted', 'epoch', 1)
  await redis.rpush(keys.session(sid, 'queue'), 'x')
  await redis.rpush(keys.group('0planted_groupg', 'backlog'), 'x')
  await redis.hset(keys.partition(0, 'clients'), 'planted', sid)
  await redis.hset(keys.partition(0, 'owners'), '0nobodys', '')
  await redis.hset(keys.partition(0, 'wills'), `${sid}:1`, 'x')
  await redis.xadd(keys.inbox('gone@1', 'stream'), '*', 'b', 'x')
  await redis.hset(keys.routes('gone@1'), 'a/b', 1)
  const repaired = await printed(() =>
    operate('doctor', ['--repair', '--redis', cluster.redis.url, '--prefix', 'test']),
  )
  expect(repaired.split('\n').filter((line) => line !== '')).toHaveLength(7)
  await expect.poll(() => orphans(cluster.redis.url, 'test')).toEqual(known)
  expect(
    await printed(() => operate('doctor', ['--repair', '--redis', cluster.redis.url, '--prefix', 'test'])),
  ).toBe('everything belongs to somebody\n')
  await using awake = await wire(cluster, 1, 'sleeper')
  expect(awake.connack.sessionPresent).toBe(true)
  expect(await take(awake, 30)).toEqual(numbers(0, 30))
})
