// The load process' word to the process that started the nodes (run.ts): kill a node, start one more.
import { once } from 'node:events'
import type { NodeAnswer, NodeOrder } from './patterns.ts'

export async function orderNode(order: NodeOrder['order'], node: number): Promise<NodeAnswer> {
  const answered = once(process, 'message') as Promise<[NodeAnswer]>
  process.send!({ order, node } satisfies NodeOrder)
  return (await answered)[0]
}
