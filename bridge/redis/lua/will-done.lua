#!lua flags=allow-oom
-- A will was published and stored: nobody publishes it again, and its identity is forgotten when no batch can
-- bring it any more.
-- KEYS   due wills
-- WRITES due wills
-- ARGV   member (w:sid:epoch), when it is forgotten (ms from now)
-- REPLY  1
-- COST   O(log due)
local dueKey, willsKey, member, forgetMs = KEYS[1], KEYS[2], ARGV[1], tonumber(ARGV[2])

redis.call('HLEN', willsKey) -- of a wrong type it fails before anything is written
redis.call('ZCARD', dueKey)
local time = redis.call('TIME')
redis.call('ZREM', dueKey, member)
local name = string.sub(member, 3)
local takingField = 'taking:' .. string.match(name, '^[^:]*')
redis.call('HDEL', willsKey, 'taken:' .. name)
if redis.call('HGET', willsKey, takingField) == name then redis.call('HDEL', willsKey, takingField) end
redis.call('ZADD', dueKey, time[1] * 1000 + time[2] / 1000 + forgetMs, 'f:w' .. string.match(member, '^w:([^:]*)'))
return 1
