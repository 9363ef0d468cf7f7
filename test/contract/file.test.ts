// The file of a node without Redis: what was acknowledged is there after a restart, however the process ended
// and whatever was being written; and while the file is written anew.
import {
  copyFileSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { createMemoryBridge } from '../../bridge/memory/index.ts'
import { listen, messageOf } from '../bridge/planes.ts'
import { Member } from './clusters.ts'

let folder: string
let count = 0
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-file-'))
})
afterAll(() => rmSync(folder, { recursive: true }))

const fresh = (): string => join(folder, `state${++count}`)

async function openFile(file: string, warnings: string[] = [], retainedBytesMax = 1e9): Promise<Member> {
  const member = new Member()
  const bridge = await createMemoryBridge({
    name: 'm',
    queueMessagesMax: 100_000,
    queueBytesMax: 1e9,
    storedBytesMax: 1e9,
    sessionsMax: 1_000,
    retainedBytesMax,
    claimsWaitingMax: 1_000,
    file,
    fsync: 'always',
    onWarning: (text) => warnings.push(text),
  })
  member.cluster = await bridge.join(member)
  member.onEnd(async () => {
    await member.cluster.close()
    await bridge.close()
  })
  return member
}

/** A file of a process that was killed: a copy of what is there now, while its node goes on. */
function killed(file: string): string {
  const copy = fresh()
  copyFileSync(file, copy)
  return copy
}

/** A node with something of everything. */
async function fill(member: Member): Promise<void> {
  const client = await member.connect('c', {}, 2)
  await client.subscribe('t/#', 2)
  for (const n of [1, 2, 3, 4]) await member.publish(messageOf('t/x', String(n), { qos: 2 }))
  await client.has(2)
  await client.write({ acknowledged: [1], received: [], incoming: [[5, '1']] })
  await member.publish(messageOf('r', 'kept', { retain: true }))
  await member.connect('gone', { expirySeconds: 0 })
  await member.connect('dying', {
    will: {
      message: messageOf('t/will', 'will', { by: { clientId: 'dying' }, isWill: true }),
      delaySeconds: 0,
    },
  })
}

async function contents(file: string, warnings: string[] = []): Promise<string[]> {
  await using member = await openFile(file, warnings)
  const client = await member.connect('c', {}, 1_000)
  const inFlight = client.session.inFlight.map(
    ({ messageId, message }) =>
      `${messageId}: ${typeof message === 'object' ? message.payload.toString() : message}`,
  )
  await client.write({})
  await expect.poll(() => client.takeWrites()).toBeUndefined()
  const retained = await member.cluster.retained(['r'], 1_000)
  return [
    ...inFlight,
    ...client.payloads,
    ...[...client.session.subscriptions.keys()],
    ...[...client.session.incoming].map(([id, { n }]) => `${id} ${n}`),
    ...retained.messages.map(({ payload }) => payload.toString()),
  ]
}

const whole = ['2: 2', '3: 3', '4', 'will', 't/#', '5 1', 'kept']

test('a restart keeps everything, whether the node stopped or was killed; its clients were cut, so their wills are published', async () => {
  const file = fresh()
  const member = await openFile(file)
  await fill(member)
  const other = killed(file)
  await member[Symbol.asyncDispose]()
  expect(await contents(file)).toEqual(whole)
  expect(await contents(other)).toEqual(whole)
  const again = await openFile(other) // the session whose expiry was 0 is gone, and so is the will
  expect((await again.connect('gone')).session.present).toBe(false)
  await again[Symbol.asyncDispose]()
})

test('of many wills that are due at once a thousand are decided at a time; what waits is kept, and all of them are in the end', async () => {
  const file = fresh()
  const member = await openFile(file)
  const decide: (() => void)[] = []
  let asked = 0
  member.authorizeWill = (will) => {
    asked++
    return new Promise((resolve) => decide.push(() => resolve(will)))
  }
  const clients = await Promise.all(
    Array.from({ length: 1_100 }, (_, n) => {
      const message = messageOf(`wills/${n}`, String(n), { isWill: true })
      return member.connect(`dying-${n}`, { expirySeconds: 0, will: { message, delaySeconds: 0 } })
    }),
  )
  await Promise.all(clients.map((client) => client.release()))
  expect(asked).toBe(1_000)
  await using other = await openFile(killed(file))
  await expect.poll(() => other.payloads.length).toBe(1_100) // its gate decides at once
  let most = 0
  while (member.payloads.length < 1_100) {
    most = Math.max(most, decide.length)
    decide.shift()?.()
    await new Promise(setImmediate)
  }
  expect([most, asked, new Set(member.payloads).size]).toEqual([1_000, 1_100, 1_100])
  await member[Symbol.asyncDispose]()
  await using again = await openFile(file)
  expect(again.payloads).toEqual([])
})

test('a will that a later version wrote is not published, is said, and stays, also over a restart', async () => {
  using heard = listen('later')
  const file = fresh()
  const later = messageOf('t/will', 'will', { by: { clientId: 'c' }, isWill: true, qos: 3 as never })
  {
    await using member = await openFile(file)
    const client = await member.connect('c', { will: { message: later, delaySeconds: 0 } })
    await client.release()
    expect(heard.events).toEqual([{ where: 'will', id: client.session.sid }])
    expect(member.delivered).toEqual([])
  }
  await using again = await openFile(file)
  await expect.poll(() => heard.events.length).toBe(2)
  expect(again.delivered).toEqual([])
})

