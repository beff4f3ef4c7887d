-- Dicts, namespaces and counters that have names.
--
-- HASH k: field -> value; ZSET z: fields in the order in which they came, touched by new and removed
-- keys only; HASH k:o: field -> the key as it was first given, where the field does not tell it; in
-- the main hash `n`, the number of the last key that was new.

uses('z', 'o')

local function number_new(k, field)
  call('ZADD', k .. ':z', call('HINCRBY', k .. ':m', 'n', 1), field)
end

local function add(k, field, value, original)
  call('HSET', k, field, value)
  number_new(k, field)
  if original and original ~= '' then call('HSET', k .. ':o', field, original) end
end

-- Set a value; return the one before, or false.
local function put(k, field, value, original)
  local old = call('HGET', k, field)
  if old then call('HSET', k, field, value) else add(k, field, value, original) end
  return old
end

local function remove_key(k, field)
  call('HDEL', k, field)
  call('ZREM', k .. ':z', field)
  call('HDEL', k .. ':o', field)
end

local function put_all(k, A, first)
  local replaced = {}
  for i = first, #A, 3 do
    local old = put(k, A[i], A[i + 1], A[i + 2])
    if old and refers(old) then replaced[#replaced + 1] = old end
  end
  return replaced
end

local function values_of(k, fields)
  local values = {}
  in_parts(fields, function(...)
    for _, value in ipairs(call('HMGET', k, ...)) do values[#values + 1] = value end
  end)
  return values
end

local function hash_values(k) return call('HVALS', k) end
contains('dict', hash_values)
contains('Namespace', hash_values)

-- `typeid session (field value original) ...`; counters that have names are made so, too.
define_bare('dict_make', function(K, A)
  open(K[1], A[1], A[2])
  put_all(K[1], A, 3)
  return 1
end)

-- `(field value original) ...`: returns of each call what was replaced and contains proxies.
define('dict_set', function(k, A)
  local replaced = {}
  for i = 1, #A, 3 do
    local old = put(k, A[i], A[i + 1], A[i + 2])
    replaced[(i + 2) / 3] = old and refers(old) and old
  end
  return replaced
end)

-- `(field value original) ...`: returns what was replaced and contains proxies.
define('dict_update', function(k, A) return put_all(k, A, 1) end)

-- `field`: returns the value if that contains proxies.
define('dict_delete', function(k, A)
  local old = call('HGET', k, A[1])
  if not old then return fail('KEY') end
  remove_key(k, A[1])
  return refers(old) and old
end, 'allow-oom')

define('dict_pop', function(k, A)
  local old = call('HGET', k, A[1])
  if old then remove_key(k, A[1]) end
  return old
end, 'allow-oom')

define('dict_popitem', function(k)
  local field = call('ZREVRANGE', k .. ':z', 0, 0)[1]
  if not field then return false end
  local item = {field, call('HGET', k, field), call('HGET', k .. ':o', field) or ''}
  remove_key(k, field)
  return item
end, 'allow-oom')

-- `field value original`: returns the value that was there, or nothing.
define('dict_setdefault', function(k, A)
  local old = call('HGET', k, A[1])
  if not old then add(k, A[1], A[2], A[3]) end
  return old
end)

-- `field value`: returns the value that was there.
define('dict_exchange', function(k, A)
  local old = call('HGET', k, A[1])
  if not old then return fail('KEY') end
  call('HSET', k, A[1], A[2])
  return old
end)

-- `field expected desired original`: replace the value if it has these very bytes, or, where these
-- are '', add the key if it is new.  Returns 1, or the value that is there instead, or nothing.
define('dict_replace', function(k, A)
  local old = call('HGET', k, A[1])
  if (old or '') ~= A[2] then return old end
  put(k, A[1], A[3], A[4])
  return 1
end)

-- Add to a whole number and return the sum; nothing where there is another value, or too large a
-- sum: nothing has changed then.
local function incr_whole(k, field, amount)
  local sum = redis.pcall('HINCRBY', k, field, amount)
  if type(sum) ~= 'number' then return nil end
  if sum == tonumber(amount) and call('ZSCORE', k .. ':z', field) == false then
    number_new(k, field)  -- else the value was 0
  end
  if sum > -2 ^ 53 and sum < 2 ^ 53 then return sum end
  return call('HGET', k, field)
end

-- Add to a value and return the sum.  Where only the client can add: {the value}, or {} for none.
local function incr(k, field, amount)
  local sum = incr_whole(k, field, amount)
  if sum then return sum end
  local old = call('HGET', k, field)
  local total = sum_of(old or '0', amount)
  if not total then return {old or nil} end
  if old then call('HSET', k, field, total) else add(k, field, total) end
  return total
end

-- `(field amount) ...`: returns the sums of whole numbers.  For a field that has none, or from where
-- its sum would be too large, nothing: the client adds these, in order.  Small numbers are read and
-- written together, since a call of a command costs more than a sum.
define('dict_incr_whole', function(k, A)
  local sums, fields, changed, left, known = {}, {}, {}, {}, {}
  for i = 1, #A, 2 do fields[#fields + 1] = A[i] end
  local olds = call('HMGET', k, unpack(fields))
  for i, field in ipairs(fields) do
    local old, amount = known[field] or olds[i], tonumber(A[2 * i])
    local number = old and tonumber(old) or not old and 0
    if left[field] then
      sums[i] = false
    elseif number and math.abs(number) < 2 ^ 52 and math.abs(amount) < 2 ^ 52 then
      if not old then number_new(k, field) end
      sums[i] = number + amount
      known[field] = sums[i]
      changed[#changed + 1] = field
      changed[#changed + 1] = sums[i]
    else
      if #changed > 0 then call('HSET', k, unpack(changed)) changed = {} end
      local sum = incr_whole(k, field, A[2 * i])
      if sum then known[field] = sum else left[field] = true end
      sums[i] = sum or false
    end
  end
  if #changed > 0 then call('HSET', k, unpack(changed)) end
  return sums
end)

-- `(field amount) ...`: returns the sums; keys that are new count as 0, and tell all of the key.
define('dict_incr', function(k, A)
  local sums = {}
  for i = 1, #A, 2 do sums[(i + 1) / 2] = incr(k, A[i], A[i + 1]) end
  return sums
end)

define('dict_clear', function(k)
  local found = referring(call('HVALS', k))
  call('UNLINK', k, k .. ':z', k .. ':o')
  return found
end, 'allow-oom')

define('dict_keys', function(k)
  return {call('ZRANGE', k .. ':z', 0, -1), call('HGETALL', k .. ':o')}
end, 'no-writes')

define('dict_values', function(k)
  return values_of(k, call('ZRANGE', k .. ':z', 0, -1))
end, 'no-writes')

define('dict_items', function(k)
  local fields = call('ZRANGE', k .. ':z', 0, -1)
  return {fields, values_of(k, fields), call('HGETALL', k .. ':o')}
end, 'no-writes')

-- Counters that have names: ints, of which none is added by a change.

-- `field amount ...`: add all amounts, or none.
define('counters_incr', function(k, A)
  local old = call('HGET', k, A[1])
  if not old then return fail('KEY') end
  for i = 2, #A do
    local sum = redis.pcall('HINCRBY', k, A[1], A[i])
    if type(sum) == 'table' then
      call('HSET', k, A[1], old)
      return fail('OVERFLOW', old)
    end
  end
  return call('HGET', k, A[1])
end)

-- `(field value original) ...`: add those that are not there.
define('counters_add', function(k, A)
  for i = 1, #A, 3 do
    if call('HEXISTS', k, A[i]) == 0 then add(k, A[i], A[i + 1], A[i + 2]) end
  end
  return 1
end)
