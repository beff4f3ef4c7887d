-- Events and barriers.
--
-- Events -----------------------------------------------------------------------------------------
-- HASH k: s whether it is set.

uses('q', 'a', 'b')

define('event_wait', function(k, A)
  if call('HGET', k, 's') == '1' then return {1} end
  if A[2] == '0' then return {0} end
  if recall(withdrawn, A[1]) then return {0} end
  return queue_up(k, 'q', A[1])
end, 'allow-oom')

define('event_look', function(k, A) return look(k, 'q', A[1]) end, 'allow-oom')

define('event_expire', function(k, A)
  if call('LREM', k .. ':q', 1, A[1]) == 1 then return {0} end
  unwake(k, A[1])
  return {1}
end, 'allow-oom')

define('event_withdraw', function(k, A) return withdraw(k, 'q', A[1]) end, 'allow-oom')

define('event_set', function(k)
  call('HSET', k, 's', 1)
  wake_all(k, 'q', 'G')
  return 1
end, 'allow-oom')

define('event_is_set', function(k) return call('HGET', k, 's') end, 'no-writes')

define('event_clear', function(k)
  call('HSET', k, 's', 0)
  return 1
end, 'allow-oom')

-- Barriers ---------------------------------------------------------------------------------------
-- HASH k: n parties, timeout, action (there if there is one), broken, actor the waiter that runs
-- the action; e:<waiter> the error of a waiter that was sent away.  LIST b: the waiters; LIST a:
-- those for whom the action is run.

local function bury_parties(k)
  for _, w in ipairs(call('LRANGE', k .. ':b', 0, -1)) do
    if is_dead(session_of(w)) then call('LREM', k .. ':b', 1, w) unwake(k, w) end
  end
end

local function break_up(k, queue)
  while true do
    local w = call('LPOP', k .. ':' .. queue)
    if not w then return end
    if is_dead(session_of(w)) then unwake(k, w) else wake(k, w, 'B') end
  end
end

-- The action is done: those for whom it was run go on.
local function let_go(k)
  local members = call('LRANGE', k .. ':a', 0, -1)
  call('DEL', k .. ':a')
  call('HDEL', k, 'actor')
  for i, w in ipairs(members) do wake(k, w, 'G' .. (i - 1)) end
end

-- If enough parties are there let them go, or have the last one run the action.  Returns the reply
-- to the waiter that has come now.
local function fill(k, me)
  local n, reply = number(k, 'n'), nil
  while call('HEXISTS', k, 'actor') == 0 and call('LLEN', k .. ':b') >= n do
    bury_parties(k)
    if call('LLEN', k .. ':b') < n then break end
    local members, action = {}, call('HGET', k, 'action')
    for i = 1, n do members[i] = call('LPOP', k .. ':b') end
    for i = 1, n - 1 do
      if action then call('RPUSH', k .. ':a', members[i]) else wake(k, members[i], 'G' .. (i - 1)) end
    end
    local actor = members[n]
    if action then
      call('HSET', k, 'actor', actor)
      if actor == me then reply = {1, n - 1, action} else wake(k, actor, 'A' .. (n - 1)) end
    else
      if actor == me then reply = {1, n - 1} else wake(k, actor, 'G' .. (n - 1)) end
    end
  end
  return reply
end

-- See whether the party that runs the action is dead: then the barrier is broken.
local function check_actor(k)
  local actor = call('HGET', k, 'actor')
  if actor and is_dead(session_of(actor)) then
    call('HSET', k, 'broken', 1)
    call('HDEL', k, 'actor')
    break_up(k, 'a')
    break_up(k, 'b')
  end
end

define('barrier_wait', function(k, A)
  local w = A[1]
  check_actor(k)
  if call('HGET', k, 'broken') == '1' then return fail('BROKEN') end
  if recall(withdrawn, w) then return {0} end
  queue_up(k, 'b', w)
  return fill(k, w) or {2, 0, call('HGET', k, 'timeout')}
end, 'allow-oom')

local function barrier_token(k, w)
  local token = unwake(k, w)
  if not token then return nil end
  if token == 'B' then return fail('BROKEN') end
  local index = tonumber(string.sub(token, 2))
  if string.sub(token, 1, 1) == 'A' then return {1, index, call('HGET', k, 'action')} end
  return {1, index}
end

define('barrier_look', function(k, A)
  check_actor(k)
  local found = waiting(k, 'b', A[1])
  if found[1] == 3 then found = waiting(k, 'a', A[1]) end
  if found[1] == 3 then found = barrier_token(k, A[1]) or found end
  return found
end, 'allow-oom')

-- A party's time is over: that breaks the barrier, unless the party is waited for no more.
define('barrier_expire', function(k, A)
  check_actor(k)
  if call('LREM', k .. ':b', 1, A[1]) == 1 then
    call('HSET', k, 'broken', 1)
    break_up(k, 'b')
    return fail('BROKEN')
  end
  local found = waiting(k, 'a', A[1])
  if found[1] == 3 then found = barrier_token(k, A[1]) or found end
  return found
end, 'allow-oom')

-- A party was interrupted: it is not counted.
define('barrier_withdraw', function(k, A)
  local w = A[1]
  if call('LREM', k .. ':b', 1, w) == 0 and call('LREM', k .. ':a', 1, w) == 0 then
    remember(withdrawn, w, true)
  end
  if call('HGET', k, 'actor') == w then
    call('HDEL', k, 'actor')
    call('HSET', k, 'broken', 1)
    break_up(k, 'a')
    break_up(k, 'b')
  end
  unwake(k, w)
  return {0}
end, 'allow-oom')

-- The action has been run: `waiter good`.
define('barrier_acted', function(k, A)
  if call('HGET', k, 'actor') ~= A[1] then return 0 end
  if A[2] == '1' then
    let_go(k)
    fill(k)
  else
    call('HDEL', k, 'actor')
    call('HSET', k, 'broken', 1)
    break_up(k, 'a')
    break_up(k, 'b')
  end
  return 1
end, 'allow-oom')

-- `broken`: abort, or reset.
define('barrier_end', function(k, A)
  call('HSET', k, 'broken', A[1])
  break_up(k, 'b')
  return 1
end, 'allow-oom')

define('barrier_state', function(k)
  bury_parties(k)
  return {number(k, 'n'), call('LLEN', k .. ':b'), number(k, 'broken'), call('HGET', k, 'action')}
end, 'allow-oom')
