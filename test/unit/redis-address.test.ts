// How an operator writes where Redis is, and what is said of an address that is wrong or secret.
import { describe, expect, test } from 'vitest'
import { parseRedisAddress, withoutRedisPassword, withRedisPassword } from '../../bridge/redis/address.ts'

describe('parseRedisAddress', () => {
  test.each([
    [
      'redis://localhost',
      {
        kind: 'server',
        tls: false,
        hosts: [{ host: 'localhost', port: 6379 }],
        path: '',
        password: undefined,
      },
    ],
    [
      'rediss://user:p%40ss@redis.example:7000/3',
      {
        kind: 'server',
        tls: true,
        username: 'user',
        password: 'p@ss',
        hosts: [{ host: 'redis.example', port: 7000 }],
        path: '3',
      },
    ],
    [
      'redis://:secret@[::1]:6380',
      { kind: 'server', username: undefined, password: 'secret', hosts: [{ host: '::1', port: 6380 }] },
    ],
    ['unix:///run/redis.sock', { kind: 'socket', path: '/run/redis.sock', hosts: [] }],
    [
      'redis+sentinel://a,b:5000/main',
      {
        kind: 'sentinel',
        hosts: [
          { host: 'a', port: 26379 },
          { host: 'b', port: 5000 },
        ],
        path: 'main',
      },
    ],
    ['rediss+sentinel://:x@a/main/2', { kind: 'sentinel', tls: true, password: 'x', path: 'main/2' }],
    [
      'redis+cluster://10.0.0.1:7000,10.0.0.2',
      {
        kind: 'cluster',
        hosts: [
          { host: '10.0.0.1', port: 7000 },
          { host: '10.0.0.2', port: 6379 },
        ],
      },
    ],
  ])('%s', (text, target) => expect(parseRedisAddress(text)).toMatchObject(target))

  test.each([
    ['http://localhost', 'must be a redis://'],
    ['redis://', 'host:port'],
    ['redis://a:99999', 'host:port'],
    ['redis://a,b', 'more than one host'],
    ['redis://a/main', 'number of a database'],
    ['redis+cluster://a:1/2', 'one database'],
    ['redis+sentinel://a:1', 'name the service'],
    ['unix://run/redis.sock', 'unix:///path'],
    ['unix+cluster:///run', 'unix:///path'],
    ['redis://:a/b@host', '%2F'],
    ['redis+sentinel://user:1234/b@host', '%2F'],
  ])('%s is refused, with the reason', (text, reason) => expect(parseRedisAddress(text)).toContain(reason))
})

test('a password is put in and taken out, whatever the address', () => {
  expect(withRedisPassword('redis+cluster://a:1,b:2', 'p@/ss')).toBe('redis+cluster://:p%40%2Fss@a:1,b:2')
  expect(withRedisPassword('redis://user:old@a/1', 'new')).toBe('redis://user:new@a/1')
  expect(withoutRedisPassword('redis+sentinel://user:secret@a:1,b:2/main')).toBe(
    'redis+sentinel://user:***@a:1,b:2/main',
  )
  expect(withoutRedisPassword('redis://a:1')).toBe('redis://a:1')
  // nobody knows whether it is the user
  expect(withoutRedisPassword('redis://secret@a:1')).toBe('redis://***@a:1')
  expect(withoutRedisPassword('redis//:secret@a:1')).toBe('***')
  expect(parseRedisAddress(withRedisPassword('unix:///run/redis.sock', 'p'))).toMatchObject({
    kind: 'socket',
    password: 'p',
    path: '/run/redis.sock',
  })
  expect(withoutRedisPassword('unix:///run/redis.sock')).toBe('unix:///run/redis.sock')
})
