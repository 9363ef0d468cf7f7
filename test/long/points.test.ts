// A node is killed before and after every script, all of them in one run: the normal suite takes four at a
// time.
process.env.TEST_POINTS = 'all'
await import('../fault/points.test.ts')
