#!lua flags=no-writes,allow-oom
-- What is due in a partition, by its own clock.
-- KEYS   due
-- ARGV   how many at most
-- REPLY  { member … }, the longest due first
-- COST   O(log due + members)
local dueKey, max = KEYS[1], ARGV[1]

local time = redis.call('TIME')
return redis.call('ZRANGE', dueKey, '-inf', string.format('%.3f', time[1] * 1000 + time[2] / 1000), 'BYSCORE', 'LIMIT', 0, max)
