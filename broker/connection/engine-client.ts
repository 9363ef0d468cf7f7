// What answers CONNECT, SUBSCRIBE and UNSUBSCRIBE of a connection and watches its Keep Alive, in the words of the
// standard. The packets go in here; what it answers comes out as `onConnack`, `onSuback` and `onDisconnect`
// of the connection. broker/aedes/aedes-client.ts is the one there is: nothing else of a connection knows Aedes. No state.

export interface EngineClient {
  // In

  /** CONNECT, whole and in order. Answered by CONNACK, unless the connection is over before. */
  connect(frame: Buffer): void
  /** SUBSCRIBE; answered by SUBACK. The next one comes after the answer. */
  subscribe(frame: Buffer): void
  /** UNSUBSCRIBE; answered by UNSUBACK (`onSuback`). */
  unsubscribe(frame: Buffer): void
  /** Any packet came: Keep Alive starts anew [MQTT-3.1.2-22]. */
  heard(): void
  /** It broke the rules, or its socket failed: it ends, and the log says why. */
  fail(error: Error): void
  /** Tells the client to go, where its protocol has a DISCONNECT for that, and closes. */
  disconnect(reasonCode: number, reason: string): void
  /** Ends it without a word. */
  close(): void

  // What CONNECT asked for

  /** Client Identifier; '' before CONNECT. */
  readonly clientId: string
  readonly receiveMaximum: number
  readonly maximumPacketSize: number | undefined
  /** It is closed, or being closed: nothing more goes in. */
  readonly isClosed: boolean
}
