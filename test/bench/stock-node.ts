// One node of the stock stack, as the READMEs of its packages say: Aedes with mqemitter-redis and
// aedes-persistence-redis on a TCP listener of node:net, nothing tuned. The benchmark's peer for two nodes.
// Usage: stock-node.js ID REDIS_PORT [PORT]. It ends with the process that started it.
import { createServer, type AddressInfo } from 'node:net'
import { createRequire } from 'node:module'
import { Aedes } from 'aedes'

type Factory = (options: { host: string; port: number }) => unknown

const require = createRequire(import.meta.url)
const load = (name: string): Factory => {
  const module = require(name) as Factory | { default: Factory }
  return typeof module === 'function' ? module : module.default
}

const [id = 'stock', port = '6379', listen = '0'] = process.argv.slice(2)
const redis = { host: '127.0.0.1', port: Number(port) }
const broker = await Aedes.createBroker({
  id,
  mq: load('mqemitter-redis')(redis),
  persistence: load('aedes-persistence-redis')(redis),
})
const server = createServer(broker.handle)
server.listen(Number(listen), '127.0.0.1', () => {
  process.send?.({ listen: [`mqtt://127.0.0.1:${(server.address() as AddressInfo).port}`] })
})
process.on('disconnect', () => process.exit(0))
