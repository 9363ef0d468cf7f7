-- The tenant that a Client Identifier is one of: what stands before U+0000. nil: of none.
local function tenantOf(name)
  local at = string.find(name, '\0', 1, true)
  return at and string.sub(name, 1, at - 1)
end
-- A session came to be (1) or ended (-1): its tenant has so many.
local function countOfTenant(tenantsKey, name, by)
  local tenant = tenantOf(name)
  if tenant and redis.call('HINCRBY', tenantsKey, tenant, by) <= 0 then redis.call('HDEL', tenantsKey, tenant) end
end
