// A broker in a program: it listens for devices, says who may do what, and reads along.
//   node broker/examples/embedded.mjs [mqtt://127.0.0.1:1883]
import { createNode } from 'aedes-cluster'

const [listen = 'mqtt://127.0.0.1:1883'] = process.argv.slice(2)
const node = await createNode(
  { listen: [listen] },
  {
    // a client may publish below its own name only; also its will, which comes when it is gone
    authorizePublish: (client, packet, callback) => {
      const isOwn = packet.topic.startsWith(`devices/${packet.clientId}/`)
      callback(isOwn ? null : new Error(`${packet.topic} is not its own`))
    },
  },
)
node.on('clientReady', ({ id }) => console.log(`${id} is here`))
node.on('clientDisconnect', ({ id }) => console.log(`${id} is gone`))
await node.subscribe('devices/+/temperature', ({ topic, payload }) => console.log(`${topic} ${payload}`))
console.log(`listens at ${node.endpoints}`)
