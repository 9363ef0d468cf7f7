// Clients that nobody here wrote, over MQTT 3.1.1 and 5 and two nodes: MQTT.js, mosquitto_pub, _sub and _rr,
// Eclipse Paho for C (paho_c_pub, paho_c_sub) and for Python. Whoever publishes reaches whoever subscribes.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createNode, type Node } from '../../broker/index.ts'
import { TestClient } from '../support/client.ts'
import { startRedis, type TestRedis } from '../support/redis.ts'
import { python } from '../support/setup.ts'

let redis: TestRedis
const nodes: Node[] = []
const subscribed = new Set<string>()
const children = new Set<ChildProcess>()
beforeAll(async () => {
  redis = await startRedis()
  for (const id of ['a', 'b']) {
    const node = await createNode({ id, listen: ['mqtt://127.0.0.1:0'], redis: redis.url })
    node.on('subscribe', (_, client) => subscribed.add(client.id))
    nodes.push(node)
  }
})
afterAll(async () => {
  for (const child of children) child.kill('SIGKILL')
  await Promise.all(nodes.map((node) => node.close()))
  await redis[Symbol.asyncDispose]()
})
const url = (node: 0 | 1): URL => new URL(nodes[node]!.endpoints[0]!)

/** A program that is running; its lines so far, and their end. */
class Program {
  readonly #child: ChildProcess
  readonly #name: string
  readonly #ended: Promise<unknown>
  #out = ''
  #errors = ''

  constructor(command: string, args: readonly string[]) {
    this.#name = command
    this.#child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'] })
    children.add(this.#child)
    this.#child.stdout!.on('data', (chunk: Buffer) => {
      this.#out += chunk.toString()
    })
    this.#child.stderr!.on('data', (chunk: Buffer) => {
      this.#errors += chunk.toString()
    })
    this.#ended = once(this.#child, 'close').finally(() => children.delete(this.#child))
  }

  get lines(): string[] {
    return this.#out.split('\n').filter((line) => line !== '')
  }

  async succeeds(): Promise<this> {
    await this.#ended
    expect(this.#child.exitCode, `${this.#name}: ${this.#errors}`).toBe(0)
    return this
  }

  async end(): Promise<void> {
    this.#child.kill('SIGKILL')
    await this.#ended
  }
}

const paho = (node: 0 | 1, what: object): Program =>
  new Program(python, [
    'test/support/paho_client.py',
    JSON.stringify({ host: '127.0.0.1', port: Number(url(node).port), ...what }),
  ])

const mosquitto = (
  program: 'pub' | 'sub' | 'rr',
  node: 0 | 1,
  version: 4 | 5,
  id: string,
  ...args: string[]
): Program =>
  new Program(`mosquitto_${program}`, [
    ...['-h', '127.0.0.1', '-p', url(node).port, '-V', version === 5 ? 'mqttv5' : 'mqttv311', '-i', id],
    ...args,
  ])
const pahoC = (program: 'pub' | 'sub', node: 0 | 1, version: 4 | 5, id: string, ...args: string[]): Program =>
  new Program(`paho_c_${program}`, [
    ...['-h', '127.0.0.1', '-p', url(node).port, '-V', version === 5 ? '5' : '311', '-i', id],
    ...args,
  ])

type Message = readonly [topic: string, payload: string, qos: 0 | 1 | 2]
/** What came so far, each line with its payload. */
interface Subscriber {
  readonly got: () => string[]
  readonly end: () => Promise<void>
}

interface Kind {
  readonly name: string
  readonly subscribe: (version: 4 | 5, id: string, filter: string) => Promise<Subscriber>
  readonly publish: (version: 4 | 5, id: string, messages: readonly Message[]) => Promise<void>
}

const byProgram = (program: Program): Subscriber => ({ got: () => program.lines, end: () => program.end() })

