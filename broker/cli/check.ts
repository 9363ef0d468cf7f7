// `aedes-cluster check`: prints the effective configuration as YAML, secrets hidden, and tries it: do the
// certificates hold today, are the addresses free, is the store what a node needs, is nobody of this name
// alive? `--offline` only validates. All that is wrong is said, a line each, and what should be otherwise
// though a node works with it, as a node says it at its start.
import { readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { adviceOn } from '../config/config-advice.ts'
import { portOf } from '../config/checks.ts'
import {
  atSource,
  loadConfig,
  operatorErrorOf,
  showConfig,
  sourceOf,
  storeOf,
  type Config,
} from '../config/config.ts'
import { OperatorError } from '../operator-errors.ts'
import { bind } from '../listeners/bind.ts'
import { validityProblem } from '../config/tls-files.ts'
import { parseArguments } from './arguments.ts'
import { nodeFlags } from './node-command.ts'

/** @throws OperatorError for all that a node would stumble over */
export async function check(argv: readonly string[]): Promise<void> {
  const {
    values: { offline, ...flags },
    problems,
  } = parseArguments(argv, { ...nodeFlags, offline: { switch: true } })
  const config = loadConfig(flags, process.env, problems)
  process.stdout.write(showConfig(config))
  const found = certificateProblems(config)
  warn(adviceOn(config))
  if (offline !== true) {
    const store = storeOf(config)
    // what a node would meet there, in the order in which it would
    const ofStore = await store.preflight()
    found.push(
      ...(await addressProblems(config)),
      ...ofStore.map((error) => operatorErrorOf(config, store, error)),
    )
    if (ofStore.length === 0) warn([...(await store.advice()), ...(await store.adviceOnNodes())])
  }
  OperatorError.throwAll(found.map((problem) => atSource(config, problem)))
}

function warn(lines: readonly string[]): void {
  for (const line of lines) process.stderr.write(`aedes-cluster: warning: ${line}\n`)
}

/** A node starts with a certificate of yesterday; its clients refuse it. */
function certificateProblems(config: Config): OperatorError[] {
  const files = new Set([config.tlsCert, ...config.listeners.map(({ tlsCert }) => tlsCert)])
  return [...files].flatMap((file) => {
    const problem = file === undefined ? undefined : validityProblem(readFileSync(file, 'utf8'))
    if (problem === undefined) return []
    const hint = 'Have it renewed, and start the nodes anew one after the other'
    const field = sourceOf(config, 'tlsCert', file)
    return [new OperatorError(problem, { reason: 'usage', field, value: file, hint })]
  })
}

async function addressProblems({ listeners, admin }: Config): Promise<OperatorError[]> {
  const problems: OperatorError[] = []
  for (const [field, address] of [
    ...listeners.map(({ url }) => ['--listen', url] as const),
    ...(admin === 'off' ? [] : [['--admin', admin] as const]),
  ]) {
    const server = createServer()
    const url = new URL(address)
    await bind(server, url, field, portOf(url)).then(
      () => server.close(),
      (error: unknown) => {
        if (!(error instanceof OperatorError)) throw error
        problems.push(error)
      },
    )
  }
  return problems
}
