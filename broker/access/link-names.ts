// The links that a listener's chain of authentication may have, by name; what a link asks for stands in
// config/listener-chains.ts (`needs`). No state.

/** In the order in which what is configured makes a chain, where none is written down. */
export const linkNames = [
  'password-file',
  'stored-users',
  'scram',
  'jwt',
  'webhook',
  'certificate',
  'hooks',
  'anonymous',
] as const
export type LinkName = (typeof linkNames)[number]
