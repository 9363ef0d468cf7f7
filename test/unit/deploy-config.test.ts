// What deploy/ says about options is what broker/config/options.ts says: the commented file, the environment of the
// containers and the names that HAProxy expects. No defaults in two places without this test between them.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { expect, test } from 'vitest'
import { parse } from 'yaml'
import type { Option } from '../../bridge/index.ts'
import { loadConfig, options } from '../../broker/config/config.ts'
import type { OperatorError } from '../../broker/operator-errors.ts'

const read = (name: string): string => readFileSync(new URL(`../../deploy/${name}`, import.meta.url), 'utf8')
const plain = (text: string): string => text.replaceAll(/\s+/g, ' ').toLowerCase()

interface Compose {
  services: Record<string, { environment?: Record<string, string> }>
}
const { services } = parse(read('compose/compose.yaml'), { merge: true }) as Compose
const nodes = Object.entries(services).filter(
  ([, { environment }]) => environment?.AEDES_CLUSTER_ID !== undefined,
)

test('config/node.yaml lists every option in its section, in order, with its default and what it is about', () => {
  const text = read('config/node.yaml')
  const listed = parse(text.replaceAll(/^#(?=(?: {2})*(?:- )?\w+:)/gm, '')) as Record<string, unknown>
  expect(listed.listeners).toEqual(loadConfig({}, {}).listeners.map(({ url }) => ({ url })))
  const seen: Record<string, unknown> = {}
  for (const [name, { schema, about, at }] of Object.entries<Option>(options)) {
    const [section, key] = at?.split('.') ?? [undefined, name === 'listen' ? 'listeners' : name]
    const part = section === undefined ? text : text.slice(text.indexOf(`\n#${section}:\n`))
    const indent = section === undefined ? '' : '  '
    const comment = new RegExp(`\n\n((?:# .*\n)+)#${indent}${key}:`).exec(part)?.[1] ?? ''
    expect(plain(comment.replaceAll(/^# /gm, '')), `the comment of ${name}`).toContain(plain(about))
    const values = (section === undefined ? listed : listed[section]) as Record<string, unknown>
    if (section === undefined) seen[key!] = values[key!]
    else seen[section] = { ...(seen[section] as object), [key!]: values[key!] }
    if (name === 'listen') continue
    const standard = schema.safeParse(undefined).data
    if (name === 'id' || standard === undefined)
      expect(schema.safeParse(values[key!]).success, `the example of ${name}`).toBe(true)
    else expect(values[key!], `the default of ${name}`).toEqual(standard)
  }
  expect(JSON.stringify(listed)).toBe(JSON.stringify(seen)) // nothing else, and in this order
})

test('config/node.yaml as it stands changes nothing', () => {
  expect(
    loadConfig({ config: new URL('../../deploy/config/node.yaml', import.meta.url).pathname }, {}),
  ).toEqual(loadConfig({}, {}))
})

test('the example of sections in broker/README.md is a configuration, but for files that are not here', () => {
  const readme = readFileSync(new URL('../../broker/README.md', import.meta.url), 'utf8')
  const example = parse(/```yaml\n([^`]*)```/.exec(readme)![1]!) as Record<string, unknown>
  let lines: string[] = []
  try {
    loadConfig(example, {})
  } catch (error) {
    ;({ lines } = error as OperatorError)
  }
  expect(lines.filter((line) => !line.includes('cannot be read (ENOENT)'))).toEqual([])
  expect(lines).toHaveLength(6)
})

test('the environment of the containers is a configuration that a node takes', () => {
  const image = Object.fromEntries(
    [...read('Dockerfile').matchAll(/\b(AEDES_CLUSTER_\w+)=(\S+)/g)]
      .map(([, name, value]) => [name, value])
      .filter(([name]) => name !== 'AEDES_CLUSTER_REDIS'),
  ) as Record<string, string>
  expect(loadConfig({}, image).listeners.map(({ url }) => url)).toEqual([
    'mqtt://0.0.0.0:1883',
    'ws://0.0.0.0:8083/mqtt',
  ])
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
    const { listeners, admin } = loadConfig({}, environment!)
    return { host, ports: listeners.map(({ url }) => new URL(url).port), adminPort: new URL(admin).port }
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

test('the table of sizes is what deploy/sizing.mjs prints; a wrong number is one line', () => {
  const sizing = fileURLToPath(new URL('../../deploy/sizing.mjs', import.meta.url))
  const printed = execFileSync(process.execPath, [sizing], { encoding: 'utf8' })
  expect(/<!-- table:sizing -->\n([^]*?)<!-- \/table:sizing -->/.exec(read('README.md'))![1]).toBe(printed)
  expect(() => execFileSync(process.execPath, [sizing, '--rate', 'x'], { stdio: 'pipe' })).toThrow(
    '--rate is a number',
  )
})

test('the context of the image has what the Dockerfile copies out of it', () => {
  const [all, ...letIn] = readFileSync(new URL('../../.dockerignore', import.meta.url), 'utf8')
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'))
  expect(all).toBe('*')
  const copied = [...read('Dockerfile').matchAll(/^COPY (?!--from)(.+) \S+$/gm)].flatMap(([, paths]) =>
    paths!.split(' '),
  )
  expect(copied).toContain('deploy/*.mjs')
  expect(letIn).toEqual(expect.arrayContaining(copied.map((path) => `!${path}`)))
})
