-- What all functions share: errors, whether an object is there, whether a session lives.
--
-- Keys of an object: `{ns:oid}`, its state, and `{ns:oid}:x`, more of that; `{ns:oid}:m`, a hash,
-- is there as long as the object.  KEYS[1] of every function is the object's main key.
-- This text runs when the library is loaded: there `redis.call` and `pairs` do not exist.

local call
call = function(...)
  call = redis.call
  return call(...)
end

-- An error reply that the client turns into an exception; the codes are in `errors.py`.
local function fail(code, text)
  return redis.error_reply('FM ' .. code .. (text and ' ' .. text or ''))
end

-- Whether the server is a node of a cluster, once that is known.
local clustered = nil

-- Whether an object is there.  A function asks this before anything else: while its slot is moved
-- key by key to another node, only some of its keys may be here.  The server then refuses a command
-- with a key that is not there: the function fails at the key `:-`, before it has changed anything.
local function exists(k)
  if clustered == nil then
    local info = redis.pcall('INFO', 'cluster')
    clustered = type(info) ~= 'string' or string.find(info, 'cluster_enabled:1', 1, true) ~= nil
  end
  if clustered then return call('EXISTS', k .. ':m', k .. ':-') == 1 end
  return call('EXISTS', k .. ':m') == 1
end

local function gone(k)
  return fail('GONE', 'the object ' .. k .. ' is gone')
end

-- By name, for `fenced`.
local FUNCTIONS = {}

-- Register a function without looking at the object.  It gets the keys and the arguments.
local function define_bare(name, callback, ...)
  FUNCTIONS['fm1_' .. name] = callback
  redis.register_function{function_name = 'fm1_' .. name, callback = callback, flags = {...}}
end

-- Register a function of an object, which gets the object's main key, the arguments and all keys.
-- Flags: 'no-writes' for one that only reads; 'allow-oom' for one that gives something back.
local function define(name, callback, ...)
  define_bare(name, function(K, A)
    if not exists(K[1]) then return gone(K[1]) end
    return callback(K[1], A, K)
  end, ...)
end

-- Register a function as `define` does, of an object whose hash has the first of some fields as long
-- as the object is there.  The callback gets the fields' values in place of the keys.  One command
-- reads them and sees that the object is there, but for a cluster (see `exists`).
local function define_by_hash(name, fields, callback, ...)
  define_bare(name, function(K, A)
    local k = K[1]
    if clustered ~= false and not exists(k) then return gone(k) end
    local found = call('HMGET', k, unpack(fields))
    if not found[1] and not exists(k) then return gone(k) end
    return callback(k, A, found)
  end, ...)
end

-- `unpack` is limited: do a command with many words in parts of some thousand.
local function in_parts(list, command)
  for i = 1, #list, 4000 do command(unpack(list, i, math.min(i + 3999, #list))) end
end

