// Retained Messages that are published while 100,000 are being sent: the normal suite has 4,000.
process.env.TEST_REPLAY = 'all'
await import('../cluster/replay.test.ts')
