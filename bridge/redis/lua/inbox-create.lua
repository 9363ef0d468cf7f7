#!lua flags=allow-oom
-- Makes the inbox of one boot of a node; only its owner calls this. Called twice it changes nothing. Also
-- when Redis is full: what is read frees what fills it.
-- KEYS   stream state
-- WRITES stream state
-- ARGV   (none)
-- REPLY  { the id of the last entry: the reader begins after it, 1 when the inbox was made }
-- COST   O(1)
local streamKey, stateKey = KEYS[1], KEYS[2]
local time = redis.call('TIME')
local made = 0
redis.call('HLEN', stateKey) -- of a wrong type it fails before anything is written
if redis.call('EXISTS', streamKey) == 0 or redis.call('XLEN', streamKey) == 0 then
  made = 1
  redis.call('XADD', streamKey, '*', 'b', '')
  redis.call('HSET', stateKey, 'progress', string.format('%.0f', time[1] * 1000000 + time[2]))
end
return { redis.call('XREVRANGE', streamKey, '+', '-', 'COUNT', 1)[1][1], made }