const kinds: readonly Kind[] = [
  {
    name: 'MQTT.js',
    async subscribe(version, id, filter) {
      const client = await TestClient.connect(url(1).href, id, { version })
      await client.subscribe(filter, { qos: 2 })
      return {
        got: () => client.packets.map(({ payload }) => payload.toString()),
        end: () => client[Symbol.asyncDispose](),
      }
    },
    async publish(version, id, messages) {
      await using client = await TestClient.connect(url(0).href, id, { version })
      for (const [topic, payload, qos] of messages) await client.publish(topic, payload, { qos })
      await client.disconnect()
    },
  },
  {
    name: 'mosquitto',
    subscribe: (version, id, filter) =>
      Promise.resolve(byProgram(mosquitto('sub', 1, version, id, '-t', filter, '-q', '2', '-F', '%p'))),
    async publish(version, id, messages) {
      await Promise.all(
        messages.map(([topic, payload, qos]) =>
          mosquitto('pub', 0, version, `${id} ${qos}`, '-t', topic, '-m', payload, '-q', `${qos}`).succeeds(),
        ),
      )
    },
  },
  {
    name: 'Paho C',
    subscribe: (version, id, filter) =>
      Promise.resolve(byProgram(pahoC('sub', 1, version, id, '-t', filter, '-q', '2'))),
    async publish(version, id, messages) {
      await Promise.all(
        messages.map(([topic, payload, qos]) =>
          pahoC('pub', 0, version, `${id} ${qos}`, '-t', topic, '-m', payload, '-q', `${qos}`).succeeds(),
        ),
      )
    },
  },
  {
    name: 'Paho Python',
    subscribe: (version, id, filter) =>
      Promise.resolve(byProgram(paho(1, { do: 'subscribe', version, id, filter, count: -1 }))),
    async publish(version, id, messages) {
      const sent = messages.map(([topic, payload, qos]) => ({ topic, payload, qos }))
      await paho(0, { do: 'publish', version, id, messages: sent }).succeeds()
    },
  },
]

