// Damaged data: what no script of ours leaves behind. A key of a wrong type is put out of the way, under
// another name, and made anew like one that Redis lost; whoever met it tries again. Each damaged key is named
// on a channel, at most once a minute. What else may be wrong (a number set back or ahead, bytes that are not
// ours) is mended where it is read. State: which keys were named when.
import { readFileSync } from 'node:fs'
import { noReports, type Reports } from '../diagnostics.ts'
import { asideOf, typeOfKey } from './keys.ts'

const nameAgainMs = 60_000
const namedMax = 1_000
const asideSeconds = 7 * 24 * 60 * 60
const namedBy = new WeakMap<Reports, Map<string, number>>()

/** What a connection must be able to do: scripts.ts and redis.ts stand above this file. */
interface Caller {
  readonly reports?: Reports | undefined
  callBuffer(command: 'EVAL', args: (string | number | Buffer)[]): Promise<unknown>
}

const putAside = readFileSync(new URL('./lua/key-aside.lua', import.meta.url))

/** Says that a key was damaged, and what was wrong with it. */
export function nameDamage(
  { reports = noReports }: Pick<Caller, 'reports'>,
  key: string,
  problem: string,
): void {
  const now = performance.now()
  const named = namedBy.get(reports) ?? new Map<string, number>()
  namedBy.set(reports, named)
  if (now - (named.get(key) ?? -nameAgainMs) < nameAgainMs) return
  named.delete(key) // the oldest stand first
  if (named.size >= namedMax) named.delete(named.keys().next().value!)
  named.set(key, now)
  reports.tell('damaged', { key, problem })
}

/**
 * A stream takes nothing any more: it was set ahead to the last of all ids, or its last entries are gone and
 * so is the number that we keep of them, while it remembers theirs.
 */
const isExhausted = (message: string): boolean =>
  message.includes('exhausted the last possible ID') ||
  message.includes('smaller than the target stream top item')

/** Whether an error reply says that data are damaged, rather than that Redis cannot serve. */
export const isDamage = (message: string): boolean => message.startsWith('WRONGTYPE') || isExhausted(message)

/** The keys of the command that was refused. */
function keysOf(error: unknown): string[] {
  const { command, cause } = error as { command?: { args: readonly unknown[] }; cause?: unknown }
  if (command === undefined) return cause instanceof Error ? keysOf(cause) : []
  return command.args.flatMap((arg) => (typeof arg === 'string' && typeOfKey(arg) !== undefined ? [arg] : []))
}

/** Puts out of the way whatever made a command fail; false when the error says nothing of damage. */
export async function mendDamage(
  redis: Caller,
  error: unknown,
  keys: readonly string[] = keysOf(error),
): Promise<boolean> {
  const { message } = error as Error
  if (!isDamage(message)) return false
  await Promise.all(
    [...new Set(keys)].map(async (key) => {
      const type = typeOfKey(key)
      if (type === undefined || (isExhausted(message) && type !== 'stream')) return
      const found = String(
        await redis.callBuffer('EVAL', [
          putAside,
          2,
          key,
          asideOf(key),
          isExhausted(message) ? 'none' : type,
          asideSeconds,
        ]),
      )
      if (found !== '')
        nameDamage(
          redis,
          key,
          found === type
            ? 'it took nothing any more'
            : `it was a ${found}, not a ${type}; it was put aside as ${asideOf(key)}`,
        )
    }),
  )
  return true
}
