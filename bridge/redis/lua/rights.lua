#!lua flags=no-writes
-- Which of our commands this user of Redis may not run under our prefix, and which this Redis does not have
-- (rename-command): asked at start, so that it is known before it is needed.
-- KEYS   probe
-- WRITES none
-- ARGV   channels: the patterns of ours; the first is subscribed to as a pattern
-- REPLY  the commands that are refused, each as often; "?" and the command: there is none of that name
-- COST   O(1)
local probeKey = KEYS[1]
local denied = {}
local function check(command, ...)
  local known, allowed = pcall(redis.acl_check_cmd, command, ...)
  if known then
    if not allowed then denied[#denied + 1] = command end
    return
  end
  local reason = type(allowed) == 'table' and allowed.err or tostring(allowed)
  if string.find(reason, 'Invalid command', 1, true) then denied[#denied + 1] = '?' .. command end
end
for _, command in ipairs({ 'GET', 'MGET', 'DEL', 'UNLINK', 'EXISTS', 'INCR', 'HGETALL', 'HKEYS', 'HVALS', 'LLEN', 'HLEN', 'XLEN',
  'SCARD', 'ZCARD', 'TYPE', 'SMEMBERS' }) do check(command, probeKey) end
for _, command in ipairs({ 'HGET', 'HSTRLEN', 'HMGET', 'HDEL', 'HEXISTS', 'HSCAN', 'HRANDFIELD', 'LINDEX', 'LPOP', 'RPUSH', 'SET', 'SADD', 'SREM',
  'SISMEMBER', 'ZREM', 'ZSCORE', 'EXPIRE' }) do
  check(command, probeKey, '1')
end
check('RENAME', probeKey, probeKey)
for _, command in ipairs({ 'HSET', 'HSETNX', 'HINCRBY', 'ZADD', 'ZRANGE', 'LRANGE', 'XRANGE', 'XREVRANGE', 'XTRIM' }) do
  check(command, probeKey, '1', '1')
end
check('XDEL', probeKey, '1-1')
check('XADD', probeKey, '*', 'a', 'b')
check('XREAD', 'STREAMS', probeKey, '0')
check('MEMORY', 'USAGE', probeKey)
check('TIME')
check('MULTI')
check('SCRIPT', 'LOAD', '1')
check('EVAL', '1', '0')
for _, channels in ipairs(ARGV) do
  check('PUBLISH', channels, '1')
  check('SUBSCRIBE', channels)
end
check('PSUBSCRIBE', ARGV[1]) -- its pattern must be allowed literally: a wider one is not enough
return denied
