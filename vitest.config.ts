import { defineConfig } from 'vitest/config'
import { BaseSequencer, type TestSpecification } from 'vitest/node'

/** What must hold on Redis Cluster as it does on one Redis: these files run on both. */
const onBoth = ['service', 'sessions', 'semantics'].map((name) => `test/cluster/${name}.test.ts`)

/** And what of it takes longer. */
const onBothLong = ['order', 'subscribed-everywhere', 'readiness'].map(
  (name) => `test/cluster/${name}.test.ts`,
)

/** What holds of a node without Redis. */
const onMemory = [
  ...['service', 'semantics', 'replay', 'groups'].map((name) => `test/cluster/${name}.test.ts`),
  ...['resumed-session', 'order-on-two-topics'].map((name) => `test/situations/${name}.test.ts`),
  ...['semantics5', 'malformed', 'tolerated', 'levels'].map((name) => `test/conformance/${name}.test.ts`),
  'test/situations/bounds.test.ts',
]

/** And what of it takes longer. */
const onMemoryLong = [
  ...['order', 'subscribed-everywhere', 'void-will'].map((name) => `test/cluster/${name}.test.ts`),
  'test/situations/*.test.ts',
]

/**
 * What these look at inside Aedes and mqtt-packet, engine.ts replaces: nothing else is loaded beside them.
 */
const contracts = ['engine', 'aedes-client'].map((name) => `test/conformance/${name}.test.ts`)

/** What takes longest, longest first: none of them is left for the end, when the others have nothing to do. */
const slow = [
  ...['cluster/pack', 'cluster/cli', 'fault/points', 'fault/ledger/ledger', 'fault/redis-away'],
  ...['fault/refused', 'fault/frozen-node', 'fault/connect-away', 'cluster/replay', 'fault/bounds'],
  ...['bridge/damage', 'situations/retained-beside-subscribe', 'fault/fairness', 'cluster/sessions'],
  ...['situations/bounds', 'bench/bench', 'conformance/statements', 'unit/config', 'cluster/access'],
].map((name) => `/test/${name}.test.ts`)

/** A project after the other, since a worker serves one; the largest at last. */
class SlowFirst extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const place = ({ moduleId }: TestSpecification): number => {
      const at = slow.findIndex((name) => moduleId.endsWith(name))
      return at < 0 ? slow.length : at
    }
    const isLargest = ({ project }: TestSpecification): number => Number(project.name === 'redis')
    const sorted = await super.sort(files)
    return sorted.sort(
      (a, b) =>
        isLargest(a) - isLargest(b) ||
        (a.project === b.project ? place(a) - place(b) : a.project.name < b.project.name ? -1 : 1),
    )
  }
}

export default defineConfig({
  test: {
    sequence: { sequencer: SlowFirst },
    globalSetup: ['test/support/setup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    expect: { poll: { timeout: 20_000, interval: 20 } },
    pool: 'forks',
    maxWorkers: 3, // of two cores: much of the suite waits for faults
    isolate: false, // a worker loads the modules once, not for each file
    projects: [
      {
        extends: true,
        test: { name: 'redis', include: ['test/**/*.test.ts'], exclude: ['test/long/**', ...contracts] },
      },
      { extends: true, test: { name: 'contracts', include: contracts, isolate: true, restoreMocks: true } },
      {
        extends: true,
        test: { name: 'redis-cluster', include: onBoth, env: { TEST_STORE: 'redis-cluster' } },
      },
      { extends: true, test: { name: 'memory', include: onMemory, env: { TEST_STORE: 'memory' } } },
      {
        extends: true,
        test: { name: 'long-memory', include: onMemoryLong, env: { TEST_STORE: 'memory' }, maxWorkers: 1 },
      },
      {
        extends: true,
        test: {
          name: 'long-redis-cluster',
          include: onBothLong,
          env: { TEST_STORE: 'redis-cluster' },
          maxWorkers: 1,
        },
      },
      {
        extends: true,
        test: { name: 'long', include: ['test/long/*.test.ts'], maxWorkers: 1, isolate: true },
      },
    ],
  },
})
