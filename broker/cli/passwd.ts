// `aedes-cluster passwd`: adds, changes and removes users of a file, or of the cluster in its Redis. The password comes from the terminal, unseen and
// twice, or is the first line of standard input; never from the command line, which everybody on the machine can read.
import {
  chmodSync,
  chownSync,
  closeSync,
  fsyncSync,
  openSync,
  readFileSync,
  renameSync,
  statSync,
  writeSync,
} from 'node:fs'
import { createInterface } from 'node:readline'
import { Writable } from 'node:stream'
import { BridgeError, importTargets, storedUsersMax, type Store } from '../../bridge/index.ts'
import { isUserName, passwordFileProblem, withUser } from '../access/password-file.ts'
import { keepPassword, passwordFormats, type PasswordFormat } from '../access/passwords.ts'
import { flagOf, loadConfig, operatorErrorOf, options, storeOf } from '../config/config.ts'
import { usage } from '../config/sources.ts'
import { OperatorError } from '../operator-errors.ts'
import type { Interrupt } from './node-process.ts'
import { parseArguments, type FlagShape } from './arguments.ts'

/** The flags of `passwd`, as the help shows them. */
export const passwdFlags: Record<string, FlagShape & { readonly shape: string; readonly about: string }> = {
  passwordFile: { shape: 'file', about: 'file of users; made when it is not there' },
  user: { shape: 'name', about: 'whose password' },
  list: { switch: true, shape: '', about: 'prints the names of the users of the cluster' },
  remove: { switch: true, shape: '', about: 'there is no such user any more' },
  format: {
    shape: passwordFormats.join('|'),
    about:
      'what is kept of the password; scram-sha-256 is for clients that authenticate by SCRAM, too [scrypt]',
  },
  ...Object.fromEntries(
    Object.entries(importTargets).map(([name, about]) => [
      name,
      {
        shape: options[name as keyof typeof importTargets].shape,
        about: name === 'redis' ? `${about}, instead of a file` : about,
      },
    ]),
  ),
}

export const passwdAbout = `  The password is asked for at a terminal; otherwise it is the first line of standard input.
`

const passwordBytesMax = 65_535

interface Asked {
  /** Undefined: users of the cluster. */
  readonly file: string | undefined
  readonly user: string
  readonly isListed: boolean
  readonly isRemoved: boolean
  readonly format: PasswordFormat
  /** Options that name the cluster. */
  readonly targets: Readonly<Record<string, unknown>>
}

/** @throws OperatorError for all that is wrong with the command line */
function readFlags(argv: readonly string[]): Asked {
  const { values, problems } = parseArguments(argv, passwdFlags)
  const { passwordFile: file, user, list, remove, format = 'scrypt' } = values
  const targets = Object.fromEntries(
    Object.entries(values).filter(([name]) => Object.hasOwn(importTargets, name)),
  )
  const found = [...problems]
  const isStored = targets.redis !== undefined || (file === undefined && list === true)
  if (isStored && file !== undefined)
    found.push(usage('--password-file', undefined, 'is one place, --redis another', 'Write one of the two'))
  if (file === undefined && !isStored)
    found.push(
      usage(
        '--password-file',
        undefined,
        'is missing',
        'Write --password-file FILE, or --redis URL for users of the cluster',
      ),
    )
  if (file === '') found.push(usage('--password-file', undefined, 'has no value', 'Name a file'))
  for (const name of list === true ? [] : ['user'])
    if (values[name] === undefined || values[name] === '')
      found.push(
        usage(
          flagOf(name),
          undefined,
          'is missing',
          `Write ${flagOf(name)} ${passwdFlags[name]!.shape.toUpperCase()}`,
        ),
      )
  if (typeof user === 'string' && user !== '' && !isUserName(user))
    found.push(
      usage(
        '--user',
        undefined,
        'is no user name',
        'Use 1 to 256 characters, no colon and no control characters',
      ),
    )
  const known = passwordFormats.find((one) => one === format)
  if (known === undefined)
    found.push(usage('--format', format, 'is not known', `Use one of ${passwordFormats.join(', ')}`))
  OperatorError.throwAll(found)
  return {
    file: file as string | undefined,
    user: user as string,
    isListed: list === true,
    isRemoved: remove === true,
    format: known!,
    targets,
  }
}

