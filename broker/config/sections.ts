// From sections to options: `limits: { packetBytesMax: … }` is packetBytesMax, `redis: { url: … }` is
// redis. An option may stand at the top under its own name, too, as a flag has it. `listeners` is a list:
// each has its url and, for itself alone, any option that the table marks `ofListener`, in the sections
// that it has for all. No state. Judges no value.
import type { Option } from '../../bridge/index.ts'
import type { OperatorError } from '../operator-errors.ts'
import { options } from './options.ts'
import { nearest, unknownOption, usage, type GivenValue, type Layer } from './sources.ts'
import { within, type Entry, type List, type Mapping, type Tree } from './tree.ts'

/** What was given of one listener: `url`, and options by their names. */
export interface ListenerGiven {
  readonly source: string
  readonly given: Layer
}

const table = Object.entries<Option>(options)
const byPath = new Map(table.flatMap(([name, { at }]) => (at === undefined ? [] : [[at as string, name]])))
const ofListener = new Map([
  ['url', 'url'],
  ...table.filter(([, one]) => one.ofListener === true).map(([name, { at }]) => [at ?? name, name] as const),
])
const sectionOf = (path: string): string => path.slice(0, path.indexOf('.'))
const sectionsOf = (paths: ReadonlyMap<string, string>): Set<string> =>
  new Set([...paths.keys()].filter((path) => path.includes('.')).map(sectionOf))
const sections = sectionsOf(byPath)
const listenerSections = sectionsOf(ofListener)

const isNothing = (tree: Tree): boolean => tree.kind === 'value' && (tree.value === '' || tree.value === null)

/**
 * The error for a key in a section that has none of this name: with the one that was meant, or with those
 * it has.
 */
function unknownKey(
  section: string,
  key: string,
  source: string,
  paths: ReadonlyMap<string, string>,
): OperatorError {
  const path = within(section, key)
  if (byPath.has(path))
    return usage(
      source,
      undefined,
      'holds for the whole node',
      `Write it in the section ${section} at the top`,
    )
  const all = [...paths.keys()]
  const near = nearest(path, all) ?? all.find((other) => other.endsWith(`.${key}`))
  const keys = all
    .filter((other) => sectionOf(other) === section)
    .map((other) => other.slice(section.length + 1))
  const hint = near === undefined ? `The section ${section} has ${keys.join(', ')}` : `Did you mean ${near}?`
  return usage(source, undefined, 'is not an option', hint)
}

/** The options that a tree gives; what is none of them is among the problems then. */
export function layerOf(root: Mapping, problems: OperatorError[]): Layer {
  const layer = new Map<string, GivenValue>()
  const set = setterOf(layer, problems)
  for (const { key, source, tree } of root.entries) {
    if (key === 'listeners') {
      if (tree.kind === 'list') set(key, { value: listenersOf(tree, problems), source: tree.source })
      else
        problems.push(usage(source, undefined, 'is not a list', 'Write a list of mappings, each with a url'))
    } else if (sections.has(key) && tree.kind === 'mapping') readSection(key, tree, byPath, set, problems)
    else if (sections.has(key) && !Object.hasOwn(options, key)) {
      if (!isNothing(tree))
        problems.push(usage(tree.source, undefined, 'is a section', 'Write its options below it, indented'))
    } else if (Object.hasOwn(options, key)) setValue(key, tree, set, problems)
    else {
      const known = [...Object.keys(options), ...sections, 'listeners']
      const value = tree.kind === 'value' ? tree.value : undefined
      problems.push(unknownOption(key, value, known, source))
    }
  }
  if (layer.has('listen') && layer.has('listeners'))
    problems.push(
      usage(layer.get('listen')!.source, undefined, 'stands beside `listeners`', 'Keep one of the two'),
    )
  return layer
}

type SetOption = (name: string, given: GivenValue) => void

