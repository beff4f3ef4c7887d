-- References: who holds an object, and what a container of values refers to.
--
-- An object is there as long as its main hash has a field of a holder: `s:<session>`, the number of
-- references that a session has; `c:<oid>`, that of values in another object that contain a proxy
-- of this one; `name`, the key of the object's name.  A value that contains proxies begins with R.
-- The function that removes such a value returns it: the client then drops what it refers to, for
-- that may lie on another server of a cluster.

local function refers(value) return string.byte(value) == 82 end

-- Those of some values that contain proxies.
local function referring(values)
  local found = {}
  for _, value in ipairs(values) do
    if value and refers(value) then found[#found + 1] = value end
  end
  return found
end

-- By a type's id: what returns the values of an object.
local CONTENTS = {}
local function contains(typeid, list) CONTENTS[typeid] = list end

-- Make the main hash of an object, unless it is there.
local function open(k, typeid, session)
  local m = k .. ':m'
  exists(k)  -- fails while the slot is moved
  if call('HSETNX', m, 't', typeid) == 1 and session ~= '' then call('HSET', m, 's:' .. session, 1) end
end

-- The keys of the objects whose values hold an object; nil where a session or a name holds it.
local function containers(k)
  local found, prefix = {}, string.match(k, '^({.-:)')
  for _, field in ipairs(call('HKEYS', k .. ':m')) do
    local kind = string.sub(field, 1, 2)
    if kind == 's:' or field == 'name' then return nil end
    if kind == 'c:' then found[#found + 1] = prefix .. string.sub(field, 3) .. '}' end
  end
  return found
end

local function contents(k)
  local list = CONTENTS[call('HGET', k .. ':m', 't')]
  return list and referring(list(k)) or {}
end

-- Remove an object that nobody holds; return the values in it that contain proxies.  `C` stands for
-- an object that only values hold, and that holds others: it may be part of a cycle.
local function remove_unheld(k)
  local held_by = containers(k)
  if held_by == nil then return {} end
  if #held_by > 0 then return CONTENTS[call('HGET', k .. ':m', 't')] and {'C'} or {} end
  local found = contents(k)
  remove(k)
  return found
end

-- `holder count`: take references.  Returns the type's id.
define('take', function(k, A)
  call('HINCRBY', k .. ':m', A[1], A[2])
  return call('HGET', k .. ':m', 't')
end, 'allow-oom')

-- `holder count ...`: return references; a count of 0 stands for all that the holder has.  Returns
-- the values that went with the object, if this was its end, and that contain proxies.
define_bare('drop', function(K, A)
  local k, m = K[1], K[1] .. ':m'
  if not exists(k) then return {} end
  for i = 1, #A, 2 do
    if A[i + 1] == '0' or call('HEXISTS', m, A[i]) == 1 and
        call('HINCRBY', m, A[i], -A[i + 1]) <= 0 then
      call('HDEL', m, A[i])
    end
  end
  return remove_unheld(k)
end, 'allow-oom')

-- The keys of the objects whose values hold this one; nil where a session or a name holds it.
define_bare('containers', function(K) return containers(K[1]) end, 'no-writes')

-- Remove objects that hold each other, if nobody else holds any of them.  Returns of each object the
-- values that contain proxies; nil where the objects stay.
define_bare('collect', function(K)
  local among, found = {}, {}
  for _, k in ipairs(K) do among[k] = true end
  for _, k in ipairs(K) do
    local held_by = containers(k)
    if held_by == nil then return nil end
    for _, other in ipairs(held_by) do
      if not among[other] then return nil end
    end
  end
  for i, k in ipairs(K) do
    found[i] = contents(k)
    remove(k)
  end
  return found
end, 'allow-oom')

-- `name`: call an object so, or, where it is '', have it be called nothing.  Returns as `drop`.
define('call', function(k, A)
  if A[1] ~= '' then
    call('HSET', k .. ':m', 'name', A[1])
    return {}
  end
  call('HDEL', k .. ':m', 'name')
  return remove_unheld(k)
end, 'allow-oom')

-- Names: the key `{ns:n:<name>}` has the id of the object.
-- `old new`: give a name to `new` if it is `old`'s ('' for nobody's); returns whose it is then.
define_bare('name', function(K, A)
  local found = call('GET', K[1]) or ''
  if found ~= A[1] then return found end
  if A[2] == '' then call('DEL', K[1]) else call('SET', K[1], A[2]) end
  return A[2]
end, 'allow-oom')

-- All fields of the main hash.
define('meta', function(k) return call('HGETALL', k .. ':m') end, 'no-writes')