/** @throws OperatorError when there is none, or it was ended */
async function readPassword(user: string, interrupt: Interrupt): Promise<string> {
  const isTerminal = process.stdin.isTTY
  const lines = createInterface({
    input: process.stdin,
    // what is typed is not shown
    output: new Writable({ write: (_chunk, _encoding, done) => done() }),
    terminal: isTerminal,
  })
  const ended = new AbortController()
  void interrupt.first.then(() => ended.abort())
  lines.once('SIGINT', () => ended.abort()) // of a terminal, in raw mode
  const next = async (question: string): Promise<string> => {
    if (isTerminal) process.stderr.write(question)
    const line = await new Promise<string | undefined>((resolve) => {
      lines.once('line', resolve).once('close', () => resolve(undefined))
      ended.signal.addEventListener('abort', () => resolve(undefined))
    })
    if (isTerminal) process.stderr.write('\n')
    if (line === undefined || line === '')
      throw usage(
        'password',
        undefined,
        'is empty',
        'Type it, or write it to standard input: passwd … < FILE',
      )
    return line
  }
  try {
    const password = await next(`Password of ${user}: `)
    if (Buffer.byteLength(password) > passwordBytesMax)
      throw usage(
        'password',
        undefined,
        'has more bytes than CONNECT has room for',
        `Use up to ${passwordBytesMax}`,
      )
    if (isTerminal && (await next('Once more: ')) !== password)
      throw usage('password', undefined, 'is another than before', 'Type the same twice')
    return password
  } finally {
    lines.close()
  }
}

function readIfThere(file: string): { text: string; mode: number; uid: number; gid: number } | undefined {
  try {
    const { mode, uid, gid } = statSync(file)
    return { text: readFileSync(file, 'utf8'), mode, uid, gid }
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined
    throw error
  }
}

/** The old file, or the new one whole, whatever happens meanwhile. A file that is new is its owner's and group's. */
function replace(file: string, text: string): void {
  const before = readIfThere(file)
  const next = `${file}.new`
  const descriptor = openSync(next, 'w', 0o600)
  try {
    writeSync(descriptor, text)
    fsyncSync(descriptor)
  } finally {
    closeSync(descriptor)
  }
  if (before !== undefined) {
    const { uid, gid } = statSync(next)
    if (uid !== before.uid || gid !== before.gid) chownSync(next, before.uid, before.gid)
    chmodSync(next, before.mode & 0o777)
  }
  renameSync(next, file)
}

/** @throws OperatorError when an option is wrong or the file cannot be read or written */
export async function passwd(argv: readonly string[], interrupt: Interrupt): Promise<void> {
  const asked = readFlags(argv)
  const { file } = asked
  if (file === undefined) await changeStored(asked, interrupt)
  else await changeFile(file, asked, interrupt)
}

async function changeStored(
  { user, isListed, isRemoved, format, targets }: Asked,
  interrupt: Interrupt,
): Promise<void> {
  const config = loadConfig(targets, process.env)
  const store = storeOf(config)
  const changeAccess = store.changeAccess ?? missingStore()
  const say = (text: string): void => void process.stdout.write(text)
  const gone = usage('--user', user, 'is not among the users of the cluster', 'See passwd --list --redis URL')
  try {
    if (isListed)
      return await changeAccess(async (access) =>
        say((await access.users()).map((name) => `${name}\n`).join('')),
      )
    if (isRemoved) {
      if (!(await changeAccess((access) => access.removeUser(user)))) throw gone
      return say(`removed ${user}\n`)
    }
    const kept = await keepPassword(await readPassword(user, interrupt), format)
    if (await changeAccess((access) => access.setUser(user, kept))) return say(`wrote ${user}\n`)
    throw usage(
      '--user',
      user,
      `is one more than ${storedUsersMax}, which is as many as there may be`,
      'Remove some',
    )
  } catch (error) {
    throw error instanceof BridgeError ? operatorErrorOf(config, store, error) : error
  }
}

/** @throws OperatorError */
export function missingStore(): NonNullable<Store['changeAccess']> {
  throw usage('--redis', undefined, 'is missing', 'Name the Redis of the cluster, e.g. --redis redis://host')
}

async function changeFile(
  file: string,
  { user, isRemoved, format }: Asked,
  interrupt: Interrupt,
): Promise<void> {
  try {
    const text = readIfThere(file)?.text ?? ''
    const wrong = passwordFileProblem(text)
    if (wrong !== undefined) throw usage('--password-file', file, wrong.problem, wrong.hint)
    if (isRemoved && withUser(text, user, undefined) === text)
      throw usage('--user', user, 'is not in the file', 'See the names before the colons in it')
    const kept = isRemoved ? undefined : await keepPassword(await readPassword(user, interrupt), format)
    // read again: another one may have written it while the password was typed
    replace(file, withUser(readIfThere(file)?.text ?? '', user, kept))
  } catch (error) {
    if (error instanceof OperatorError || typeof (error as NodeJS.ErrnoException).code !== 'string')
      throw error
    const { code } = error as NodeJS.ErrnoException
    throw usage(
      '--password-file',
      file,
      `cannot be read or written (${code})`,
      'Name a file in a folder that may be written',
    )
  }
  process.stdout.write(`${isRemoved ? 'removed' : 'wrote'} ${user} ${isRemoved ? 'from' : 'in'} ${file}\n`)
}