describe.each([4, 5] as const)('MQTT version %i', (version) => {
  test('each of four clients reaches each of four, at QoS 0, 1 and 2, from one node to the other, once', async () => {
    const root = `all/${version}`
    const subscribers = await Promise.all(
      kinds.map(({ name, subscribe }) => subscribe(version, `${name} subscribes ${version}`, `${root}/#`)),
    )
    const ids = kinds.map(({ name }) => `${name} subscribes ${version}`)
    await expect.poll(() => ids.filter((id) => !subscribed.has(id))).toEqual([])
    const sent = kinds.map(({ name }) =>
      ([0, 1, 2] as const).map((qos): Message => [`${root}/${qos}`, `<${name} ${qos}>`, qos]),
    )
    await Promise.all(
      kinds.map(({ name, publish }, i) => publish(version, `${name} publishes ${version}`, sent[i]!)),
    )
    const expected = sent.flat().map(([, payload]) => payload)
    for (const [i, { got }] of subscribers.entries()) {
      const payloads = (): string[] => got().flatMap((line) => line.match(/<[^>]*>/g) ?? [])
      await expect.poll(() => payloads().length, { message: kinds[i]!.name }).toBeGreaterThanOrEqual(12)
      expect(payloads().sort(), kinds[i]!.name).toEqual([...expected].sort())
    }
    await Promise.all(subscribers.map(({ end }) => end()))
  })

  test('sessions of mosquitto_sub and of Paho for Python go on at another node', async () => {
    const topic = `session/${version}`
    const mosquittoAt = (node: 0 | 1): Program =>
      mosquitto(
        'sub',
        node,
        version,
        `m${version}`,
        ...['-c', '-t', topic, '-q', '1', '-F', '%p', '-C', '1'],
        ...(version === 5 ? ['-x', '600'] : []),
      )
    const pahoAt = (node: 0 | 1): Program =>
      paho(node, { do: 'subscribe', version, id: `p${version}`, filter: topic, clean: false, count: 1 })
    for (const node of [0, 1] as const) {
      // the first time they are there when it is published, the second time they come behind it
      const running = node === 0 ? [mosquittoAt(node), pahoAt(node)] : []
      if (node === 0)
        await expect.poll(() => [`m${version}`, `p${version}`].every((id) => subscribed.has(id))).toBe(true)
      await kinds[0]!.publish(version, 'publishes', [[topic, `message ${node}`, 2]])
      if (node === 1) running.push(mosquittoAt(node), pahoAt(node))
      const [theirs, other] = await Promise.all(running.map((program) => program.succeeds()))
      expect(theirs!.lines).toEqual([`message ${node}`])
      expect(other!.lines.join()).toContain(`"message ${node}"`)
      if (node === 1) expect(other!.lines[0]).toContain('"sessionPresent": 1')
    }
  })

  test('a request of mosquitto_rr is answered by Paho for Python at another node', async () => {
    const id = `responds ${version}`
    const responder = paho(1, {
      ...{ do: 'respond', version, id, filter: `requests/${version}`, qos: 1 },
      answers: `answers/${version}`,
    })
    await expect.poll(() => subscribed.has(id)).toBe(true)
    const args = [
      '-t',
      `requests/${version}`,
      '-e',
      `answers/${version}`,
      '-m',
      'how much',
      '-q',
      '1',
      '-W',
      '20',
    ]
    // without it nothing tells answers apart but the topic
    if (version === 5) args.push('-D', 'publish', 'correlation-data', '7')
    const request = await mosquitto('rr', 0, version, `asks ${version}`, ...args).succeeds()
    expect(request.lines).toEqual(['answer to how much'])
    await responder.succeeds()
  })

  test('the will of a client that is gone, and what Paho for C retains, come to mosquitto_sub', async () => {
    const root = `late/${version}`
    const id = `witness ${version}`
    const witness = mosquitto(
      'sub',
      1,
      version,
      id,
      ...['-t', `${root}/#`, '-q', '1', '-F', '%r %p', '-C', '2'],
    )
    await expect.poll(() => subscribed.has(id)).toBe(true)
    await pahoC(
      'pub',
      0,
      version,
      `retains ${version}`,
      ...['-t', `${root}/kept`, '-m', 'kept', '-q', '1', '-r'],
    ).succeeds()
    await paho(0, {
      do: 'die',
      version,
      id: `dies ${version}`,
      topic: `${root}/will`,
      payload: 'gone',
    }).succeeds()
    expect((await witness.succeeds()).lines.sort()).toEqual(['0 gone', '0 kept'])
    const late = mosquitto(
      'sub',
      1,
      version,
      `late ${version}`,
      ...['-t', `${root}/kept`, '-q', '1', '-F', '%r %p', '-C', '1'],
    )
    expect((await late.succeeds()).lines).toEqual(['1 kept'])
  })
})

test('User Properties of Paho for C and Python come to mosquitto_sub, Python and MQTT.js, in their order', async () => {
  const topic = 'user/properties'
  const shown = mosquitto('sub', 1, 5, 'shows', '-t', topic, '-q', '1', '-F', '%P', '-C', '2')
  const other = paho(1, { do: 'subscribe', version: 5, id: 'shows too', filter: topic, count: 2 })
  await using third = await TestClient.connect(url(1).href, 'third', { version: 5 })
  await third.subscribe(topic, { qos: 1 })
  await expect.poll(() => subscribed.has('shows') && subscribed.has('shows too')).toBe(true)
  await pahoC(
    'pub',
    0,
    5,
    'names',
    ...['-t', topic, '-m', 'c', '-q', '1', '--user-property', 'unit', 'C'],
  ).succeeds()
  const user = [
    ['b', '1'],
    ['a', '2'],
    ['b', '3'],
  ]
  await paho(0, {
    do: 'publish',
    version: 5,
    id: 'names',
    messages: [{ topic, payload: 'python', qos: 1, user }],
  }).succeeds()
  expect((await shown.succeeds()).lines).toEqual(['unit:C', 'b:1 a:2 b:3'])
  const last = JSON.parse((await other.succeeds()).lines.at(-1)!) as { user: unknown }
  expect(last.user).toEqual(user)
  await third.arrivals(2)
  expect(third.packets[1]!.properties?.userProperties).toEqual({ b: ['1', '3'], a: '2' })
})
