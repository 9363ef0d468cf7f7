// What deploy/ says about options is what broker/config/config.ts says: the commented file, the environment of the
// containers and the names that HAProxy expects. No defaults in two places without this test between them.
import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import { loadConfig, options } from '../../broker/config/config.ts'

const read = (name: string): string => readFileSync(new URL(`../../deploy/${name}`, import.meta.url), 'utf8')
const plain = (text: string): string => text.replaceAll(/\s+/g, ' ').toLowerCase()

interface Compose {
  services: Record<string, { environment?: Record<string, string> }>
}
const { services } = parse(read('compose/compose.yaml'), { merge: true }) as Compose
const nodes = Object.entries(services).filter(
  ([, { environment }]) => environment?.AEDES_CLUSTER_ID !== undefined,
)

test('config/node.yaml lists every option in order, with its default and what it is about', () => {
  const text = read('config/node.yaml')
  const listed = parse(text.replaceAll(/^#(?=\w+:)/gm, '')) as Record<string, unknown>
  expect(Object.keys(listed)).toEqual(Object.keys(options))
  for (const [name, { schema, about }] of Object.entries(options)) {
    const comment = new RegExp(`\n\n((?:# .*\n)+)#${name}:`).exec(text)?.[1] ?? ''
    expect(plain(comment.replaceAll(/^# /gm, '')), `the comment of ${name}`).toContain(plain(about))
    const standard = schema.safeParse(undefined).data
    if (name === 'id' || standard === undefined)
      expect(schema.safeParse(listed[name]).success, `the example of ${name}`).toBe(true)
    else expect(listed[name], `the default of ${name}`).toEqual(standard)
  }
})

test('config/node.yaml as it stands changes nothing', () => {
  expect(
    loadConfig({ config: new URL('../../deploy/config/node.yaml', import.meta.url).pathname }, {}),
  ).toEqual(loadConfig({}, {}))
})

test('the environment of the containers is a configuration that a node takes', () => {
  const image = Object.fromEntries(
    [...read('Dockerfile').matchAll(/\b(AEDES_CLUSTER_\w+)=(\S+)/g)]
      .map(([, name, value]) => [name, value])
      .filter(([name]) => name !== 'AEDES_CLUSTER_REDIS'),
  ) as Record<string, string>
  expect(loadConfig({}, image).listen).toEqual(['mqtt://0.0.0.0:1883', 'ws://0.0.0.0:8083/mqtt'])
  expect(nodes.map(([, { environment }]) => loadConfig({}, { ...image, ...environment }).id)).toEqual([
    'a',
    'b',
    'c',
  ])
})

test('HAProxy expects the nodes where compose.yaml has them', () => {
  const expected = [
    ...read('haproxy/haproxy.cfg').matchAll(
      /^ {4}server (\w+) "\$\{\w+-([^}]+)\}" (?:check port "\$\{\w+-(\d+)\}"|track mqtt\/(\w+))$/gm,
    ),
  ].map(([, name, address, adminPort, tracked]) => ({ name, address, adminPort, tracked }))
  const wanted = nodes.map(([host, { environment }]) => {
    const { listen, admin } = loadConfig({}, environment!)
    return { host, ports: listen.map((url) => new URL(url).port), adminPort: new URL(admin).port }
  })
  expect(expected).toEqual([
    ...wanted.map(({ host, ports, adminPort }) => ({
      name: host,
      address: `${host}:${ports[0]}`,
      adminPort,
      tracked: undefined,
    })),
    ...wanted.map(({ host, ports }) => ({
      name: host,
      address: `${host}:${ports[1]}`,
      adminPort: undefined,
      tracked: host,
    })),
  ])
})
