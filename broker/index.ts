// For embedding a node in a program of your own: `const node = await createNode({ id: 'a', redis: 'redis://…' })`,
// with Aedes' hooks and events; and `Aedes`, for a program that was written for Aedes (broker/EMBEDDING.md).
import type { NodeOptions } from './config/config.ts'
import { EmbeddedNode } from './embedding/embedded-node.ts'
import type { Hooks } from './embedding/hooks.ts'

export { OperatorError } from './operator-errors.ts'
export { Aedes, type AedesOptions } from './embedding/aedes.ts'
export { EmbeddedNode as Node, type NodeEvents } from './embedding/embedded-node.ts'
export type { Client } from './embedding/hook-client.ts'
export { scramSha256 } from './embedding/scram-hook.ts'
export { scramKeys, type ScramKeys } from './access/scram.ts'
export type { AuthenticateError, Hooks } from './embedding/hooks.ts'
export type { AedesPublishPacket, PublishPacket } from './embedding/hook-packets.ts'
export type { Config, ListenerConfig, ListenerOptions, NodeOptions } from './config/config.ts'
export type { LocalMessage, PublishOptions } from './routing/local-messages.ts'

/**
 * Starts one node and resolves when it serves clients. Options as in broker/README.md, in sections or by
 * their names; the environment is not read. Without `listen` or `listeners` it listens nowhere: the program
 * hands in connections (`handle`).
 * @throws OperatorError naming the field, the value and what to do
 */
export async function createNode(options: NodeOptions = {}, hooks: Hooks = {}): Promise<EmbeddedNode> {
  return new EmbeddedNode(options, hooks).start()
}
