// Certificates of a throw-away authority for TLS tests, made by openssl in a folder that goes with the test.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

export interface Certificates extends Disposable {
  readonly ca: string
  /** Paths of PEM files for 127.0.0.1. */
  readonly server: { cert: string; key: string }
  readonly client: { cert: Buffer; key: Buffer }
  readonly caBytes: Buffer
  /** The key of the file `key` in another, which wants a passphrase. */
  encrypted(key: string, passphrase: string): string
  /** These files in one. */
  chain(...certificates: string[]): string
  /** Texts of a certificate and its key that are shorter than anybody takes today. */
  weak(): [cert: string, key: string]
  /** Paths of a certificate that was valid, and of its key. */
  wasValid(): [cert: string, key: string]
}

export function makeCertificates(): Certificates {
  const folder = mkdtempSync(join(tmpdir(), 'aedes-cluster-tls-'))
  const path = (name: string): string => join(folder, name)
  const openssl = (...argv: string[]): void => {
    execFileSync('openssl', argv, { stdio: ['ignore', 'ignore', 'pipe'] })
  }
  const newKey = ['-newkey', 'ec', '-pkeyopt', 'ec_paramgen_curve:prime256v1', '-nodes']
  openssl(
    'req',
    '-x509',
    ...newKey,
    '-days',
    '2',
    '-subj',
    '/CN=test authority',
    '-keyout',
    path('ca.key'),
    '-out',
    path('ca.pem'),
  )
  writeFileSync(path('server.ext'), 'subjectAltName=IP:127.0.0.1,DNS:localhost\n')
  writeFileSync(path('client.ext'), 'extendedKeyUsage=clientAuth\n')
  for (const name of ['server', 'client']) {
    openssl(
      'req',
      ...newKey,
      '-subj',
      `/CN=${name}`,
      '-keyout',
      path(`${name}.key`),
      '-out',
      path(`${name}.csr`),
    )
    openssl(
      'x509',
      '-req',
      '-days',
      '2',
      '-in',
      path(`${name}.csr`),
      '-CA',
      path('ca.pem'),
      '-CAkey',
      path('ca.key'),
      '-CAcreateserial',
      '-extfile',
      path(`${name}.ext`),
      '-out',
      path(`${name}.pem`),
    )
  }
  return {
    ca: path('ca.pem'),
    server: { cert: path('server.pem'), key: path('server.key') },
    client: { cert: readFileSync(path('client.pem')), key: readFileSync(path('client.key')) },
    caBytes: readFileSync(path('ca.pem')),
    encrypted: (key, passphrase) => {
      openssl('pkey', '-in', key, '-aes256', '-passout', `pass:${passphrase}`, '-out', path('encrypted.key'))
      return path('encrypted.key')
    },
    chain: (...certificates) => {
      writeFileSync(path('chain.pem'), certificates.map((one) => readFileSync(one, 'utf8')).join(''))
      return path('chain.pem')
    },
    wasValid: () => {
      openssl('req', ...newKey, '-subj', '/CN=old', '-keyout', path('old.key'), '-out', path('old.csr'))
      openssl(
        'x509',
        '-req',
        '-days',
        '-1',
        '-in',
        path('old.csr'),
        '-signkey',
        path('old.key'),
        '-out',
        path('old.pem'),
      )
      return [path('old.pem'), path('old.key')]
    },
    weak: () => {
      openssl(
        'req',
        '-x509',
        '-newkey',
        'rsa:512',
        '-nodes',
        '-days',
        '2',
        '-subj',
        '/CN=weak',
        '-keyout',
        path('weak.key'),
        '-out',
        path('weak.pem'),
      )
      return [readFileSync(path('weak.pem'), 'utf8'), readFileSync(path('weak.key'), 'utf8')]
    },
    [Symbol.dispose]: () => rmSync(folder, { recursive: true, force: true }),
  }
}
