// Devices for a test of what reads them: a hundred that report a temperature, without a network between them and the
// broker. `publish` resolves when the message is stored, so nobody has to be slowed down by hand.
//   node broker/examples/simulator.mjs [mqtt://127.0.0.1:1883] [devices]
import { createNode } from 'aedes-cluster'

const [listen = 'mqtt://127.0.0.1:1883', devices = '100'] = process.argv.slice(2)
const node = await createNode({ listen: [listen] })
console.log(`listens at ${node.endpoints}`)

async function report(device) {
  for (let i = 0; ; i++) {
    const celsius = 20 + 5 * Math.sin(device + i / 10)
    await node.publish(`devices/${device}/temperature`, celsius.toFixed(1), { qos: 1, retain: true })
    await new Promise((resolve) => setTimeout(resolve, 1_000))
  }
}

await Promise.all(Array.from({ length: Number(devices) }, (_, device) => report(device)))
