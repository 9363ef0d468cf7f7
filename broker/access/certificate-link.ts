// The certificate of a client, as a link of the chain: its listener has found that an authority of its own signed it
// (`tlsCa`), so that what stands in it is who the client is. No state.
import { notAuthenticated, type Link } from './chain.ts'
import type { Certificate } from './principal.ts'

export const certificateNames = ['cn', 'san', 'fingerprint'] as const
export type CertificateName = (typeof certificateNames)[number]

const fields: Readonly<Record<CertificateName, keyof Certificate>> = {
  cn: 'commonName',
  san: 'alternativeName',
  fingerprint: 'fingerprint',
}

/**
 * @param name what of it is the user name
 * @param isClientId it must be the Client Identifier as well
 */
export const certificateLink = (name: CertificateName, isClientId: boolean): Link => ({
  name: 'certificate',
  authenticate: ({ certificate: certificateOf }) => {
    const certificate = certificateOf()
    if (certificate === undefined) return undefined
    const user = certificate[fields[name]]
    if (user === undefined || user === '') return notAuthenticated(`its certificate has no ${name}`)
    return { user, by: 'certificate', ...(isClientId && { clientId: user }) }
  },
})
