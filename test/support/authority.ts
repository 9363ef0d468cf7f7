// A certificate authority of openssl, with one below it, that issues, revokes and lists: for tests of what a listener shows
// and whom it believes. Its folder goes with the test.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Pair {
  readonly cert: string
  readonly key: string
}

export class Authority implements Disposable {
  readonly #folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-authority-'))

  constructor() {
    for (const name of ['root', 'devices']) {
      writeFileSync(this.path(`${name}.index`), '')
      writeFileSync(this.path(`${name}.serial`), name === 'root' ? '1000\n' : '2000\n')
      writeFileSync(
        this.path(`${name}.conf`),
        `[ca]
default_ca = one
[one]
database = ${this.path(`${name}.index`)}
serial = ${this.path(`${name}.serial`)}
new_certs_dir = ${this.#folder}
certificate = ${this.path(`${name}.pem`)}
private_key = ${this.path(`${name}.key`)}
default_md = sha256
default_days = 2
default_crl_days = 2
policy = any
copy_extensions = copy
unique_subject = no
[any]
commonName = supplied
[authority]
basicConstraints = critical,CA:TRUE
keyUsage = critical,keyCertSign,cRLSign
`,
      )
    }
    const root = [
      '-x509',
      '-days',
      '2',
      '-subj',
      '/CN=root',
      '-config',
      this.path('root.conf'),
      '-extensions',
      'authority',
    ]
    this.#run('req', ...newKey, ...root, '-keyout', this.path('root.key'), '-out', this.path('root.pem'))
    this.issue('devices', { by: 'root', extensions: ['-extensions', 'authority'] })
  }

  path(name: string): string {
    return join(this.#folder, name)
  }

  read(name: string): Buffer {
    return readFileSync(this.path(name))
  }

  #run(...argv: string[]): void {
    execFileSync('openssl', argv, { stdio: ['ignore', 'ignore', 'pipe'] })
  }

  /** @param names of a server, `DNS:…`; without them it is a client's. @param file what it is called here */
  issue(
    commonName: string,
    {
      by = 'devices',
      names,
      file = commonName,
      extensions = [],
    }: { by?: 'root' | 'devices'; names?: string; file?: string; extensions?: string[] } = {},
  ): Pair {
    const [key, csr, cert] = ['key', 'csr', 'pem'].map((end) => this.path(`${file}.${end}`)) as [
      string,
      string,
      string,
    ]
    const alternative = names === undefined ? [] : ['-addext', `subjectAltName=${names}`]
    this.#run('req', ...newKey, '-subj', `/CN=${commonName}`, ...alternative, '-keyout', key, '-out', csr)
    this.#run(
      'ca',
      '-batch',
      '-notext',
      '-config',
      this.path(`${by}.conf`),
      ...extensions,
      '-in',
      csr,
      '-out',
      cert,
    )
    return { cert, key }
  }

  revoke(name: string, by: 'root' | 'devices' = 'devices'): void {
    this.#run('ca', '-config', this.path(`${by}.conf`), '-revoke', this.path(`${name}.pem`))
  }

  /** The lists of both, in one text. @param areOver since 2020 */
  lists(areOver = false): string {
    const times = areOver ? ['-crl_lastupdate', '20200101000000Z', '-crl_nextupdate', '20200102000000Z'] : []
    return (['root', 'devices'] as const)
      .map((name) => {
        this.#run(
          'ca',
          '-gencrl',
          '-config',
          this.path(`${name}.conf`),
          ...times,
          '-out',
          this.path(`${name}.crl`),
        )
        return this.read(`${name}.crl`).toString()
      })
      .join('')
  }

  /** Files in one text. */
  texts(...names: string[]): string {
    return names.map((name) => this.read(name).toString()).join('')
  }

  [Symbol.dispose](): void {
    rmSync(this.#folder, { recursive: true, force: true })
  }
}

const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
