import { defineConfig } from 'vitest/config'

/** What must hold on Redis Cluster as it does on one Redis: these files run on both. */
const onBoth = ['service', 'sessions', 'semantics', 'order', 'subscribed-everywhere', 'readiness'].map((name) => `test/cluster/${name}.test.ts`)

export default defineConfig({
  test: {
    globalSetup: ['test/support/setup.ts'],
    testTimeout: 60_000,
    hookTimeout: 60_000,
    expect: { poll: { timeout: 20_000 } },
    pool: 'forks',
    maxWorkers: 2,
    projects: [
      { extends: true, test: { name: 'redis', include: ['test/**/*.test.ts'], exclude: ['test/long/**'] } },
      { extends: true, test: { name: 'redis-cluster', include: onBoth, env: { TEST_STORE: 'redis-cluster' } } },
      { extends: true, test: { name: 'long', include: ['test/long/*.test.ts'], maxWorkers: 1 } },
    ],
  },
})
