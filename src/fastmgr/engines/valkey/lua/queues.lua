-- Queues.
--
-- HASH k: max the size, u unfinished tasks, down.  LIST i: items; g: the waiters of get; p: those of
-- put, whose items are in HASH v; j: those of join.  HASH x: items that waiters have been given and
-- have not taken; HASH t: of each thread the wait and the item that it took last, for an interrupt.
--
-- Of a put of many, v has at the waiter's name '+', how many of its items were put, and how many it
-- has; and at `<waiter> <number>` each item that is still to be put.

uses('i', 'g', 'p', 'v', 'j', 'x', 't')

-- Give an item to the first who waits for one; else `push` it to the others.
local function hand_over(k, item, push)
  local w = next_waiter(k, 'g')
  if w then
    call('HSET', k .. ':x', w, item)
    wake(k, w, 'I')
  else
    call(push, k .. ':i', item)
  end
end

local function add(k, item) hand_over(k, item, 'RPUSH') end
local function put_back(k, item) hand_over(k, item, 'LPUSH') end

-- Give items from the first on to those who wait for any; return which is the first that is left.
local function hand_over_many(k, items, first)
  while first <= #items do
    local w = next_waiter(k, 'g')
    if not w then break end
    call('HSET', k .. ':x', w, items[first])
    wake(k, w, 'I')
    first = first + 1
  end
  return first
end

-- Put items from the first on for which somebody waits or there is room; return as above.
local function add_many(k, items, first, size)
  local at = hand_over_many(k, items, first)
  local last = #items
  if size > 0 then last = math.min(last, at - 1 + size - call('LLEN', k .. ':i')) end
  for i = at, last, 4000 do
    call('RPUSH', k .. ':i', unpack(items, i, math.min(i + 3999, last)))
  end
  at = math.max(at, last + 1)
  if at > first then call('HINCRBY', k, 'u', at - first) end
  return at
end

-- Of a put of many that waits: how many of its items were put, and how many it has.
local function progress(mark)
  local done, all = string.match(mark or '', '^%+(%d+) (%d+)$')
  return tonumber(done), tonumber(all)
end

