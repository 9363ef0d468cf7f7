// MQTT over WebSocket beside the routes of an HTTP server, and a message from who has no MQTT:
//   node broker/examples/fastify.mjs [port]
//   curl -d 'on' http://127.0.0.1:8080/lamp
// Fastify and Express have the server of node:http under them. With Fastify: `const app = Fastify(); await app.ready();
// mqttOver(app.server, node)`.
import { createServer } from 'node:http'
import { createNode } from 'aedes-cluster'
import { createWebSocketStream, WebSocketServer } from 'ws'

/** Serves MQTT at `path` of an HTTP server, whoever made it. */
function mqttOver(server, node, path = '/mqtt') {
  const webSockets = new WebSocketServer({ noServer: true, handleProtocols: () => 'mqtt' })
  server.on('upgrade', (request, socket, head) => {
    if (request.url !== path) return socket.destroy()
    webSockets.handleUpgrade(request, socket, head, (webSocket) =>
      node.handle(createWebSocketStream(webSocket), request),
    )
  })
}

const [port = '8080'] = process.argv.slice(2)
const node = await createNode()
const server = createServer(async (request, response) => {
  let text = ''
  for await (const chunk of request.setEncoding('utf8')) text += chunk
  try {
    await node.publish(request.url.slice(1), text, { qos: 1, retain: true }) // stored, for everybody
    response.writeHead(202).end()
  } catch (error) {
    response.writeHead(400).end(`${error.message}\n`)
  }
})
mqttOver(server, node)
server.listen(Number(port), '127.0.0.1', () =>
  console.log(`listens at http://127.0.0.1:${server.address().port}`),
)
