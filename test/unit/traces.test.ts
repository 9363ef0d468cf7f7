// Traces of one node: what a line says, and that everything of them is bounded, also when nobody fetches it.
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { Traces, type TracedSessions } from '../../broker/observe/traces.ts'

const sessions: TracedSessions = {
  sidOf: (clientId) => Promise.resolve(clientId === 'c' ? '0c' : undefined),
  clientsOf: (sids) => Promise.resolve(sids.map((sid) => (sid === '0x' ? undefined : `client of ${sid}`))),
}
const message = (topic: string, payload = 'text'): { topic: string; payload: Buffer; qos: number } => ({
  topic,
  payload: Buffer.from(payload),
  qos: 1,
})
let traces: Traces
beforeEach(() => void (traces = new Traces()))
afterEach(() => {
  traces.close()
  vi.useRealTimers()
})

const wish = { topic: '#', payload: false }

test('nothing is on until somebody asks, and nothing is kept when nobody asks any more', async () => {
  expect(traces.isOn).toBe(false)
  vi.useFakeTimers()
  await traces.ask('1', wish, 0, sessions)
  expect(traces.isOn).toBe(true)
  vi.advanceTimersByTime(20_000)
  expect(traces.isOn).toBe(false)
})

test('lines are given again until it is known that they came', async () => {
  await traces.ask('1', wish, 0, sessions)
  traces.tell('received', message('a'), {})
  const first = await traces.ask('1', wish, 0, sessions)
  expect(first).toMatchObject({ lines: [{ topic: 'a' }], last: 1 })
  traces.tell('received', message('b'), {})
  expect(await traces.ask('1', wish, 0, sessions)).toMatchObject({ lines: [{ topic: 'a' }, { topic: 'b' }] })
  expect(await traces.ask('1', wish, 1, sessions)).toMatchObject({ lines: [{ topic: 'b' }], last: 2 })
  expect(await traces.ask('1', wish, 2, sessions)).toMatchObject({ lines: [], last: 2 })
})

test('as many traces and lines as may be; the rest is counted', async () => {
  for (const id of ['1', '2', '3', '4']) await traces.ask(id, wish, 0, sessions)
  await expect(traces.ask('5', wish, 0, sessions)).rejects.toThrow('it follows 4 traces already')
  for (let i = 0; i < 5_000; i++) traces.tell('received', message('x'.repeat(60_000)), {})
  const { lines, leftOut } = await traces.ask('1', wish, 0, sessions)
  expect(lines.length + leftOut).toBe(5_000)
  expect(JSON.stringify(lines).length).toBeLessThan(1_048_576)
  expect((await traces.ask('1', wish, lines.length, sessions)).leftOut).toBe(0)
})

test('deliveries that are never acknowledged are forgotten, the oldest first', async () => {
  await traces.ask('1', wish, 0, sessions)
  for (let i = 1; i <= 12_000; i++) traces.delivered({ number: 1, clientId: 'c' }, message('a'), i, false)
  const { last } = await traces.ask('1', wish, 0, sessions)
  await traces.ask('1', wish, last, sessions)
  let after = last
  const told = async (packetId: number): Promise<number> => {
    traces.acknowledged({ number: 1, clientId: 'c' }, packetId)
    const { lines, leftOut, last: now } = await traces.ask('1', wish, after, sessions)
    after = now
    return lines.length + leftOut
  }
  expect([await told(2_000), await told(2_001), await told(2_001)]).toEqual([0, 1, 0])
})

test('a trace of a client has what is about its session, by its name; sessions that are gone by their sid', async () => {
  await traces.ask('1', { client: 'c', payload: true }, 0, sessions)
  await traces.ask('2', { topic: 'b', payload: false }, 0, sessions)
  traces.tell('queued', message('a', 'ü'.repeat(200)), { sids: ['0a', '0c'] })
  traces.tell('queued', message('b'), { sids: ['0a', '0x'] })
  traces.tell('dropped', message('c'), { client: 'c', cause: 'expired' })
  const { lines } = await traces.ask('1', { client: 'c', payload: true }, 0, sessions)
  expect(lines).toMatchObject([
    { step: 'queued', sessions: 2, clients: ['client of 0c'], bytes: 400, payload: 'ü'.repeat(128) },
    { step: 'dropped', client: 'c', why: expect.stringMatching(/Expiry/) as string },
  ])
  expect((await traces.ask('2', wish, 0, sessions)).lines).toMatchObject([
    { topic: 'b', clients: ['client of 0a', 'session 0x'] },
  ])
})

test('why nobody gets a message', async () => {
  await traces.ask('1', wish, 0, sessions)
  traces.tell('matched', message('a'), { nodes: [], sids: [], groups: [] })
  traces.tell('matched', { ...message('b'), qos: 0 }, { nodes: [], sids: ['0a'], groups: [] })
  traces.tell('matched', message('c'), { nodes: [], sids: ['0a'], groups: [] })
  expect((await traces.ask('1', wish, 0, sessions)).lines).toMatchObject([
    { step: 'unmatched', why: 'nobody is subscribed to it' },
    { step: 'unmatched', why: expect.stringMatching(/^QoS 0 is not queued/) as string },
    { step: 'matched', sessions: 1 },
  ])
})
