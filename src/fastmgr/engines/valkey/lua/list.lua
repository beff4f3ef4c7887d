-- Lists: LIST k; in the main hash `v`, which grows with each change but those that only append.
-- So a list of the same `v` and the same length is the same list.

local function changed(k) call('HINCRBY', k .. ':m', 'v', 1) end

local function append(k, items)
  in_parts(items, function(...) call('RPUSH', k, ...) end)
end

local function prepend(k, items)
  local turned = {}
  for i = #items, 1, -1 do turned[#turned + 1] = items[i] end
  in_parts(turned, function(...) call('LPUSH', k, ...) end)
end

local function rest(A, first)
  local items = {}
  for i = first, #A do items[#items + 1] = A[i] end
  return items
end

-- Where a part begins, or ends, as Python has it.
local function clamped(text, default, length)
  if text == '' then return default end
  local at = tonumber(text)
  if at < 0 then at = at + length end
  return math.max(0, math.min(at, length))
end

-- Put items in the place of those from `start` to before `stop`; return what these refer to.
local function splice(k, start, stop, items)
  local length = call('LLEN', k)
  local found = {}
  if stop > start then found = referring(call('LRANGE', k, start, stop - 1)) end
  if length - stop <= start then
    local tail = {}
    if stop < length then tail = call('LRANGE', k, stop, -1) end
    if start == 0 then call('DEL', k) elseif start < length then call('LTRIM', k, 0, start - 1) end
    append(k, items)
    append(k, tail)
  else
    local head = {}
    if start > 0 then head = call('LRANGE', k, 0, start - 1) end
    if stop > 0 then call('LTRIM', k, stop, -1) end
    prepend(k, items)
    prepend(k, head)
  end
  changed(k)
  return found
end

contains('list', function(k) return call('LRANGE', k, 0, -1) end)

-- `typeid session item ...`
define_bare('list_make', function(K, A)
  open(K[1], A[1], A[2])
  append(K[1], rest(A, 3))
  return 1
end)

define('list_append', function(k, A)
  append(k, A)
  return false
end)

-- `index value`: returns the item that was there if that contains proxies.
define('list_set', function(k, A)
  local old = call('LINDEX', k, A[1])
  if not old then return fail('INDEX', 'list assignment index out of range') end
  call('LSET', k, A[1], A[2])
  changed(k)
  return refers(old) and old
end)

-- `index expected desired`: replace an item that has these very bytes.
define('list_replace', function(k, A)
  if call('LINDEX', k, A[1]) ~= A[2] then return 0 end
  call('LSET', k, A[1], A[3])
  changed(k)
  return 1
end)

-- `index amount`: returns the sum; where only the client can add, {the item}.
define('list_incr', function(k, A)
  local old = call('LINDEX', k, A[1])
  if not old then return fail('INDEX', 'list index out of range') end
  local total = sum_of(old, A[2])
  if not total then
    local scratch = k .. ':n'
    call('SET', scratch, old)
    local sum = redis.pcall('INCRBY', scratch, A[2])
    total = type(sum) == 'number' and call('GET', scratch)
    call('DEL', scratch)
    if not total then return {old} end
  end
  call('LSET', k, A[1], total)
  changed(k)
  return total
end)

define('list_pop', function(k, A)
  local length, at = call('LLEN', k), tonumber(A[1])
  if length == 0 then return fail('INDEX', 'pop from empty list') end
  if at < 0 then at = at + length end
  if at < 0 or at >= length then return fail('INDEX', 'pop index out of range') end
  local item = call('LINDEX', k, at)
  if at == length - 1 then
    call('RPOP', k)
    changed(k)
  else
    splice(k, at, at + 1, {})
  end
  return item
end, 'allow-oom')

-- `index`: delete an item.
define('list_delete', function(k, A)
  local length, at = call('LLEN', k), tonumber(A[1])
  if at < 0 then at = at + length end
  if at < 0 or at >= length then return fail('INDEX', 'list assignment index out of range') end
  return splice(k, at, at + 1, {})
end, 'allow-oom')

-- `start stop item ...`: a slice of step 1, of which an end may be ''.
define('list_splice', function(k, A)
  local length = call('LLEN', k)
  local start = clamped(A[1], 0, length)
  local stop = math.max(start, clamped(A[2], length, length))
  return splice(k, start, stop, rest(A, 3))
end)

-- `index item`
define('list_insert', function(k, A)
  local at = clamped(A[1], 0, call('LLEN', k))
  splice(k, at, at, {A[2]})
  return false
end)

define('list_reverse', function(k)
  local items = call('LRANGE', k, 0, -1)
  call('DEL', k)
  in_parts(items, function(...) call('LPUSH', k, ...) end)
  changed(k)
  return false
end)

-- `version length item ...`: replace all items if nobody has changed the list.
define('list_assign', function(k, A)
  local version = call('HGET', k .. ':m', 'v') or '0'
  if version ~= A[1] or call('LLEN', k) ~= tonumber(A[2]) then return 0 end
  call('DEL', k)
  append(k, rest(A, 3))
  changed(k)
  return 1
end)

-- `version length index`: delete an item if nobody has changed the list.
define('list_remove', function(k, A)
  local version = call('HGET', k .. ':m', 'v') or '0'
  if version ~= A[1] or call('LLEN', k) ~= tonumber(A[2]) then return 0 end
  local at = tonumber(A[3])
  splice(k, at, at + 1, {})
  return 1
end, 'allow-oom')

define('list_items', function(k)
  return {call('HGET', k .. ':m', 'v') or '0', call('LRANGE', k, 0, -1)}
end, 'no-writes')

define('list_clear', function(k)
  local found = referring(call('LRANGE', k, 0, -1))
  call('UNLINK', k)
  changed(k)
  return found
end, 'allow-oom')
