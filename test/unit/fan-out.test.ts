// A batch is handed on in slices: what changes in the routing table between two of them must not turn the
// order around that a node sees (P3). The parts around FanOut are told what it does with them, and nothing
// else.
import { expect, test } from 'vitest'
import { GroupRules } from '../../bridge/groups/group-rules.ts'
import { workedOff } from '../../bridge/pace/backlog.ts'
import { FanOut } from '../../bridge/publish/fan-out.ts'
import type { Links } from '../../bridge/links/links.ts'
import type { Share } from '../../bridge/messages/codec.ts'
import { Message } from '../../bridge/messages/message.ts'
import type { Receiver } from '../../bridge/options.ts'
import type { Queues } from '../../bridge/publish/queues.ts'
import type { Retained } from '../../bridge/retained/retained.ts'
import { RouteKind, RoutingTable } from '../../bridge/routes/routing-table.ts'

const messageOf = (payload: string): Message =>
  Message.of({
    topic: 't',
    payload: Buffer.from(payload),
    qos: 1,
    retain: false,
    properties: undefined,
    expiresAt: 0,
  })

const noBacklogs = {
  rules: new GroupRules(),
  push: () => Promise.resolve(),
  collect: () => ({ add: () => undefined, push: () => Promise.resolve() }),
}

/** Longer than a slice, for as long as the clock says so. */
function busy(): void {
  for (const began = performance.now(); performance.now() - began < 10;);
}

test('a route that comes between two slices gets what it gets in order', async () => {
  const table = new RoutingTable()
  const sent: string[] = []
  const delivered: string[] = []
  const receiver = {
    deliver: (message: Message) => {
      delivered.push(message.payload.toString())
      busy()
    },
  } as unknown as Receiver
  const links = {
    to: (nodeId: string) => ({
      push: ({ payload }: Message) => {
        sent.push(`${nodeId} ${payload.toString()}`)
        return Promise.resolve()
      },
    }),
    flush: () => undefined,
  } as unknown as Links
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver,
    table: () => table,
    links,
    queues: {} as Queues,
    retained: { journalTopics: () => undefined } as unknown as Retained,
    groups: noBacklogs,
    barrier: () => Promise.resolve(),
  })
  const batch = ['1', '2', '3'].map(messageOf)
  const handing = fanOut.handOnAhead(batch)
  table.set('there', 't', RouteKind.everything) // while the second message waits for its turn
  const handed = await handing
  await (
    await fanOut.handOnAfter(batch, handed)
  ).stored
  expect(sent).toEqual(['there 1', 'there 2', 'there 3'])
  expect(delivered).toEqual(['1', '2', '3'])
})

test('a Retained Message of QoS 0 that came too late to be stored is not handed on live either; one that was stored is', async () => {
  const delivered: string[] = []
  const receiver = {
    deliver: (message: Message) => {
      delivered.push(message.payload.toString())
    },
  } as unknown as Receiver
  const links = { flush: () => undefined } as unknown as Links
  const table = new RoutingTable()
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver,
    table: () => table,
    links,
    queues: {} as Queues,
    retained: { journalTopics: () => undefined } as unknown as Retained,
    groups: noBacklogs,
    barrier: () => Promise.resolve(),
  })
  const taken = { qos: 0, retain: true, by: { clientId: undefined, session: { isTaken: true } } } as const
  const batch = [
    messageOf('late').with(taken),
    messageOf('stored').with({ ...taken, stamp: 5 }),
    messageOf('not retained').with({ ...taken, retain: false }),
  ]
  await (
    await fanOut.handOnAfter(batch, await fanOut.handOnAhead(batch))
  ).stored
  expect(delivered).toEqual(['stored', 'not retained'])
})

test('a message that thirty thousand routes match is matched in slices, at QoS 0 and in a batch; what comes behind it stays behind', async () => {
  const table = new RoutingTable()
  const filters = Array.from({ length: 2 ** 15 }, (_, n) =>
    Array.from({ length: 15 }, (_, bit) => (((n >> bit) & 1) === 1 ? '+' : 'a')).join('/'),
  )
  for (const filter of filters) table.set('there', filter, RouteKind.everything)
  const sent: string[] = []
  const push = ({ payload }: Message): Promise<void> => (sent.push(payload.toString()), Promise.resolve())
  const links = { to: () => ({ push, pushQos0: push }), flush: () => undefined } as unknown as Links
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver: { deliver: () => undefined } as unknown as Receiver,
    table: () => table,
    links,
    queues: {} as Queues,
    retained: { journalTopics: () => undefined } as unknown as Retained,
    groups: noBacklogs,
    barrier: () => Promise.resolve(),
  })
  const topic = filters[0]!
  fanOut.qos0(messageOf('1').with({ topic, qos: 0 }))
  fanOut.qos0(messageOf('2').with({ topic: 't', qos: 0 }))
  expect(sent).toEqual([])
  table.set('there', 't', RouteKind.everything)
  await workedOff()
  expect(sent).toEqual(['1', '2'])
  let isDone = false
  const batch = [
    messageOf('3').with({ topic: filters[0]!.replace('a', 'b') }),
    messageOf('4').with({ topic: 't' }),
  ]
  const handing = fanOut.handOnAhead(batch).finally(() => (isDone = true))
  await Promise.resolve()
  expect(isDone).toBe(false)
  await (
    await fanOut.handOnAfter(batch, await handing)
  ).stored
  expect(sent).toEqual(['1', '2', '3', '4'])
})

