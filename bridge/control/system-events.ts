// What the control plane carries: what may be missed once, heard on every node. No state.

export interface SystemEvents {
  /** Hears what is emitted on any node, this one included. @returns ends it */
  on(filter: string, listener: (topic: string, payload: Buffer) => void): () => void
  emit(topic: string, payload: Buffer): void
}