local function keep_rest(k, w, items, first, done, all)
  local words = {w, '+' .. done .. ' ' .. all}
  for i = first, #items do
    words[#words + 1] = w .. ' ' .. (done + i - first + 1)
    words[#words + 1] = items[i]
  end
  in_parts(words, function(...) call('HSET', k .. ':v', ...) end)
end

-- Take the items out of v that a put of many has not put.
local function rest_of(k, w, done, all)
  local names, items = {}, {}
  for i = done + 1, all do names[#names + 1] = w .. ' ' .. i end
  in_parts(names, function(...)
    for _, item in ipairs(call('HMGET', k .. ':v', ...)) do items[#items + 1] = item end
    call('HDEL', k .. ':v', ...)
  end)
  return items
end

-- The wait of a put is over: forget what it still has to put.  Returns what v had of it, and of a put
-- of many how many were put.
local function end_put(k, w)
  local item = call('HGET', k .. ':v', w)
  local done, all = progress(item)
  if item then call('HDEL', k .. ':v', w) end
  if done then rest_of(k, w, done, all) end
  return item, done
end

-- A waiter of put is taken for dead: its mark says that its item was not put, or how many were.
local BURIED = '!'
local function bury_put(k, w)
  local _, done = end_put(k, w)
  call('HSET', k .. ':v', w, BURIED .. (done or ''))
end

-- Let the first of those who wait put what there is room for; return whether it has put all.
local function admit_one(k, w, size)
  local item = call('HGET', k .. ':v', w)
  local done, all = progress(item)
  if not done then
    call('HDEL', k .. ':v', w)
    call('HINCRBY', k, 'u', 1)
    add(k, item)
    return true
  end
  local most = math.min(all, done + size - call('LLEN', k .. ':i'))
  local items = rest_of(k, w, done, most)
  add_many(k, items, 1, 0)
  if most == all then
    call('HDEL', k .. ':v', w)
    return true
  end
  call('HSET', k .. ':v', w, '+' .. most .. ' ' .. all)
  return false
end

local function admit(k)
  if call('EXISTS', k .. ':p') == 0 then return end
  local size = number(k, 'max')
  while call('EXISTS', k .. ':p') == 1 and call('LLEN', k .. ':i') < size do
    local w = next_waiter(k, 'p', bury_put)
    if not w then return end
    if admit_one(k, w, size) then
      wake(k, w, 'P')
    else
      call('LPUSH', k .. ':p', w)
    end
  end
end

-- Items in the hands of the dead go back to the head.
local function restore(k)
  local x = k .. ':x'
  if call('EXISTS', x) == 0 then return end
  for _, w in ipairs(call('HKEYS', x)) do
    if is_dead(session_of(w)) then
      local item = call('HGET', x, w)
      call('HDEL', x, w)
      unwake(k, w)
      put_back(k, item)
    end
  end
end

local function took(k, w, item)
  call('HSET', k .. ':t', thread_of(w), w .. ' ' .. item)
  return {1, item}
end

-- The same of a get of many, with what else is there.
local function took_many(k, w, items, most)
  while #items < most do
    local found = call('LPOP', k .. ':i', math.min(most - #items, 4000))
    if not found then break end
    for _, item in ipairs(found) do items[#items + 1] = item end
    admit(k)
  end
  call('HSET', k .. ':t', thread_of(w), w .. '+' .. cmsgpack.pack(items))
  table.insert(items, 1, 1)
  return items
end

-- What a thread took last, if that was in the wait of this name.
local function taken(k, w)
  local held = call('HGET', k .. ':t', thread_of(w))
  if not held or string.sub(held, 1, #w) ~= w then return nil end
  local mark, rest = string.sub(held, #w + 1, #w + 1), string.sub(held, #w + 2)
  if mark == ' ' then return {rest} end
  if mark == '+' then return cmsgpack.unpack(rest) end
  return nil
end

local function put_back_many(k, items)
  for i = #items, hand_over_many(k, items, 1), -1 do call('LPUSH', k .. ':i', items[i]) end
end

-- How many items waits that timed out had put, for a client that has not had the reply.
local expired, FULL = memory(), 'full'

-- `waiter block item`; block is 0, 1, or - for a timeout that is negative.
define_by_hash('queue_put', {'max', 'down'}, function(k, A, found)
  local w, size = A[1], tonumber(found[1])
  if found[2] then return fail('SHUTDOWN') end
  if A[2] == '-' and size > 0 then
    return fail('VALUE', "'timeout' must be a non-negative number")
  end
  if recall(withdrawn, w) then return {0} end
  restore(k)
  if size <= 0 or call('LLEN', k .. ':i') < size then
    call('HINCRBY', k, 'u', 1)
    add(k, A[3])
    return {1}
  end
  if A[2] == '0' then return fail('FULL') end
  call('HSET', k .. ':v', w, A[3])
  return queue_up(k, 'p', w)
end)

-- `waiter block item ...`.  Replies besides those of all waits: {1, number} where it is over and that
-- many were put, {4, number} where the queue was shut down.
define_by_hash('queue_put_many', {'max', 'down'}, function(k, A, found)
  local w, size = A[1], tonumber(found[1])
  if A[2] == '-' and size > 0 then
    return fail('VALUE', "'timeout' must be a non-negative number")
  end
  if found[2] then return {4, 0} end
  if recall(withdrawn, w) then return {0} end
  restore(k)
  local first = add_many(k, A, 3, size)
  if first > #A or A[2] == '0' then return {1, first - 3} end
  keep_rest(k, w, A, first, first - 3, #A - 2)
  return queue_up(k, 'p', w)
end)

-- `waiter block most`
define_by_hash('queue_get_many', {'max', 'down'}, function(k, A, found)
  local w, down = A[1], found[2]
  if recall(withdrawn, w) then return {0} end
  restore(k)
  local is_empty = call('EXISTS', k .. ':i') == 0
  if A[2] == '-' and not (down and is_empty) then
    return fail('VALUE', "'timeout' must be a non-negative number")
  end
  if not is_empty then return took_many(k, w, {}, tonumber(A[3])) end
  if down then return fail('SHUTDOWN') end
  if A[2] == '0' then return fail('EMPTY') end
  return queue_up(k, 'g', w)
end, 'allow-oom')

-- `waiter block`
define_by_hash('queue_get', {'max', 'down'}, function(k, A, found)
  local w, down = A[1], found[2]
  if recall(withdrawn, w) then return {0} end
  restore(k)
  if A[2] == '-' and not (down and call('EXISTS', k .. ':i') == 0) then
    return fail('VALUE', "'timeout' must be a non-negative number")
  end
  local item = call('LPOP', k .. ':i')
  if item then
    admit(k)
    return took(k, w, item)
  end
  if down then return fail('SHUTDOWN') end
  if A[2] == '0' then return fail('EMPTY') end
  return queue_up(k, 'g', w)
end, 'allow-oom')

local function look_at_getter(k, w, most)
  local item = call('HGET', k .. ':x', w)
  if item then
    call('HDEL', k .. ':x', w)
    unwake(k, w)
    if most then return took_many(k, w, {item}, tonumber(most)) end
    return took(k, w, item)
  end
  local held = taken(k, w)
  if held then
    table.insert(held, 1, 1)
    return held  -- the reply to an earlier look was lost
  end
  local found = waiting(k, 'g', w)
  if found[1] == 3 then
    unwake(k, w)
    if call('HEXISTS', k, 'down') == 1 then return fail('SHUTDOWN') end
  end
  return found
end

-- `waiter`, of a get of many `waiter most`; so is `queue_expire`.
define('queue_look', function(k, A)
  restore(k)
  return look_at_getter(k, A[1], A[2])
end, 'allow-oom')

define('queue_expire', function(k, A)
  if call('LREM', k .. ':g', 1, A[1]) == 1 then return fail('EMPTY') end
  return look_at_getter(k, A[1], A[2])
end, 'allow-oom')

define('queue_withdraw', function(k, A)
  local w = A[1]
  unwake(k, w)
  if call('LREM', k .. ':g', 1, w) == 1 then return {0} end
  local item, held = call('HGET', k .. ':x', w), taken(k, w)
  if item then
    call('HDEL', k .. ':x', w)
    put_back(k, item)
  elseif held then
    call('HDEL', k .. ':t', thread_of(w))
    put_back_many(k, held)
  else
    remember(withdrawn, w, true)
  end
  return {0}
end, 'allow-oom')

-- The waiter has left the queue: {1} if its item was put, {3} if it was not.  Of a put of many:
-- {1} if all were put, else {3, number}, and as in `queue_put_many`.
local function settle_put(k, w)
  unwake(k, w)
  local item, done = end_put(k, w)
  if not item then
    local reply = recall(expired, w)
    if reply == FULL then return fail('FULL') end
    return {1, reply}  -- a number if it timed out
  end
  if string.sub(item, 1, 1) == BURIED then return {3, tonumber(string.sub(item, 2))} end
  if done then return {4, done} end
  return fail('SHUTDOWN')
end

local function look_at_putter(k, w)
  local found = waiting(k, 'p', w)
  if found[1] == 2 then return found end
  return settle_put(k, w)
end

-- The client has been taken for dead, and asks whether its item was put.
define('put_settle', function(k, A)
  if call('LREM', k .. ':p', 1, A[1]) == 1 then bury_put(k, A[1]) end
  return settle_put(k, A[1])
end, 'allow-oom')

define('put_look', function(k, A)
  restore(k)
  admit(k)
  return look_at_putter(k, A[1])
end, 'allow-oom')

define('put_expire', function(k, A)
  local w = A[1]
  if call('LREM', k .. ':p', 1, w) == 0 then return look_at_putter(k, w) end
  local _, done = end_put(k, w)
  remember(expired, w, done or FULL)
  if done then return {1, done} end
  return fail('FULL')
end, 'allow-oom')

-- What was put stays: {0} says that it was not put, {1} that it was or that nobody knows.  Of a put
-- of many {0, number} says how many were put.
define('put_withdraw', function(k, A)
  local w = A[1]
  unwake(k, w)
  local waited = call('LREM', k .. ':p', 1, w)
  local item, done = end_put(k, w)
  if waited == 1 or item then return {0, done} end
  remember(withdrawn, w, true)
  return {1}
end, 'allow-oom')

define('queue_join', function(k, A)
  if number(k, 'u') == 0 then return {1} end
  if recall(withdrawn, A[1]) then return {0} end
  return queue_up(k, 'j', A[1])
end, 'allow-oom')

define('join_look', function(k, A) return look(k, 'j', A[1]) end, 'allow-oom')

define('join_withdraw', function(k, A) return withdraw(k, 'j', A[1]) end, 'allow-oom')

local function all_done(k) wake_all(k, 'j', 'J') end

define('queue_task_done', function(k)
  if number(k, 'u') <= 0 then return fail('VALUE', 'task_done() called too many times') end
  if call('HINCRBY', k, 'u', -1) == 0 then all_done(k) end
  return 1
end, 'allow-oom')

-- Length and size.
define('queue_size', function(k)
  restore(k)
  return {call('LLEN', k .. ':i'), number(k, 'max'), call('HEXISTS', k, 'down')}
end, 'allow-oom')

-- `immediate`: returns the items that were dropped.
define('queue_shutdown', function(k, A)
  restore(k)
  call('HSET', k, 'down', 1)
  local items = {}
  if A[1] == '1' then
    items = call('LRANGE', k .. ':i', 0, -1)
    call('DEL', k .. ':i')
    local left = math.max(number(k, 'u') - #items, 0)
    call('HSET', k, 'u', left)
    if left == 0 then all_done(k) end
  end
  wake_all(k, 'p', 'S', bury_put)
  wake_all(k, 'g', 'S')
  return items
end, 'allow-oom')

BURY.Queue = function(k, session)
  restore(k)
  for _, thread in ipairs(call('HKEYS', k .. ':t')) do
    if session_of(thread) == session then call('HDEL', k .. ':t', thread) end
  end
  local removed = {}
  for _, w in ipairs(call('HKEYS', k .. ':v')) do
    if session_of(w) == session then
      removed[#removed + 1] = call('HGET', k .. ':v', w)
      call('LREM', k .. ':p', 1, w)
      call('HDEL', k .. ':v', w)
    end
  end
  return removed
end
BURY.JoinableQueue = BURY.Queue

local function items(k)
  local found = call('LRANGE', k .. ':i', 0, -1)
  for _, suffix in ipairs({'v', 'x'}) do
    for _, item in ipairs(call('HVALS', k .. ':' .. suffix)) do found[#found + 1] = item end
  end
  return found
end
contains('Queue', items)
contains('JoinableQueue', items)
