// The benchmark itself: its arithmetic, its flags, its frames, and one real run of it. No figure is compared
// with a time.
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { promisify } from 'node:util'
import { describe, expect, test } from 'vitest'
import { readPids } from '../support/processes.ts'
import { verdicts } from './budgets.ts'
import { parseFlags, UsageError } from './flags.ts'
import { digits, spreadText } from './report.ts'
import type { RunResult } from './run.ts'
import { spread, summarize, type Summary } from './statistics.ts'
import { FrameScanner, PublishFrames, Pubacks } from './wire.ts'

interface Report {
  readonly summaries: readonly Summary[]
  readonly runs: readonly RunResult[]
}

const bench = (...argv: string[]): Promise<{ stdout: string }> =>
  promisify(execFile)(process.execPath, ['dist/test/bench/main.js', ...argv])

const result = (system: string, delivered: number, broker: number): RunResult => ({
  system,
  pattern: 'qos1-pair-across',
  round: 1,
  status: 'ok',
  lost: 1,
  due: delivered,
  window: { seconds: 2, delivered, cpu: { broker, redis: 1000, load: 500, machine: 60_000 } },
})

describe('figures', () => {
  test('a spread is the median with the extremes', () => {
    expect(spread([])).toBeUndefined()
    expect(spread([undefined, NaN, 3])).toEqual({ median: 3, min: 3, max: 3 })
    expect(spread([9, 1, 2])).toEqual({ median: 2, min: 1, max: 9 })
    expect(spread([4, 1, 2, 9])).toEqual({ median: 3, min: 1, max: 9 })
  })

  test('systems are compared by messages per CPU second of brokers and Redis', () => {
    const [ours, stock] = summarize([
      result('ours', 1000, 4000),
      result('stock', 1000, 49_000),
      result('ours', 1000, 4000),
    ])
    expect(ours).toMatchObject({
      system: 'ours',
      runs: 2,
      lost: 2,
      due: 2000,
      timesStock: 10,
      troubles: [],
      figures: {
        cpuMicros: { median: 5, min: 5, max: 5 },
        brokerMicros: { median: 4 },
        perSecond: { median: 500 },
      },
    })
    expect(stock).not.toHaveProperty('timesStock')
    expect(verdicts([ours!, stock!], undefined)).toEqual([
      {
        budget: 'B2 two nodes against stock, QoS 1: messages per CPU second',
        wanted: '≥ 15x',
        measured: 10,
        met: false,
      },
      { budget: 'B3 CPU per message across nodes, QoS 1', wanted: '≤ 14 µs', measured: 5, met: true },
    ])
  })

  test('overload, failover and a million things are held against their budgets', () => {
    const base = { system: 'ours', round: 1, status: 'ok', lost: 0, due: 10 } as const
    const summaries = summarize([
      {
        ...base,
        pattern: 'overload-across',
        overload: { p99Without: 2, p99With: 5, growthMiB: 20, floodMBPerSecond: 16, ended: 1 },
      },
      { ...base, pattern: 'failover', resume: { p50: 10, p99: 90, max: 100, sessionsGone: 1 } },
      { ...base, pattern: 'many-subscriptions', start: { seconds: 5, bytesEach: 401 } },
      { ...base, pattern: 'many-retained', wildcard: { p50: 1, p99: 9, max: 20, missing: 0 } },
    ])
    expect(
      verdicts(summaries, undefined).map(({ budget, measured, met }) => [
        budget.slice(0, 3).trim(),
        measured,
        met,
      ]),
    ).toEqual([
      ['B6', 9, true],
      ['B7', 5, true],
      ['B7', 401, false],
      ['B9', 2.5, false],
      ['B9', 20, true],
      ['B10', 100, true],
      ['B10', 1, false],
    ])
  })

  test('a run without a window has no figures but its trouble', () => {
    const [summary] = summarize([
      { system: 'stock', pattern: 'qos0-fan-out-same', round: 1, status: 'crashed', detail: 'RangeError' },
    ])
    expect(summary).toMatchObject({ troubles: ['crashed: RangeError'], figures: {} })
  })

  test('numbers have three digits', () => {
    expect([0, 1.2345, 12.345, 357_123, 0.012345].map(digits)).toEqual([
      '0',
      '1.23',
      '12.3',
      '357,000',
      '0.012',
    ])
    expect(spreadText({ median: 2, min: 1, max: 3 })).toBe('2.00 (1.00–3.00)')
  })
})