test('a torn end is cut off with a warning, wherever it was torn: what was acknowledged before is there', async () => {
  const file = fresh()
  const member = await openFile(file)
  await fill(member)
  const { size } = statSync(file)
  const client = await member.connect('late')
  await client.subscribe('late')
  const last = killed(file)
  await member[Symbol.asyncDispose]()
  for (let end = size; end < statSync(last).size; end += 7) {
    const torn = killed(last)
    truncateSync(torn, end)
    const warnings: string[] = []
    expect(await contents(torn, warnings), `at ${end}`).toEqual(whole)
    expect(warnings.length, `at ${end}`).toBeLessThanOrEqual(1)
    // and the next start has nothing to say
    expect(await contents(torn)).toEqual(expect.arrayContaining(['kept']))
  }
})

test('a file that is damaged in the middle, or is not ours, is refused, not cut', async () => {
  const file = fresh()
  const member = await openFile(file)
  await fill(member)
  await member[Symbol.asyncDispose]()
  const bytes = readFileSync(file)
  const damaged = fresh()
  for (const place of [60, 22, 26, 28, 29, 32]) {
    // what a frame holds, its marker, its length, its checksum
    const wrong = Buffer.from(bytes)
    wrong[place]! ^= 0xff
    writeFileSync(damaged, wrong)
    await expect(openFile(damaged), `at ${place}`).rejects.toMatchObject({ code: 'ERR_BRIDGE_FILE' })
    expect(readFileSync(damaged).equals(wrong)).toBe(true)
  }
  writeFileSync(damaged, 'something else, longer than that')
  await expect(openFile(damaged)).rejects.toThrow('is not a file of aedes-cluster')
  await expect(openFile(join(folder, 'none', 'state'))).rejects.toMatchObject({ code: 'ERR_BRIDGE_FILE' })
})

test('what Retained Messages hold has a bound, also behind a restart: then no new topic, until there is room; one that is there may change', async () => {
  const file = fresh()
  const member = await openFile(file, [], 2_000_000)
  const retain = (topic: string, bytes: number): Promise<void> =>
    member.publish(messageOf(topic, Buffer.alloc(bytes), { retain: true }))
  expect(member.cluster.mayRetain('r/1', 1)).toBe(true)
  for (const n of [1, 2, 3]) await retain(`r/${n}`, 700_000)
  const asked = (of: Member): boolean[] => ['r/1', 'r/4'].map((topic) => of.cluster.mayRetain(topic, 1))
  expect(asked(member)).toEqual([true, false])
  await retain('r/1', 1_200_000)
  expect(asked(member)).toEqual([false, false])
  await retain('r/1', 0)
  expect(asked(member)).toEqual([true, true])
  await retain('r/1', 700_000)
  await member[Symbol.asyncDispose]()
  await using again = await openFile(file, [], 2_000_000)
  expect(asked(again)).toEqual([true, false])
})

test('a file that another node uses is refused', async () => {
  const file = fresh()
  await using _member = await openFile(file)
  await expect(openFile(file)).rejects.toThrow('is used by another node')
})

test.each([
  ['it cannot be made', (path: string) => mkdirSync(path)],
  ['there is no room for it', (path: string) => symlinkSync('/dev/full', path)],
])('a file that cannot be written anew goes on as it is: %s', async (_name, inTheWay) => {
  const file = fresh()
  const warnings: string[] = []
  const member = await openFile(file, warnings)
  inTheWay(`${file}.anew`)
  const payload = Buffer.alloc(400_000, 'x')
  for (let n = 0; n < 60; n++)
    await member.publish(messageOf('r', Buffer.concat([Buffer.from(`${n} `), payload]), { retain: true }))
  await expect.poll(() => warnings).toEqual([expect.stringContaining('could not be written anew')])
  await member.publish(messageOf('r', 'last', { retain: true }))
  await member[Symbol.asyncDispose]()
  await using again = await openFile(file)
  expect(
    (await again.cluster.retained(['r'], 1_000)).messages.map(({ payload }) => payload.toString()),
  ).toEqual(['last'])
})

test('the file is written anew while messages come: it is smaller then, and every copy of it on the way holds what was acknowledged', async () => {
  const file = fresh()
  const member = await openFile(file)
  const client = await member.connect('c', {}, 50)
  await client.subscribe('t/#', 1)
  const payload = Buffer.alloc(20_000, 'x')
  const [copies, sizes]: [{ file: string; n: number }[], number[]] = [[], []]
  for (let n = 0; n < 1_200; n++) {
    await member.publish(messageOf(`t/${n}`, Buffer.concat([Buffer.from(`${n} `), payload])))
    if (client.open.size >= 40) await client.write({ acknowledged: [...client.open.keys()] })
    if (n % 20 === 0) sizes.push(statSync(file).size)
    if (n % 150 === 149) copies.push({ file: killed(file), n })
  }
  await member[Symbol.asyncDispose]()
  expect(Math.max(...sizes)).toBeGreaterThan(sizes.at(-1)!)
  for (const { file: copy, n } of copies) {
    await using again = await openFile(copy)
    const next = await again.connect('c', {}, 1_000)
    await next.write({})
    const numbers = [...next.session.inFlight.map(({ message }) => message), ...next.got].map((message) =>
      typeof message === 'object' ? Number.parseInt(message.payload.toString(), 10) : NaN,
    )
    // In order, each once, and up to the last that was acknowledged.
    expect([
      numbers.every((number, i) => i === 0 || number === numbers[i - 1]! + 1),
      numbers.at(-1) ?? n,
    ]).toEqual([true, n])
  }
})
