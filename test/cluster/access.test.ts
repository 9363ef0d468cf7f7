// Who may connect and do what (broker/access/), from outside: real clients against nodes in this process.
import { afterAll, describe, expect, test } from 'vitest'
import { createNode, type Hooks, type Node, type NodeOptions } from '../../broker/index.ts'
import { WireClient } from '../support/wire.ts'

const nodes: Node[] = []
afterAll(async () => {
  await Promise.all(nodes.map((node) => node.close()))
})

async function serve(options: NodeOptions = {}, hooks: Hooks = {}): Promise<{ node: Node; url: string }> {
  const node = await createNode(
    { ...(options.listeners === undefined ? { listen: ['mqtt://127.0.0.1:0'] } : {}), ...options },
    hooks,
  )
  nodes.push(node)
  return { node, url: node.endpoints[0]! }
}

const connackOf = async (url: string, username?: string, password?: string): Promise<number> => {
  await using client = await WireClient.connect(url, 'client', {
    ...(username === undefined ? {} : { username }),
    ...(password === undefined ? {} : { password: Buffer.from(password) }),
  })
  return client.connack.reasonCode!
}

describe('the chain of a listener', () => {
  test('a node that others can reach does not start before somebody has said who may connect', async () => {
    const elsewhere = { listen: ['mqtt://0.0.0.0:0'] }
    await expect(createNode(elsewhere)).rejects.toThrow(
      'can be reached by others, and nobody is asked who he is. Write authentication anonymous',
    )
    const [own] = [{ listeners: [{ url: 'mqtt://127.0.0.1:0' }, { url: 'mqtt://0.0.0.0:0' }] }]
    await expect(createNode(own)).rejects.toThrow('Write authentication: anonymous')
  })

  test('each listener has its own; hooks are links of it', async () => {
    const asked: (string | undefined)[] = []
    const { node, url } = await serve(
      { listeners: [{ url: 'mqtt://127.0.0.1:0', authentication: ['hooks'] }, 'mqtt://127.0.0.1:0'] },
      {
        authenticate: (client, username, _password, callback) => {
          asked.push(client.user)
          callback(null, username !== 'bad')
        },
      },
    )
    expect([await connackOf(url, 'good'), await connackOf(url, 'bad')]).toEqual([0, 0x87])
    expect(asked).toEqual(['good', 'bad'])
    // a chain without them: they may still say no, of somebody whose name nobody has proved
    expect(await connackOf(node.endpoints[1]!, 'bad')).toBe(0x87)
    expect(asked).toEqual(['good', 'bad', undefined])
    node.authenticate = undefined
    expect([await connackOf(url), await connackOf(url, 'good')]).toEqual([0x87, 0x86])
    expect(await connackOf(node.endpoints[1]!, 'bad')).toBe(0)
  })
})
