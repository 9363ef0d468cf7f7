// For embedding a node in a program of your own: `const node = await createNode({ id: 'a', listen:
// ['mqtt://127.0.0.1:1883'] })`.
import { loadConfig, type Config } from './config/config.ts'
import { Node } from './node.ts'

export { OperatorError } from './errors.ts'
export { Node } from './node.ts'
export type { Config } from './config/config.ts'
export type { LocalMessage, PublishOptions } from './routing/local-messages.ts'

/**
 * Starts one node and resolves when it serves clients. Options as in broker/README.md; the environment is not
 * read.
 * @throws OperatorError naming the field, the value and what to do
 */
export async function createNode(options: Partial<Config>): Promise<Node> {
  return Node.start(loadConfig(options, {}, [], (name) => name))
}
