// `npm run bench`: flags → runs, systems alternating within each round → report. Markdown to standard output,
// JSON and Markdown to a folder, progress to standard error. Ends with 2 for a wrong flag; whatever ends it,
// its children end first.
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { verdicts } from './budgets.ts'
import { killAll } from './children.ts'
import { helpText, parseFlags, UsageError, type Settings } from './flags.ts'
import { paired } from './paired.ts'
import { patterns } from './patterns.ts'
import { machine } from './proc.ts'
import { digits, markdown, type Head } from './report.ts'
import { run, takesPart, type RunResult } from './run.ts'
import { figures, summarize } from './statistics.ts'
import { systems, versionOf } from './systems.ts'

const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-bench-'))
process.on('exit', () => {
  killAll()
  rmSync(folder, { recursive: true, force: true })
})
for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
  ['SIGHUP', 129],
] as const)
  process.on(signal, () => process.exit(code))

function packageVersion(name: string): string {
  const entry = createRequire(import.meta.url).resolve(name)
  const file =
    entry.slice(0, entry.lastIndexOf(`node_modules/${name}/`)) + `node_modules/${name}/package.json`
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version
}

function headOf(settings: Settings, argv: readonly string[], mosquitto: string | undefined): Head {
  const redis = /v=(\S+)/.exec(versionOf('redis-server', '--version') ?? '')?.[1]
  const packages = ['aedes', 'mqemitter-redis', 'aedes-persistence-redis', 'ioredis']
  return {
    date: new Date().toISOString(),
    command: ['npm run bench --', ...argv].join(' '),
    machine: machine(),
    versions: {
      node: process.version,
      redis: redis ?? 'not found',
      mosquitto: mosquitto ?? 'not installed',
      ...Object.fromEntries(packages.map((name) => [name, packageVersion(name)])),
    },
    settings: {
      rounds: settings.rounds,
      seconds: settings.seconds,
      'warm-up': settings.warm,
      payload: settings.payload,
      appendfsync: settings.fsync,
    },
  }
}

function progress(result: RunResult): void {
  const rate = figures.perSecond(result)
  const micros = figures.cpuMicros(result)
  const figure =
    rate === undefined
      ? ''
      : ` ${digits(rate)} msg/s${micros === undefined || !Number.isFinite(micros) ? '' : `, ${digits(micros)} µs/msg`}`
  const trouble = result.status === 'ok' ? '' : ` ${result.status}: ${result.detail ?? ''}`
  process.stderr.write(
    `${result.round} ${result.pattern.padEnd(28)} ${result.system.padEnd(10)}${figure}${(result.lost ?? 0) > 0 ? `, lost ${result.lost}` : ''}${trouble}\n`,
  )
}

async function bench(settings: Settings, mosquitto: string | undefined): Promise<RunResult[]> {
  const chosen = [
    ...systems.filter(
      ({ name }) => settings.systems.includes(name) && (name !== 'mosquitto' || mosquitto !== undefined),
    ),
    ...settings.further,
  ]
  const results: RunResult[] = []
  for (let round = 1; round <= settings.rounds; round++) {
    for (const pattern of patterns.filter(({ name }) => settings.patterns.includes(name))) {
      for (const system of chosen.filter((system) => takesPart(system, pattern))) {
        const result = await run(system, pattern, round, {
          payloadBytes: settings.payload,
          warmMs: settings.warm * 1000,
          windowMs: settings.seconds * 1000,
          fsync: settings.fsync,
          folder,
        })
        progress(result)
        results.push(result)
      }
    }
  }
  return results
}

async function main(argv: readonly string[]): Promise<void> {
  const settings = parseFlags(argv)
  if (settings === 'help') {
    process.stdout.write(helpText())
    return
  }
  if (settings.paired) return void process.stdout.write(await paired(settings, folder))
  const mosquitto = /mosquitto version (\S+)/.exec(versionOf('mosquitto', '-h') ?? '')?.[1]
  const head = headOf(settings, argv, mosquitto)
  const results = await bench(settings, mosquitto)
  const summaries = summarize(results)
  const budgets = verdicts(summaries, mosquitto)
  const text = markdown(head, summaries, budgets)
  mkdirSync(settings.out, { recursive: true })
  writeFileSync(
    join(settings.out, 'bench.json'),
    JSON.stringify({ ...head, summaries, budgets, runs: results }, undefined, 2) + '\n',
  )
  writeFileSync(join(settings.out, 'bench.md'), text)
  process.stdout.write(text)
}

main(process.argv.slice(2)).catch((error: unknown) => {
  if (!(error instanceof UsageError)) console.error(error)
  else process.stderr.write(`bench: ${error.message}\n`)
  process.exitCode = error instanceof UsageError ? 2 : 1
})
