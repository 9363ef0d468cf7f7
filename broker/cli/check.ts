// `aedes-cluster check`: prints the effective configuration as YAML, secrets hidden, and tries it: are the addresses
// free, does Redis answer? `--offline` only validates.
import { createServer } from 'node:net'
import { ping, withoutRedisPassword } from '../../bridge/index.ts'
import { loadConfig, redisUrlWithPassword, showConfig } from '../config.ts'
import { OperatorError } from '../errors.ts'
import { bind, readTls } from '../listeners/listener.ts'
import { parseArguments } from './arguments.ts'
import { nodeFlags } from './node.ts'

/** @throws OperatorError for the first thing that a node would stumble over */
export async function check(argv: readonly string[]): Promise<void> {
  const { offline, ...flags } = parseArguments(argv, { ...nodeFlags, offline: { switch: true } })
  const config = loadConfig(flags, process.env)
  process.stdout.write(showConfig(config))
  if (config.tlsCert !== undefined && config.tlsKey !== undefined) readTls(config)
  if (offline === true) return
  const addresses = config.admin === 'off' ? config.listen : [...config.listen, config.admin]
  for (const address of addresses) {
    const server = createServer()
    await bind(server, new URL(address), address === config.admin ? '--admin' : '--listen', 0)
    server.close()
  }
  await ping(redisUrlWithPassword(config), config.redisTimeoutMs).catch((error: unknown) => {
    throw new OperatorError((error as Error).message, { reason: 'redis', field: '--redis', value: withoutRedisPassword(config.redis), hint: 'Start Redis and check address, password and network', cause: error })
  })
}
