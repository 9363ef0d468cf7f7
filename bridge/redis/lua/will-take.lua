#!lua flags=allow-oom
-- Takes a will that is due, to publish it: from then on no return of the client cancels it and no end of the
-- session sends it again. Who takes it and dies leaves it to the next, after a while; a later will of the
-- session comes after it, since queues would take the earlier one for a duplicate afterwards.
-- KEYS   due wills
-- WRITES due wills
-- ARGV   member (w:sid:epoch), how long it is the caller's (ms), bytes that the caller has room for, 0: any will
-- REPLY  the will; how large it is when there is no room: it stays as it is; or false: it is not due, or
--        somebody has it or an earlier one of the session
-- COST   O(log wills)
local dueKey, willsKey = KEYS[1], KEYS[2]
local member, holdMs, room = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])

redis.call('HLEN', willsKey) -- of a wrong type it fails before anything is written
redis.call('ZCARD', dueKey)
local time = redis.call('TIME')
local now = time[1] * 1000 + time[2] / 1000
local due = redis.call('ZSCORE', dueKey, member)
if not due or tonumber(due) > now then return false end
local name = string.sub(member, 3)
local takingField = 'taking:' .. string.match(name, '^[^:]*')
local taking = redis.call('HGET', willsKey, takingField)
if taking and taking ~= name and redis.call('HEXISTS', willsKey, 'taken:' .. taking) == 1 then return false end
local size = math.max(redis.call('HSTRLEN', willsKey, name), redis.call('HSTRLEN', willsKey, 'taken:' .. name))
if room > 0 and size > room then return size end
local will = redis.call('HGET', willsKey, name)
if will then
  redis.call('HDEL', willsKey, name)
  redis.call('HSET', willsKey, 'taken:' .. name, will)
else
  will = redis.call('HGET', willsKey, 'taken:' .. name)
  if not will then
    redis.call('ZREM', dueKey, member)
    return false
  end
end
redis.call('HSET', willsKey, takingField, name)
redis.call('ZADD', dueKey, now + holdMs, member)
redis.call('ZREM', dueKey, 'f:w' .. string.match(member, '^w:([^:]*)')) -- of an earlier will of the session
return will
