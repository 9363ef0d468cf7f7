// A file of users: a line for each, `name:what is kept of the password` (passwords.ts); those of Mosquitto are read as
// they are. Blank lines and lines that begin with # are passed by. No state.
import { keptOf } from './passwords.ts'
import type { OptionProblem } from '../../bridge/index.ts'

/** What a name may not have: it would end a line, or the name. */
export const isUserName = (name: string): boolean =>
  /^[^:\u0000-\u001f\u007f]{1,256}$/.test(name) && !name.startsWith('#') && name.trim() === name

const isEntry = (line: string): boolean => line.trim() !== '' && !line.startsWith('#')
const nameOf = (line: string): string => line.slice(0, line.indexOf(':'))

/** Users by their names → what is kept of their passwords. */
export function readUsers(text: string): Map<string, string> {
  const users = new Map<string, string>()
  for (const line of text.split(/\r?\n/))
    if (isEntry(line)) users.set(nameOf(line), line.slice(line.indexOf(':') + 1).trim())
  return users
}

/** What is wrong with a file of users, by the number of its line: what stands there may be a secret. */
export function passwordFileProblem(text: string): Omit<OptionProblem, 'option'> | undefined {
  const seen = new Set<string>()
  for (const [i, line] of text.split(/\r?\n/).entries()) {
    if (!isEntry(line)) continue
    const wrong = (problem: string): Omit<OptionProblem, 'option'> => ({
      problem: `line ${i + 1} ${problem}`,
      hint: 'Write it by `aedes-cluster passwd --password-file FILE --user NAME`, which asks for the password',
    })
    const name = nameOf(line)
    if (!line.includes(':') || !isUserName(name)) return wrong('has no user name with a colon behind it')
    if (seen.has(name)) return wrong('has a user that a line before has')
    seen.add(name)
    if (keptOf(line.slice(name.length + 1).trim()) === undefined)
      return wrong(
        'has none of $scrypt$, $scram-sha-256$, $7$ and $6$: a password in plain text is never taken',
      )
  }
  return undefined
}

/** The text of a file of users with one more, changed, or (`kept` undefined) without it; all other lines stay. */
export function withUser(text: string, name: string, kept: string | undefined): string {
  const lines = text === '' ? [] : text.replace(/\r?\n$/, '').split(/\r?\n/)
  const at = lines.findIndex((line) => isEntry(line) && nameOf(line) === name)
  const entry = kept === undefined ? [] : [`${name}:${kept}`]
  if (at < 0) lines.push(...entry)
  else lines.splice(at, 1, ...entry)
  return lines.length === 0 ? '' : `${lines.join('\n')}\n`
}