-- Suffixes of the keys that an object may have; each file adds those of its types.
local USED = {{'m'}}
local function uses(...) USED[#USED + 1] = {...} end

-- Remove an object: all its keys.  What its values refer to is released by the client.
local function remove(k)
  local keys = {k}
  for _, suffixes in ipairs(USED) do
    for _, suffix in ipairs(suffixes) do keys[#keys + 1] = k .. ':' .. suffix end
  end
  return call('UNLINK', unpack(keys))
end

-- Tables that forget: of the younger entries all are kept, of the older ones none.  They are this
-- server process's alone, so they may only save what a restart or a failover may forget.
local function memory()
  return {young = {}, old = {}, count = 0}
end

local function remember(m, key, value)
  if m.count >= 10000 then m.old, m.young, m.count = m.young, {}, 0 end
  m.young[key], m.count = value, m.count + 1
end

local function recall(m, key)
  local value = m.young[key]
  if value == nil then value = m.old[key] end
  return value
end

-- Sessions.  An owner or waiter is called `<session>/<thread>/<number of the wait>`; a session's id
-- has 16 digits.  A session lives while its connection is subscribed to `fm:s:<id>`.

-- The session that owns what a session has kept beyond an exit in order.  It lives for ever.
local KEPT = '0000000000000000'

local function session_of(w) return string.sub(w, 1, 16) end
local function thread_of(w) return string.match(w, '^[^/]*/[^/]*') end

-- When this server became what it is: by its start, or by a failover.  After a failover nobody is
-- judged before the grace is over, for sessions have to come here and subscribe again.
local born, identity = nil, nil
local grace = 3000000
-- Sessions that have subscribed here: the death of these is seen at once.  And when the others were
-- first looked for: these may still be about to subscribe here.
local seen, missed = memory(), memory()

local function now()
  local time = call('TIME')
  return time[1] * 1000000 + time[2]
end

-- See whether this server still is what it was; return the time.
local function look_around()
  local time, info = now(), redis.pcall('INFO', 'replication')
  local found = type(info) == 'string' and string.match(info, 'master_replid:(%x+)') or '-'
  if identity ~= found or time < born then
    identity, born, seen, missed = found, time, memory(), memory()
  end
  return time
end

local function is_dead(session)
  if session == KEPT or call('PUBSUB', 'NUMSUB', 'fm:s:' .. session)[2] > 0 then return false end
  local time = look_around()
  if recall(seen, session) then return true end
  if not recall(missed, session) then remember(missed, session, time) end
  return time - recall(missed, session) > grace
end

-- A session has subscribed: `session [grace in seconds]`.  Returns which server this is: the text
-- changes when nobody is judged for a while.
define_bare('hello', function(K, A)
  look_around()
  remember(seen, A[1], true)
  if A[2] then grace = A[2] * 1000000 end
  return identity .. ':' .. string.format('%.0f', born)
end, 'allow-oom')

-- Which server this is, for a session that has lost its connection.
define_bare('instance', function(K, A)
  look_around()
  return identity .. ':' .. string.format('%.0f', born)
end, 'allow-oom')

-- Put a session on the list in KEYS[1]: `session version`.  The version is that of this library, and
-- the first session of a namespace decides: another version may keep objects in another way.
define_bare('enlist', function(K, A)
  local at = string.gsub(K[1], 'sessions$', 'version')
  local found = call('GET', at)
  if found and found ~= A[2] then
    return fail('VERSION', 'the objects of this namespace are those of version ' .. found .. ' of the '
      .. 'functions, and this fastmgr has version ' .. A[2] .. ": choose another namespace (?ns=)")
  end
  if not found then call('SET', at, A[2]) end
  return call('SADD', K[1], A[1])
end, 'allow-oom')

-- Which of the sessions in the arguments are dead.
define_bare('dead', function(K, A)
  local dead = {}
  for _, session in ipairs(A) do
    if is_dead(session) then dead[#dead + 1] = session end
  end
  return dead
end, 'allow-oom')

-- Make an object, unless it is there: `typeid session field value ...`, the fields of the main hash.
-- The session is '' for an object that no session has a reference to.
define_bare('make', function(K, A)
  local k = K[1]
  if not exists(k) then
    call('HSET', k .. ':m', 't', A[1])
    if #A > 2 then call('HSET', k, unpack(A, 3)) end
  end
  if A[2] ~= '' then call('HINCRBY', k .. ':m', 's:' .. A[2], 1) end
  return 1
end)

-- By type: `function(key, session)` puts right what a dead session had to do with an object; it
-- returns the values that it has removed, if any.
local BURY = {}

-- Sessions have died: put right what they had to do with the object, but for their references.
-- Returns values that were removed.
define('bury', function(k, A)
  local t, removed = call('HGET', k .. ':m', 't'), {}
  for _, session in ipairs(A) do
    for _, value in ipairs(BURY[t] and BURY[t](k, session) or {}) do
      removed[#removed + 1] = value
    end
  end
  return removed
end, 'allow-oom')

-- Change an object unless a later holder of a lock has: `lock fence function arguments ...`, or
-- '' and a command in place of a function.
define('fenced', function(k, A, K)
  local m, field, fence = k .. ':m', 'f:' .. A[1], tonumber(A[2])
  local seen = tonumber(call('HGET', m, field) or 0)
  if fence < seen then
    return fail('STALE', string.format('the lock was taken %.0f times since it was taken by this '
      .. 'process, and a later holder has changed %s', seen - fence, k))
  end
  if fence > seen then call('HSET', m, field, A[2]) end
  local rest = {}
  for i = 4, #A do rest[i - 3] = A[i] end
  if A[3] == '' then return redis.pcall(unpack(rest)) end
  return FUNCTIONS[A[3]](K, rest)
end)