describe('flags', () => {
  test('defaults, --quick, lists in the order of the tables', () => {
    expect(parseFlags([])).toMatchObject({ rounds: 3, seconds: 3, warm: 1, payload: 64, fsync: 'everysec' })
    expect(parseFlags(['--quick', '--systems=stock,ours', '--fsync', 'always'])).toMatchObject({
      rounds: 1,
      seconds: 1,
      systems: ['ours', 'stock'],
      fsync: 'always',
    })
  })

  test.each([
    ['--speed'],
    ['fast'],
    ['--rounds'],
    ['--rounds', '0'],
    ['--rounds', '1.5'],
    ['--systems', 'emqx'],
    ['--nodes', '24'],
    ['--payload', 'x'],
    ['--fsync', 'no'],
  ])('%s %s is refused in one line', (...argv) => {
    expect(() => parseFlags(argv)).toThrow(UsageError)
    expect(() => parseFlags(argv)).toThrow(/^.+$/)
  })

  test('what is refused is said on standard error, and ends it with exit code 2', async () => {
    await expect(bench('--rounds', '0')).rejects.toMatchObject({
      code: 2,
      stdout: '',
      stderr: expect.stringMatching(/^bench: .+\n$/) as string,
    })
  })
})

test('frames cut anywhere are scanned whole', () => {
  const seen: string[] = []
  const scanner = new FrameScanner({
    onPublish: (buffer, qos, messageId, at) => {
      seen.push(
        `publish ${qos} ${messageId} ${buffer.readUInt32BE(at)} ${buffer.readUInt32BE(at + 4)} ${buffer.readDoubleBE(at + 8)}`,
      )
    },
    onPuback: (messageId) => {
      seen.push(`puback ${messageId}`)
    },
    onControl: (type, body) => {
      seen.push(`${type} ${body.toString('hex')}`)
    },
  })
  const pubacks = new Pubacks()
  pubacks.add(513)
  const bytes = Buffer.concat([
    new PublishFrames(7, 'a/b', 1, 200, 4).take(2, 65_535, 1.5),
    pubacks.take()!,
    Buffer.from([0x20, 2, 0, 0]),
  ])
  for (let i = 0; i < bytes.length; i++) scanner.scan(bytes.subarray(i), 1)
  scanner.scan(bytes, bytes.length)
  const once = ['publish 1 1 7 65535 1.5', 'publish 1 2 7 65536 1.5', 'puback 513', '2 0000']
  expect(seen).toEqual([...once, ...once])
})

test('a node is killed and its clients resume: nothing is lost, nothing left running', async () => {
  const out = mkdtempSync(join(tmpdir(), 'bench-test-'))
  await bench(
    '--rounds',
    '1',
    '--seconds',
    '0.3',
    '--warm',
    '0.3',
    '--patterns',
    'failover',
    '--systems',
    'ours',
    '--out',
    out,
  )
  const { summaries } = JSON.parse(readFileSync(join(out, 'bench.json'), 'utf8')) as Report
  rmSync(out, { recursive: true })
  expect(summaries[0]).toMatchObject({
    troubles: [],
    lost: 0,
    misordered: 0,
    figures: { sessionsGone: { max: 0 } },
  })
  expect(
    readPids().filter(({ command }) => /--prefix bench |bench\/(stock-node|load)\.js/.test(command)),
  ).toEqual([])
}, 30_000)

test('a real run: figures for both systems, nothing of ours lost, nothing left running', async () => {
  const out = mkdtempSync(join(tmpdir(), 'bench-test-'))
  const { stdout } = await bench(
    '--quick',
    '--seconds',
    '0.4',
    '--patterns',
    'qos1-pair-across',
    '--systems',
    'ours,stock',
    '--warm',
    '0.3',
    '--out',
    out,
  )
  const { summaries, runs } = JSON.parse(readFileSync(join(out, 'bench.json'), 'utf8')) as Report
  rmSync(out, { recursive: true })
  expect(runs.map(({ system, status }) => [system, status])).toEqual([
    ['ours', 'ok'],
    ['stock', 'ok'],
  ])
  for (const { window } of runs) expect(window!.delivered).toBeGreaterThan(0)
  expect(summaries[0]).toMatchObject({ system: 'ours', lost: 0, duplicates: 0, misordered: 0, wrongQos: 0 })
  expect(summaries[0]!.figures.cpuMicros!.median).toBeGreaterThan(0)
  expect(stdout).toMatch(/^# Benchmark\n[^]*\| qos1-pair-across \| ours \|/)
  expect(
    readPids().filter(({ command }) => /--prefix bench |bench\/(stock-node|load)\.js/.test(command)),
  ).toEqual([])
}, 30_000)
