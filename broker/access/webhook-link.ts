// A webhook (webhook.ts) as a link of the chain. No state.
import type { Link } from './chain.ts'
import type { Webhook } from './webhook.ts'

export const webhookLink = (webhook: Webhook): Link => ({
  name: 'webhook',
  authenticate: (credentials) => webhook.decide(credentials),
})
