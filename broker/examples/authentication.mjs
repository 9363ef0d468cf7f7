// User names, passwords and rules from a database. Here it is a Map that answers later, as a database does; passwords
// stand in it as scrypt makes them.
//   node broker/examples/authentication.mjs [mqtt://127.0.0.1:1883]
import { randomBytes, scrypt as scryptWithCallback, timingSafeEqual } from 'node:crypto'
import { setImmediate as roundTrip } from 'node:timers/promises'
import { promisify } from 'node:util'
import { createNode } from 'aedes-cluster'

const scrypt = promisify(scryptWithCallback)
const rows = new Map()

async function addUser(name, password, filters) {
  const salt = randomBytes(16)
  rows.set(name, { salt, hash: await scrypt(password, salt, 32), filters })
}

async function findUser(name) {
  await roundTrip()
  return rows.get(name)
}

const badPassword = () => Object.assign(new Error('bad user name or password'), { returnCode: 4 })

const [listen = 'mqtt://127.0.0.1:1883'] = process.argv.slice(2)
await addUser('anna', 'secret', ['plant/#'])
const node = await createNode(
  { listen: [listen] },
  {
    // A hook that rejects refuses: with a database that is away nobody comes in.
    authenticate: async (client, username = '', password = '', callback) => {
      const user = await findUser(username)
      const isRight = user !== undefined && timingSafeEqual(user.hash, await scrypt(password, user.salt, 32))
      if (!isRight) return callback(badPassword())
      client.username = username // the same client comes with each hook
      callback(null, true)
    },
    authorizeSubscribe: async (client, subscription, callback) => {
      const { filters } = await findUser(client.username)
      callback(null, filters.includes(subscription.topic) ? subscription : null)
    },
  },
)
console.log(`listens at ${node.endpoints}`)