test('a message that three thousand groups match goes to a member of each, once, in slices', async () => {
  const table = new RoutingTable()
  for (let n = 0; n < 3_000; n++) table.set('here', `$share/${n}/t`, 1)
  const got: string[] = []
  const receiver = {
    deliver: () => undefined,
    deliverShared: ({ payload }: Message, name: string) => {
      for (const began = performance.now(); performance.now() - began < 0.02;);
      return got.push(`${payload.toString()} ${name}`) > 0
    },
  } as unknown as Receiver
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver,
    table: () => table,
    links: { flush: () => undefined } as unknown as Links,
    queues: {} as Queues,
    retained: { journalTopics: () => undefined } as unknown as Retained,
    groups: noBacklogs,
    barrier: () => Promise.resolve(),
  })
  const each = (payload: string): string[] =>
    Array.from({ length: 3_000 }, (_, n) => `${payload} $share/${n}/t`)
  fanOut.qos0(messageOf('1').with({ qos: 0 }))
  expect(got.length).toBeLessThan(3_000)
  await workedOff()
  expect(got).toEqual(each('1'))
  let isDone = false
  const batch = [messageOf('2')]
  const handing = fanOut.handOnAhead(batch).finally(() => (isDone = true))
  await Promise.resolve()
  expect(isDone).toBe(false)
  const handed = await handing
  table.set('here', '$share/late/t', 1)
  await (
    await fanOut.handOnAfter(batch, handed)
  ).stored
  expect(got.slice(3_000)).toEqual([...each('2'), '2 $share/late/t'])
})

/** The node's last member has left, which the table does not say; one came elsewhere, which only the barrier brings. */
test('a group whose member here has left by now: the member that the barrier brings gets the message, once', async () => {
  const table = new RoutingTable()
  table.set('here', '$share/g/t', 1)
  const sent: string[] = []
  const links = {
    out: new Set(),
    to: (nodeId: string) => ({
      push: ({ payload }: Message) => (sent.push(`${nodeId} ${payload.toString()}`), Promise.resolve('yes')),
    }),
    flush: () => undefined,
  } as unknown as Links
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver: { deliver: () => undefined, deliverShared: () => false } as unknown as Receiver,
    table: () => table,
    links,
    queues: {} as Queues,
    retained: { journalTopics: () => undefined } as unknown as Retained,
    groups: noBacklogs,
    barrier: () => {
      table.set('there', '$share/g/t', 1)
      return Promise.resolve()
    },
  })
  const batch = [messageOf('1')]
  const handed = await fanOut.handOnAhead(batch)
  expect(sent).toEqual([])
  table.set('here', '$share/g/t', 0)
  table.set('there', '$share/g/t', 1)
  await (
    await fanOut.handOnAfter(batch, handed)
  ).stored
  expect(sent).toEqual(['there 1'])
})

// Its node would put it into the backlog after PUBACK, or lose it when it dies before that (P1).
test('a group of which only the barrier says that it has a backlog: the message is stored there, and given to nobody ahead', async () => {
  const table = new RoutingTable()
  table.set('there', '$share/g/t', 1)
  const given: string[] = []
  const stored: string[] = []
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver: { deliver: () => undefined } as unknown as Receiver,
    table: () => table,
    links: {
      to: () => ({ push: ({ payload }: Message) => (given.push(payload.toString()), Promise.resolve()) }),
      flush: () => undefined,
    } as unknown as Links,
    queues: {} as Queues,
    retained: { journalTopics: () => undefined } as unknown as Retained,
    groups: { ...noBacklogs, push: (_, names) => (stored.push(...names), Promise.resolve()) },
    barrier: () => Promise.resolve(),
  })
  const batch = [messageOf('1')]
  const handed = await fanOut.handOnAhead(batch)
  table.setSession('0gid', '$share/g/t', 1)
  await (
    await fanOut.handOnAfter(batch, handed)
  ).stored
  expect([given, stored]).toEqual([[], ['$share/g/t']])
})

