// Whose certificate has been revoked while he was connected: who connects is found by OpenSSL, in his handshake. State: the
// lists of each file, as it was read last.
import { namedIn, readRevocationLists, type RevocationList } from './revocation-lists.ts'

export interface Revocable {
  readonly listener: { readonly tlsCrl?: string | undefined } | undefined
}

export class Revocations<Client extends Revocable> {
  readonly #shownBy: (client: Client) => Buffer | undefined
  #lists = new Map<string, readonly RevocationList[]>()

  /** @param shownBy the certificate that a client has shown in its handshake with us, DER */
  constructor(shownBy: (client: Client) => Buffer | undefined) {
    this.#shownBy = shownBy
  }

  /** Texts of files by their paths: they hold from now on. */
  load(texts: ReadonlyMap<string, string>): void {
    const read = [...texts].map(([path, text]) => [path, readRevocationLists(text)] as const)
    this.#lists = new Map(
      read.filter(
        (one): one is typeof one & readonly [string, readonly RevocationList[]] => typeof one[1] !== 'string',
      ),
    )
  }

  isRevoked(client: Client): boolean {
    const lists = this.#lists.get(client.listener?.tlsCrl ?? '')
    const certificate = lists && this.#shownBy(client)
    return certificate !== undefined && namedIn(lists!, certificate)
  }
}
