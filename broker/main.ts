#!/usr/bin/env node
// The command line: argv → command → exit code. Only this file touches argv, signals and process.exit.
import { closeSync, constants, openSync } from 'node:fs'
import { access } from './cli/access-command.ts'
import { backupCommand, restoreCommand } from './cli/backup-command.ts'
import { bansCommand } from './cli/bans-command.ts'
import { check } from './cli/check.ts'
import { helpText, helpTopics } from './cli/help.ts'
import { importCommand } from './cli/import-command.ts'
import { node } from './cli/node-command.ts'
import { ChildEnded, reloadMessage, stopMessage, type Interrupt } from './cli/node-process.ts'
import { operate, operationNames } from './cli/operate.ts'
import { passwd } from './cli/passwd.ts'
import { up } from './cli/up.ts'
import { nearest } from './config/config.ts'
import { exitCodes, OperatorError } from './operator-errors.ts'
import { shown, stackOf } from './observe/shown.ts'
import { version } from './version.ts'

type Command = (argv: readonly string[], interrupt: Interrupt) => Promise<void>

const commands = new Map<string, Command>(
  Object.entries<Command>({
    // what this process runs, its nodes run
    up: (argv, interrupt) => up(argv, interrupt, process.argv[1]!),
    node: (argv, interrupt) => node(argv, interrupt, process.argv[1]!),
    check,
    import: importCommand,
    backup: backupCommand,
    restore: restoreCommand,
    passwd,
    access,
    bans: bansCommand,
    ...Object.fromEntries(
      operationNames.map((name) => [name, (argv: readonly string[]) => operate(name, argv)]),
    ),
  }),
)

/**
 * Settles at the first signal; a second one ends the process at once. Who never asks for it is ended by the
 * first, as any program is.
 */
function interruptOf(): Interrupt {
  let first: Promise<void> | undefined
  let reload: (() => void) | undefined
  const hadTerminal = hasTerminal()
  const heard = (): Promise<void> =>
    new Promise((resolve) => {
      let signals = 0
      const interrupted = (): void => {
        if (++signals > 1) process.exit(exitCodes.internal.code)
        resolve()
      }
      process.on('SIGINT', interrupted)
      process.on('SIGTERM', interrupted)
      // As daemons have it: files are read again. When it says that the terminal is gone, that is asked for in order; it
      // never counts as the second: a shell and the kernel may both send it.
      process.on('SIGHUP', () => {
        if (reload === undefined || (hadTerminal && !hasTerminal())) resolve()
        else reload()
      })
      process.on('disconnect', resolve) // whoever started it (cli/node-process.ts) is gone
      process.on('message', (told) => {
        if (told === stopMessage) resolve()
        else if (told === reloadMessage) reload?.()
      })
    })
  return {
    get first() {
      return (first ??= heard())
    },
    onReload: (to) => {
      reload = to
      first ??= heard()
    },
  }
}

/** Whether this process has one that controls it: when that has gone there is none. */
function hasTerminal(): boolean {
  try {
    closeSync(openSync('/dev/tty', constants.O_RDONLY | constants.O_NOCTTY | constants.O_NONBLOCK))
    return true
  } catch {
    return false
  }
}

/** Writing to a terminal or pipe that is gone is no reason to end otherwise than in order. */
function outliveTerminal(): void {
  for (const stream of [process.stdout, process.stderr]) stream.on('error', () => undefined)
}

/**
 * `ps` shows the words of a command line to everybody on the machine: a password among them is written over.
 */
function hideSecrets(argv: readonly string[]): void {
  const words = argv.map((word) => {
    const equals = word.startsWith('--') ? word.indexOf('=') + 1 : 0
    const mayHide = word.includes('@') || /:\/\/.*\?/.test(word)
    return mayHide ? word.slice(0, equals) + shown(word.slice(equals)) : word
  })
  if (words.some((word, i) => word !== argv[i])) process.title = ['aedes-cluster', ...words].join(' ')
}

const isHelp = (word: string | undefined): boolean => word === '--help' || word === '-h'

function unknownCommand(name: string): OperatorError {
  const near = nearest(name, [...commands.keys(), 'help', 'version'])
  const harmless = near !== undefined || /^[a-z]{1,20}$/.test(name) // not a secret that lost its option
  return new OperatorError('is not a command', {
    reason: 'usage',
    field: 'command',
    value: harmless ? name : undefined,
    hint:
      near === undefined
        ? `Begin with one of ${[...commands.keys()].join(', ')}; see aedes-cluster --help`
        : `Did you mean ${near}?`,
  })
}

async function run(argv: readonly string[]): Promise<void> {
  const [word, ...rest] = argv
  if (word === undefined || isHelp(word) || word === 'help') {
    const topic = word === 'help' ? rest[0] : undefined
    if (topic !== undefined && !helpTopics.includes(topic)) throw unknownCommand(topic)
    process.stdout.write(helpText(topic))
    return
  }
  if (word === '--version' || word === '-v' || word === '-V' || word === 'version') {
    process.stdout.write(version() + '\n')
    return
  }
  const command = commands.get(word)
  if (command === undefined) throw unknownCommand(word)
  if (rest.some(isHelp) || rest[0] === 'help') {
    process.stdout.write(helpText(word))
    return
  }
  await command(rest, interruptOf())
}

/** A bug of ours: its stack, without what else the error holds. */
function crash(error: unknown): never {
  process.stderr.write(stackOf(error) + '\n')
  process.exit(exitCodes.internal.code)
}

// never with exit code 0
process.on('beforeExit', () => crash(new Error('nothing is left to be done, and the command is not done')))
process.on('uncaughtException', crash) // an unhandled rejection, too
process
  .removeAllListeners('warning')
  .on('warning', ({ name, message }) => console.warn(`${name}: ${message}`)) // the log of a node
outliveTerminal()
hideSecrets(process.argv.slice(2))
run(process.argv.slice(2)).then(
  () => process.exit(exitCodes.ok.code),
  (error: unknown) => {
    if (error instanceof OperatorError) {
      process.stderr.write(error.lines.map((line) => `aedes-cluster: ${line}\n`).join(''))
      process.exit(error.exitCode)
    }
    if (error instanceof ChildEnded) process.exit(error.code)
    crash(error)
  },
)
