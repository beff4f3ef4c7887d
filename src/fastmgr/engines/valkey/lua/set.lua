-- Sets: SET k of members' fields; HASH k:o as for a dict.

local function add(k, field, original)
  if call('SADD', k, field) == 1 and original ~= '' then
    call('HSET', k .. ':o', field, original)
  end
end

local function discard(k, field)
  if call('SREM', k, field) == 0 then return false end
  call('HDEL', k .. ':o', field)
  return true
end

local function add_all(k, A, first)
  for i = first, #A, 2 do add(k, A[i], A[i + 1]) end
end

-- `typeid session (field original) ...`
define_bare('set_make', function(K, A)
  open(K[1], A[1], A[2])
  add_all(K[1], A, 3)
  return 1
end)

define('set_add', function(k, A)
  add_all(k, A, 1)
  return false
end)

-- `field ...`: returns how many were there.
define('set_discard', function(k, A)
  local count = 0
  for _, field in ipairs(A) do
    if discard(k, field) then count = count + 1 end
  end
  return count
end, 'allow-oom')

-- `field ...`: discard all others.
define('set_keep', function(k, A)
  local kept = {}
  for _, field in ipairs(A) do kept[field] = true end
  for _, field in ipairs(call('SMEMBERS', k)) do
    if not kept[field] then discard(k, field) end
  end
  return false
end, 'allow-oom')

-- `(field original) ...`: discard those that are there, add the others.
define('set_toggle', function(k, A)
  for i = 1, #A, 2 do
    if not discard(k, A[i]) then add(k, A[i], A[i + 1]) end
  end
  return false
end)

define('set_pop', function(k)
  local field = call('SRANDMEMBER', k)
  if not field then return fail('KEY') end
  local original = call('HGET', k .. ':o', field) or ''
  discard(k, field)
  return {field, original}
end, 'allow-oom')

define('set_members', function(k)
  return {call('SMEMBERS', k), call('HGETALL', k .. ':o')}
end, 'no-writes')

define('set_clear', function(k)
  call('UNLINK', k, k .. ':o')
  return false
end, 'allow-oom')
