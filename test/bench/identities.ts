// What a node is told to ask its clients for, and what they bring then, for each kind of authentication: flags and files of
// the node, users in Redis, a webhook that answers after 5 ms and counts. Passwords are kept as `passwd` keeps them, which
// costs 50 ms each: so that a run does not take minutes 10,000 clients have 200 users. State: the webhook.
import { generateKeyPairSync, sign } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { keepPassword } from '../../broker/access/passwords.ts'
import { loadConfig, storeOf } from '../../broker/config/config.ts'
import { makeCertificates } from '../support/certificates.ts'
import type { LoginKind, Proofs } from './patterns.ts'
import { prefix } from './systems.ts'

export interface Identities extends AsyncDisposable {
  /** Of each node, instead of a listener without TLS where there is `--listen` among them. */
  readonly flags: readonly string[]
  readonly proofs: Proofs
  /** How often the webhook was asked. */
  readonly asked: number
}

const password = 'right'
const usersWithPasswords = 200
const webhookMs = 5
const names = (count: number): string[] => Array.from({ length: count }, (_, i) => `u${i}`)

function tokensOf(count: number): { readonly key: string; readonly tokens: string[] } {
  const { publicKey, privateKey } = generateKeyPairSync('ed25519')
  const part = (value: object): string => Buffer.from(JSON.stringify(value)).toString('base64url')
  const exp = Math.floor(Date.now() / 1_000) + 3_600
  const tokens = names(count).map((sub) => {
    const text = `${part({ alg: 'EdDSA' })}.${part({ sub, exp })}`
    return `${text}.${sign(null, Buffer.from(text), privateKey).toString('base64url')}`
  })
  return { key: publicKey.export({ type: 'spki', format: 'pem' }) as string, tokens }
}

const none = { users: 0, passwords: [] }
const nothing = (flags: readonly string[], proofs: Proofs = none): Identities => ({
  flags,
  proofs,
  asked: 0,
  [Symbol.asyncDispose]: () => Promise.resolve(),
})

function certificates(): Identities {
  const made = makeCertificates()
  const { ca, server, client, caBytes } = made
  const tls = { ca: caBytes.toString(), cert: client.cert.toString(), key: client.key.toString() }
  const files = ['--tls-ca', ca, '--tls-cert', server.cert, '--tls-key', server.key]
  return {
    ...nothing(['--listen', 'mqtts://127.0.0.1:0', ...files], { ...none, tls }),
    [Symbol.asyncDispose]: () => Promise.resolve(made[Symbol.dispose]()),
  }
}

async function webhook(count: number): Promise<Identities> {
  let asked = 0
  const server: Server = createServer((request, response) => {
    asked++
    request.resume().on('end', () => setTimeout(() => response.writeHead(204).end(), webhookMs))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  const url = `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
  return {
    flags: ['--webhook-url', url],
    proofs: { users: count, passwords: [password] },
    get asked() {
      return asked
    },
    [Symbol.asyncDispose]: async () => {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

/** @param folder for files; there is nothing else in it that has their names */
export async function identities(
  kind: LoginKind,
  count: number,
  folder: string,
  redisPort: number,
): Promise<Identities> {
  const file = join(folder, kind)
  const proofs: Proofs = { users: usersWithPasswords, passwords: [password] }
  switch (kind) {
    case 'anonymous':
      return nothing([])
    case 'certificate':
      return certificates()
    case 'webhook':
      return webhook(count)
    case 'jwt': {
      const { key, tokens } = tokensOf(count)
      writeFileSync(file, key)
      return nothing(['--jwt-key-file', file], { users: count, passwords: tokens })
    }
    case 'password-file': {
      const kept = await Promise.all(names(usersWithPasswords).map(() => keepPassword(password, 'scrypt')))
      writeFileSync(file, kept.map((one, i) => `u${i}:${one}\n`).join(''))
      return nothing(['--password-file', file], proofs)
    }
    case 'stored-users': {
      const kept = await Promise.all(names(usersWithPasswords).map(() => keepPassword(password, 'scrypt')))
      const { changeAccess } = storeOf(loadConfig({ redis: `redis://127.0.0.1:${redisPort}`, prefix }, {}))
      await changeAccess!(async (access) => {
        for (const [i, one] of kept.entries()) await access.setUser(`u${i}`, one)
      })
      return nothing(['--stored-users', 'on'], proofs)
    }
  }
}
