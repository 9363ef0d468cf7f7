// P2 under attack, 2,000 rounds of each kind: the normal suite takes fewer.
process.env.TEST_ROUNDS = 'all'
await import('../cluster/subscribed-everywhere.test.ts')
