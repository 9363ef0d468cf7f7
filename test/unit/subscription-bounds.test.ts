// What subscriptions may cost: the routes that are to come.
import { expect, test } from 'vitest'
import { SubscriptionBounds } from '../../broker/routing/subscription-bounds.ts'

/** Of a filter of five bytes, its route among it. */
const cost = 660
const limits = {
  topicLevelsMax: 10,
  topicBytesMax: 100,
  subscriptionsMax: 10,
  subscriptionBytesMax: 10_000,
  routingBytesMax: 2 * cost - 1,
}

test('a route that is to come counts, also when somebody unsubscribes whose session had resumed with the same filter', () => {
  const bounds = new SubscriptionBounds(limits, { bytes: 0, has: () => false })
  const [resumed, comes] = [{}, {}]
  bounds.added(resumed, 'abc/0')
  expect(bounds.refusal(comes, 'abc/0')).toBeUndefined()
  bounds.removed(resumed, 'abc/0')
  expect(bounds.refusal(comes, 'abc/1')).toBe('routing-bytes')
  bounds.gone(comes)
  expect(bounds.refusal(comes, 'abc/1')).toBeUndefined()
})
