// For embedding a node in a program of your own: `const node = await createNode({ id: 'a', listen:
// ['mqtt://127.0.0.1:1883'] })`.
import { loadConfig, type NodeOptions } from './config/config.ts'
import { Node } from './node.ts'

export { OperatorError } from './errors.ts'
export { Node } from './node.ts'
export type { Config, ListenerConfig, ListenerOptions, NodeOptions } from './config/config.ts'
export type { LocalMessage, PublishOptions } from './routing/local-messages.ts'

/**
 * Starts one node and resolves when it serves clients. Options as in broker/README.md, in sections or by their names; the environment is not
 * read.
 * @throws OperatorError naming the field, the value and what to do
 */
export async function createNode(options: NodeOptions): Promise<Node> {
  return Node.start(loadConfig(options, {}, [], (name) => name))
}
