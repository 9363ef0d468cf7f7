#!/usr/bin/env node
// The command line: argv → command → exit code. Only this file touches argv, signals and process.exit.
import { readFileSync } from 'node:fs'
import { check } from './cli/check.ts'
import { helpText } from './cli/help.ts'
import { importCommand } from './cli/import.ts'
import { node, type Interrupt } from './cli/node.ts'
import { ChildEnded, up } from './cli/up.ts'
import { nearest } from './config.ts'
import { exitCodes, OperatorError } from './errors.ts'

const commands = { up, node, check, import: importCommand } as const

/** Settles at the first signal; a second one ends the process at once. */
function interruptOf(): Interrupt {
  const first = new Promise<void>((resolve) => {
    let signals = 0
    const interrupted = (): void => {
      if (++signals > 1) process.exit(exitCodes.internal.code)
      resolve()
    }
    process.on('SIGINT', interrupted)
    process.on('SIGTERM', interrupted)
    process.on('disconnect', resolve) // started by `up`, which is gone
  })
  return { first }
}

function version(): string {
  return (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version
}

async function run(argv: readonly string[]): Promise<void> {
  const [command, ...rest] = argv
  if (command === undefined || command === '--help' || command === '-h' || command === 'help' || rest.includes('--help')) {
    process.stdout.write(helpText())
    return
  }
  if (command === '--version') {
    process.stdout.write(version() + '\n')
    return
  }
  if (!(command in commands)) {
    const near = nearest(command, Object.keys(commands))
    throw new OperatorError('is not a command', { reason: 'usage', field: 'command', value: command, hint: near === undefined ? 'See aedes-cluster --help' : `Did you mean ${near}?` })
  }
  await commands[command as keyof typeof commands](rest, interruptOf())
}

run(process.argv.slice(2)).then(() => process.exit(exitCodes.ok.code), (error: unknown) => {
  if (error instanceof OperatorError) {
    process.stderr.write(`aedes-cluster: ${error.oneLine}\n`)
    process.exit(error.exitCode)
  }
  if (error instanceof ChildEnded) process.exit(error.code)
  console.error(error)
  process.exit(exitCodes.internal.code)
})