/** Sets an option once: it may stand in its section and at the top. */
const setterOf =
  (layer: Map<string, GivenValue>, problems: OperatorError[]): SetOption =>
  (name, given) => {
    const before = layer.get(name)
    if (before === undefined) layer.set(name, given)
    else
      problems.push(
        usage(given.source, undefined, `says the same as ${before.source}`, 'Remove one of the two'),
      )
  }

function readSection(
  section: string,
  { entries }: Mapping,
  paths: ReadonlyMap<string, string>,
  set: SetOption,
  problems: OperatorError[],
): void {
  for (const { key, source, tree } of entries) {
    const name = paths.get(within(section, key))
    if (name === undefined) problems.push(unknownKey(section, key, source, paths))
    else setValue(name, tree, set, problems)
  }
}

function setValue(name: string, tree: Tree, set: SetOption, problems: OperatorError[]): void {
  if (tree.kind === 'value') return set(name, { value: tree.value, source: tree.source })
  if (tree.kind === 'mapping')
    return void problems.push(
      usage(tree.source, undefined, 'must be a value, not a mapping', 'Write one value, or a list of them'),
    )
  const odd = tree.items.filter(({ kind }) => kind !== 'value')
  for (const { source } of odd)
    problems.push(
      usage(
        source,
        undefined,
        'must be a value, not a list or mapping',
        name === 'listen' ? 'Write them as `listeners`' : 'Write a list of plain values',
      ),
    )
  if (odd.length > 0) return
  set(name, {
    value: tree.items.map((item) => (item.kind === 'value' ? item.value : undefined)),
    source: tree.source,
    sources: tree.items.map(({ source }) => source),
  })
}

/** A listener that is a text is its url. */
const entriesOf = (tree: Tree): readonly Entry[] | undefined =>
  tree.kind === 'mapping'
    ? tree.entries
    : tree.kind === 'value'
      ? [{ key: 'url', source: tree.source, tree }]
      : undefined

function listenersOf({ items }: List, problems: OperatorError[]): ListenerGiven[] {
  return items.flatMap((item) => {
    const given = new Map<string, GivenValue>()
    const set = setterOf(given, problems)
    const entries = entriesOf(item)
    if (entries === undefined) {
      problems.push(usage(item.source, undefined, 'must be a mapping', 'Write url: scheme://host:port'))
      return []
    }
    for (const { key, source, tree } of entries) {
      if (ofListener.has(key) && !key.includes('.')) setValue(ofListener.get(key)!, tree, set, problems)
      else if (listenerSections.has(key) && tree.kind === 'mapping')
        readSection(key, tree, ofListener, set, problems)
      else if (listenerSections.has(key) && isNothing(tree)) continue
      else {
        const known = ['url', 'authentication', 'tenant', ...listenerSections]
        const near = nearest(key, known) ?? [...ofListener.keys()].find((path) => path.endsWith(`.${key}`))
        const hint = near === undefined ? `A listener has ${known.join(', ')}` : `Did you mean ${near}?`
        problems.push(usage(source, undefined, 'is not an option of a listener', hint))
      }
    }
    return { source: item.source, given }
  })
}

/** Layers one above the other; whoever says where to listen says all of it. */
export function merged(layers: readonly Layer[]): Layer {
  const all = new Map<string, GivenValue>()
  for (const layer of layers) {
    if (layer.has('listen')) all.delete('listeners')
    if (layer.has('listeners')) all.delete('listen')
    for (const [name, given] of layer) all.set(name, given)
  }
  return all
}

/** Values of options, in their sections: the same that layerOf reads. */
export function inSections(values: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const top: Record<string, unknown> = {}
  for (const [name, value] of Object.entries(values)) {
    const at = Object.hasOwn(options, name) ? (options as Record<string, Option>)[name]!.at : undefined
    if (at === undefined) top[name] = value
    else ((top[sectionOf(at)] ??= {}) as Record<string, unknown>)[at.slice(at.indexOf('.') + 1)] = value
  }
  return top
}
