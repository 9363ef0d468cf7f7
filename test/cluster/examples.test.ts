// broker/examples/: each as its reader starts it, used by a client.
import { spawn, type ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { readdirSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { TestClient } from '../support/client.ts'

interface Example {
  readonly child: ChildProcess
  readonly lines: string[]
  readonly urls: string[]
}

const mqtt = 'mqtt://127.0.0.1:0'
const words: Record<string, string[]> = {
  authentication: [mqtt],
  dashboard: [mqtt, '0'],
  embedded: [mqtt],
  fastify: ['0'],
  simulator: [mqtt, '3'],
}
const examples = new Map<string, Example>()

async function start(name: string): Promise<void> {
  const child = spawn(process.execPath, [`broker/examples/${name}.mjs`, ...words[name]!], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const lines: string[] = []
  const reader = createInterface(child.stdout)
  const [urls] = (await once(reader, 'line')) as [string]
  reader.on('line', (line) => lines.push(line))
  examples.set(name, { child, lines, urls: urls.split(' ').slice(2) })
}

beforeAll(async () => {
  expect(readdirSync('broker/examples').sort()).toEqual(Object.keys(words).map((name) => `${name}.mjs`))
  await Promise.all(Object.keys(words).map(start))
})
afterAll(async () => {
  for (const { child } of examples.values()) {
    child.kill()
    // it embeds a node, which leaves the signal to the program: that has no use for it, and ends by it
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit')
    expect(child.signalCode).toBe('SIGTERM')
  }
})

test('embedded: it reads along, and a client publishes below its own name only', async () => {
  const { lines, urls } = examples.get('embedded')!
  await using client = await TestClient.connect(urls[0]!, 'one', { version: 5 })
  await client.publish('devices/one/temperature', '21')
  await expect(client.publish('devices/other/temperature', '22')).rejects.toThrow(/Not authorized/i)
  await client.disconnect()
  await expect.poll(() => lines).toEqual(['one is here', 'devices/one/temperature 21', 'one is gone'])
})

test('fastify: a request becomes a message, and MQTT comes by the same port', async () => {
  const [url] = examples.get('fastify')!.urls
  expect((await fetch(`${url}/lamp`, { method: 'POST', body: 'on' })).status).toBe(202)
  expect((await fetch(`${url}/%23`, { method: 'POST', body: 'on' })).status).toBe(202)
  expect((await fetch(`${url}/`, { method: 'POST', body: 'on' })).status).toBe(400)
  await using client = await TestClient.connect(`${url!.replace('http', 'ws')}/mqtt`, 'web')
  await client.subscribe('lamp')
  await client.receives([{ topic: 'lamp', payload: 'on', retain: true }])
})

test('authentication: who has no right password does not come in, and who has reads what is its own', async () => {
  const [url] = examples.get('authentication')!.urls
  await expect(TestClient.connect(url!, 'x', { username: 'anna', password: 'wrong' })).rejects.toThrow(
    /Bad username or password/,
  )
  await expect(TestClient.connect(url!, 'y')).rejects.toThrow(/Bad username or password/)
  await using client = await TestClient.connect(url!, 'z', { username: 'anna', password: 'secret' })
  await client.subscribe('plant/#')
  const granted = await client.mqtt.subscribeAsync('#').catch((error: unknown) => String(error))
  expect(JSON.stringify(granted)).toMatch(/128|Unspecified/)
})

test('simulator: the devices report', async () => {
  await using client = await TestClient.connect(examples.get('simulator')!.urls[0]!, 'reader')
  await client.subscribe('devices/+/temperature')
  await client.arrivals(3)
})

test('dashboard: the last values, and what a client sends is text', async () => {
  const [url, page] = examples.get('dashboard')!.urls
  await using client = await TestClient.connect(url!, 'device')
  for (const value of ['1', '<b>2']) await client.publish('devices/a', value)
  expect(await (await fetch(page!)).text()).toContain('<tr><td>devices/a<td>&#60;b&#62;2')
})