test('a message for a member that has left goes to one that this node learns of by a barrier', async () => {
  const table = new RoutingTable()
  table.set('here', '$share/g/t', 1)
  const sent: string[] = []
  const push = ({ payload }: Message): Promise<void> => (sent.push(payload.toString()), Promise.resolve())
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver: { deliverShared: () => false } as unknown as Receiver,
    table: () => table,
    links: { out: new Set(), to: () => ({ push, pushQos0: push }) } as unknown as Links,
    queues: {} as Queues,
    retained: {} as Retained,
    groups: noBacklogs,
    barrier: () => {
      table.set('there', '$share/g/t', 1)
      return Promise.resolve()
    },
  })
  await fanOut.onShared(messageOf('1'), { name: '$share/g/t', visited: [] })
  expect(sent).toEqual(['1'])
})

// Whoever is a member all the while is come to, however many members leave at the same time.
test('a message of a group comes to each node once, by a lane of its own for each time it is handed on, and then to none', async () => {
  const table = new RoutingTable()
  for (const nodeId of ['a', 'b', 'c', 'd', 'here']) table.set(nodeId, '$share/g/t', 1)
  const sent: string[] = []
  const fanOut = (nodeId: string) =>
    new FanOut({
      onFailed: () => undefined,
      nodeId,
      receiver: { deliverShared: () => false } as unknown as Receiver,
      table: () => table,
      links: {
        out: new Set(),
        to: (to: string, lane: number) => ({
          push: (message: Message, share: Share) => {
            sent.push(`${to} ${lane}`)
            void fanOut(to).onShared(message, share)
            return Promise.resolve('yes')
          },
        }),
      } as unknown as Links,
      queues: {} as Queues,
      retained: {} as Retained,
      groups: noBacklogs,
      barrier: () => Promise.resolve(),
    })
  await fanOut('here').onShared(messageOf('1'), { name: '$share/g/t', visited: [] })
  await expect.poll(() => sent.length).toBe(4)
  expect(sent.map((to) => to.slice(2))).toEqual(['1', '2', '3', '4'])
  expect(sent.map(([to]) => to).sort()).toEqual(['a', 'b', 'c', 'd'])
  await new Promise((resolve) => setImmediate(resolve))
  expect(sent).toHaveLength(4)
})

// The member's session outlives its connection, which the table of who published did not say yet.
test('a group that proves to have a backlog where the message comes: it counts as stored when it stands there', async () => {
  const table = new RoutingTable()
  table.set('here', '$share/g/t', 1)
  let store: () => void = () => undefined
  const inBacklog = new Promise<void>((done) => {
    store = done
  })
  const fanOut = new FanOut({
    onFailed: () => undefined,
    nodeId: 'here',
    receiver: { deliver: () => undefined, deliverShared: () => inBacklog } as unknown as Receiver,
    table: () => table,
    links: { out: new Set(), flush: () => undefined } as unknown as Links,
    queues: {} as Queues,
    retained: { journalTopics: () => undefined } as unknown as Retained,
    groups: noBacklogs,
    barrier: () => Promise.resolve(),
  })
  const batch = [messageOf('1')]
  const { stored } = await fanOut.handOnAfter(batch, await fanOut.handOnAhead(batch))
  const order: string[] = []
  const done = stored.then(() => order.push('done'))
  await new Promise((resolve) => setImmediate(resolve))
  order.push('stored')
  store()
  await done
  expect(order).toEqual(['stored', 'done'])
})

// Nobody can say whether the dead node had it. One of QoS 2 would come twice.
test.for([
  ['no', 1, ['1', '1']],
  ['no', 2, ['1', '1']],
  ['unknown', 1, ['1', '1']],
  ['unknown', 2, ['1']],
] as const)(
  'a node is out, and whether it has a message is said to be %s, QoS %i',
  async ([stored, qos, wanted]) => {
    const table = new RoutingTable()
    for (const nodeId of ['a', 'b']) table.set(nodeId, '$share/g/t', 1)
    const sent: string[] = []
    const out = new Set<string>()
    const to = (nodeId: string) => ({
      push: ({ payload }: Message) => {
        sent.push(payload.toString())
        if (out.size > 0) return Promise.resolve('yes')
        out.add(nodeId)
        return Promise.resolve(stored)
      },
    })
    const fanOut = new FanOut({
      onFailed: () => undefined,
      nodeId: 'here',
      receiver: {} as Receiver,
      table: () => table,
      links: { out, to } as unknown as Links,
      queues: {} as Queues,
      retained: {} as Retained,
      groups: noBacklogs,
      barrier: () => Promise.resolve(),
    })
    await fanOut.handOver(messageOf('1').with({ qos }), { name: '$share/g/t', visited: [] })
    expect(sent).toEqual(wanted)
  },
)
