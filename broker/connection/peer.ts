// Who is at the other end of a connection where the socket does not say it: a proxy does, by PROXY protocol
// (broker/listeners/proxy-header.ts). No state.

/** What a proxy says of the TLS that it has ended. */
export interface PeerTls {
  /** `TLSv1.3` */
  readonly version: string | undefined
  readonly cipher: string | undefined
  /** The server name that the client asked for. */
  readonly serverName: string | undefined
  /** The client showed a certificate, and the proxy found it valid. */
  readonly isVerified: boolean
  /** Of a valid certificate. */
  readonly commonName: string | undefined
  /** The valid certificate itself, DER, where the proxy hands it on. */
  readonly certificate: Buffer | undefined
}

export interface Peer {
  /** As `plainAddress` has it. */
  readonly address: string
  readonly port: number
  /** Undefined: the proxy says nothing of TLS, or there was none. */
  readonly tls: PeerTls | undefined
}
