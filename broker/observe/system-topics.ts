// What is told under $SYS/, on the control plane: Aedes' heartbeat of a node and, where the operator wants
// it, who comes, goes and subscribes. Nobody is asked who may subscribe there, so that by default nothing
// names a client or a filter.
import type { Config } from '../config/config.ts'

const namesNobody = /^\$SYS\/[^/]+\/(birth|heartbeat)$/

/** Whether a topic under $SYS/ is told, by this node and to its clients. */
export const isTold = ({ sysEvents }: Pick<Config, 'sysEvents'>): ((topic: string) => boolean) =>
  sysEvents === 'on' ? () => true : (topic) => namesNobody.test(topic)
