// The last value of each topic on a page: http://127.0.0.1:8080/
//   node broker/examples/dashboard.mjs [mqtt://127.0.0.1:1883] [port]
import { createServer } from 'node:http'
import { createNode } from 'aedes-cluster'

const topicsMax = 10_000 // what clients publish has no bound of its own
const values = new Map()
const escape = (text) => text.replaceAll(/[&<>"]/g, (character) => `&#${character.charCodeAt(0)};`)

const [listen = 'mqtt://127.0.0.1:1883', port = '8080'] = process.argv.slice(2)
const node = await createNode({ listen: [listen] })
await node.subscribe('devices/#', ({ topic, payload }) => {
  if (values.has(topic) || values.size < topicsMax) values.set(topic, payload.toString())
})
const server = createServer((request, response) => {
  const rows = [...values].sort().map((row) => `<tr><td>${row.map(escape).join('<td>')}`)
  response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' })
  response.end(`<!doctype html><meta http-equiv="refresh" content="1"><table>${rows.join('\n')}</table>\n`)
})
server.listen(Number(port), '127.0.0.1', () =>
  console.log(`listens at ${node.endpoints} http://127.0.0.1:${server.address().port}`),
)
