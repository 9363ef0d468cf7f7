// What the node's tuning of V8 rests on: that V8 does this without it, and not with it. Each in a process of
// its own, since flags are the process's. The other flag has no test: when a full collection begins is up to
// V8's tasks; BENCHMARKS.md has figures.
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { expect, test, vi } from 'vitest'
import { startFlags } from '../../broker/cli/collector.ts'

const collector = fileURLToPath(new URL('../../dist/broker/cli/collector.js', import.meta.url))

/** Some seconds of a core, and many more at the lowest priority (test/versions.ts). */
vi.setConfig({ testTimeout: 240_000 })

/** Objects that outlive a scavenge or two, as messages do that wait for Redis. */
const load = `
  const kept = []
  const make = (i) => ({ i, list: [i] })
  for (let round = 0; round < 60; round++) {
    const batch = []
    for (let i = 0; i < 20_000; i++) batch.push(make(i))
    kept.push(batch)
    if (kept.length > 8) kept.shift()
  }`

const decisions = (program: string): number =>
  execFileSync(process.execPath, ['--trace-pretenuring-statistics', '--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
    .split('\n')
    .filter((line) => line.includes('AllocationSite')).length

test('V8 decides where to allocate by what survived, but not in a node', () => {
  expect(decisions(load)).toBeGreaterThan(0)
  expect(
    decisions(`import { tuneCollector } from ${JSON.stringify(collector)}; tuneCollector();${load}`),
  ).toBe(0)
})

test('the young generation of a node that `up` starts stays within 32 MiB on every Node', () => {
  const longer = load
    .replace('round < 60', 'round < 150')
    .replace('kept.push(batch)', 'kept.push(batch); look()')
  const program = `import { getHeapSpaceStatistics } from 'node:v8'
    let most = 0
    const look = () => {
      const { space_size } = getHeapSpaceStatistics().find(({ space_name }) => space_name === 'new_space')
      most = Math.max(most, space_size)
    }
    ${longer}
    console.log(most)`
  const most = execFileSync(process.execPath, [...startFlags(), '--input-type=module', '-e', program], {
    encoding: 'utf8',
  })
  expect(Number(most)).toBeLessThanOrEqual(32 * 2 ** 20)
})
