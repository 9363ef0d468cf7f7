// What a file or a program gives, before anybody knows what it means: values, lists and mappings, each
// with its place. sections.ts reads options out of it. No state.

export interface Value {
  readonly kind: 'value'
  /** Of a file always a text. */
  readonly value: unknown
  /** Where, as an error names it. */
  readonly source: string
}

export interface List {
  readonly kind: 'list'
  readonly items: readonly Tree[]
  readonly source: string
}

export interface Mapping {
  readonly kind: 'mapping'
  readonly entries: readonly Entry[]
  readonly source: string
}

export type Tree = Value | List | Mapping

export interface Entry {
  readonly key: string
  /** Where the key stands. */
  readonly source: string
  readonly tree: Tree
}

/** The path of a key in a mapping, or of an item in a list, as an error names it. */
export const within = (path: string, key: string | number): string =>
  typeof key === 'number' ? `${path}[${key}]` : path === '' ? key : `${path}.${key}`

const isMapping = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Date)

/** Nothing that has a meaning is as deep; what a token or a webhook says may be. */
const depthMax = 16

/**
 * The tree of a value of the program; what is undefined was not given. What is deeper than anything is a value, which no
 * reader takes.
 * @param nameOf how the one who gave it writes a key at the top
 */
export function treeOf(value: unknown, nameOf: (key: string) => string, path = '', depth = 0): Tree {
  if (depth > depthMax) return { kind: 'value', value, source: path }
  if (Array.isArray(value))
    return {
      kind: 'list',
      source: path,
      items: (value as unknown[]).map((item, i) =>
        treeOf(item, nameOf, isMapping(item) ? within(path, i) : path, depth + 1),
      ),
    }
  if (!isMapping(value)) return { kind: 'value', value, source: path }
  return {
    kind: 'mapping',
    source: path,
    entries: Object.entries(value)
      .filter(([, inner]) => inner !== undefined)
      .map(([key, inner]) => {
        const source = path === '' ? nameOf(key) : within(path, key)
        return { key, source, tree: treeOf(inner, nameOf, source, depth + 1) }
      }),
  }
}
