// JSON that is odd: names that mean something to JavaScript, doubled keys, numbers that are none, thousands of levels,
// and objects of a known shape some of whose members are such. As text: what JSON.stringify writes is never odd enough.
import { bytes, chance, names } from './fuzz.ts'
import type { Random } from './random.ts'

const numbers = ['0', '-1', '1e400', '1e-400', '0.5', '9007199254740993', '-0', '1E2', '4294967296', '1e18']

/** One value. */
export function oddJson(random: Random, depth = 3): string {
  switch (random.below(depth > 0 ? 10 : 7)) {
    case 0:
    case 1:
      return JSON.stringify(random.pick(names))
    case 2:
      return random.pick(numbers)
    case 3:
      return random.pick(['true', 'false', 'null'])
    case 4:
      return JSON.stringify(bytes(random, 30).toString('latin1'))
    case 5: {
      const levels = 10 ** random.below(5)
      return random.pick([
        '['.repeat(levels) + ']'.repeat(levels),
        '{"a":'.repeat(levels) + '1' + '}'.repeat(levels),
        '['.repeat(levels),
      ])
    }
    case 6:
      return JSON.stringify('x'.repeat(random.below(70_000)))
    case 7:
    case 8:
      return `[${oddList(random, depth).join()}]`
    default:
      return `{${oddList(random, depth)
        .map((value) => `${JSON.stringify(random.pick(names))}:${value}`)
        .join()}}`
  }
}

const oddList = (random: Random, depth: number): string[] =>
  Array.from({ length: random.below(5) }, () => oddJson(random, depth - 1))

/** An object with these members, as a rule: each may be missing, odd, or there twice. @param members as JSON */
export function oddObject(random: Random, members: Readonly<Record<string, readonly string[]>>): string {
  const written = Object.entries(members).flatMap(([name, values]) => {
    const one = (): string => `${JSON.stringify(name)}:${random.pick(values)}`
    const odd = (): string => `${JSON.stringify(name)}:${oddJson(random)}`
    return random.pick([[one()], [one()], [one()], [one()], [odd()], [], [one(), odd()]])
  })
  if (chance(random, 10)) written.push(`${JSON.stringify(random.pick(names))}:${oddJson(random)}`)
  return `{${written.join()}}`
}
