-- Queues.
--
-- HASH k: max the size, u unfinished tasks, down.  LIST i: items; g: the waiters of get; p: those of
-- put, whose items are in HASH v; j: those of join.  HASH x: items that waiters have been given and
-- have not taken; HASH t: of each thread the wait and the item that it took last, for an interrupt.

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

-- A waiter of put is taken for dead: its mark says that its item was not put.
local BURIED = '!'
local function bury_put(k, w) call('HSET', k .. ':v', w, BURIED) end

local function admit(k)
  if call('EXISTS', k .. ':p') == 0 then return end
  local size = number(k, 'max')
  while call('EXISTS', k .. ':p') == 1 and call('LLEN', k .. ':i') < size do
    local w = next_waiter(k, 'p', bury_put)
    if not w then return end
    local item = call('HGET', k .. ':v', w)
    call('HDEL', k .. ':v', w)
    call('HINCRBY', k, 'u', 1)
    add(k, item)
    wake(k, w, 'P')
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

local function look_at_getter(k, w)
  local item = call('HGET', k .. ':x', w)
  if item then
    call('HDEL', k .. ':x', w)
    unwake(k, w)
    return took(k, w, item)
  end
  local held = call('HGET', k .. ':t', thread_of(w))
  if held and string.sub(held, 1, #w + 1) == w .. ' ' then
    return {1, string.sub(held, #w + 2)}  -- the reply to an earlier look was lost
  end
  local found = waiting(k, 'g', w)
  if found[1] == 3 then
    unwake(k, w)
    if call('HEXISTS', k, 'down') == 1 then return fail('SHUTDOWN') end
  end
  return found
end

define('queue_look', function(k, A)
  restore(k)
  return look_at_getter(k, A[1])
end, 'allow-oom')

define('queue_expire', function(k, A)
  if call('LREM', k .. ':g', 1, A[1]) == 1 then return fail('EMPTY') end
  return look_at_getter(k, A[1])
end, 'allow-oom')

define('queue_withdraw', function(k, A)
  local w = A[1]
  unwake(k, w)
  if call('LREM', k .. ':g', 1, w) == 1 then return {0} end
  local item = call('HGET', k .. ':x', w)
  local held = call('HGET', k .. ':t', thread_of(w))
  if item then
    call('HDEL', k .. ':x', w)
    put_back(k, item)
  elseif held and string.sub(held, 1, #w + 1) == w .. ' ' then
    call('HDEL', k .. ':t', thread_of(w))
    put_back(k, string.sub(held, #w + 2))
  else
    remember(withdrawn, w, true)
  end
  return {0}
end, 'allow-oom')

-- The waiter has left the queue: {1} if its item was put, {3} if it was not.
local function settle_put(k, w)
  local item = call('HGET', k .. ':v', w)
  unwake(k, w)
  if not item then return {1} end
  call('HDEL', k .. ':v', w)
  if item == BURIED then return {3} end
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
  if call('LREM', k .. ':p', 1, A[1]) == 1 then
    call('HDEL', k .. ':v', A[1])
    return fail('FULL')
  end
  return look_at_putter(k, A[1])
end, 'allow-oom')

-- What was put stays: {0} says that it was not put, {1} that it was or that nobody knows.
define('put_withdraw', function(k, A)
  local w = A[1]
  unwake(k, w)
  if call('LREM', k .. ':p', 1, w) + call('HDEL', k .. ':v', w) > 0 then return {0} end
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
