#!lua
-- Removes a Client Identifier whose session is not there: `doctor --repair`. A client that has come meanwhile keeps its own.
-- KEYS   clients owners tenants
-- WRITES clients tenants
-- ARGV   the Client Identifier, the sid that was found with it
-- REPLY  1; 0: it has another session by now, or that one is there
-- COST   O(1)
local clientsKey, ownersKey, tenantsKey = KEYS[1], KEYS[2], KEYS[3]
local client, sid = ARGV[1], ARGV[2]
-- @include session-tenant

if redis.call('HGET', clientsKey, client) ~= sid or redis.call('HEXISTS', ownersKey, sid) == 1 then return 0 end
redis.call('HDEL', clientsKey, client)
countOfTenant(tenantsKey, client, -1)
return 1
