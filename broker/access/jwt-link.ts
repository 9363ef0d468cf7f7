// A JSON Web Token (jwt.ts) as a link of the chain: CONNECT brings it as password, or as user name where an option says
// so; or it is the data of the Authentication Method `JWT`, by which a client that is connected brings a newer one
// (AUTH 0x19) before its own ends. A password that is no token is somebody else's. No state.
import { notAuthenticated, type Exchanged, type Link, type Verdict } from './chain.ts'
import { Refusal } from './gate.ts'
import { looksLikeToken, type Tokens } from './jwt.ts'

export const tokenFields = ['password', 'username'] as const
export type TokenField = (typeof tokenFields)[number]

export const jwtMethod = 'JWT'

export const jwtLink = (tokens: Tokens, field: TokenField): Link => ({
  name: 'jwt',
  authenticate: ({ username, password }): Promise<Verdict> | undefined => {
    const token = field === 'password' ? password?.toString('latin1') : username
    return token !== undefined && looksLikeToken(token) ? tokens.principalOf(token) : undefined
  },
  method: jwtMethod,
  exchange: async ({ data }): Promise<Exchanged | Refusal> => {
    const token = data?.toString('latin1') ?? ''
    if (!looksLikeToken(token)) return notAuthenticated('it brings no token')
    const principal = await tokens.principalOf(token)
    return principal instanceof Refusal ? principal : { principal, data: undefined }
  },
})
