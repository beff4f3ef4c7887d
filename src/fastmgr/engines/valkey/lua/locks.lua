-- Locks and conditions.
--
-- HASH k: o the holder's name, d the depth, f the fence, died, r releases that are not to count;
-- n, where the holder has waited, how that ended (as r:<waiter>): a token may have gone to a
-- connection of the dead;
-- of a waiter that has slept at a condition d:<waiter> the depth, r:<waiter> how its sleep ended:
-- 'T' by its timeout, or 'N' and the condition's key.

uses('q', 'c')

-- Give the lock to a waiter; `fence` is that of the grant before.
local function own(k, w, depth, fence, ...)
  fence = (fence or call('HGET', k, 'f') or 0) + 1
  call('HSET', k, 'o', w, 'd', depth, 'f', fence, ...)
  return fence
end

local function notify(c, k, n)
  while n > 0 do
    local w = call('LPOP', c .. ':c')
    if not w then return end
    if is_dead(session_of(w)) then
      call('HDEL', k, 'd:' .. w)
    else
      call('HSET', k, 'r:' .. w, 'N' .. c)
      call('RPUSH', k .. ':q', w)
      n = n - 1
    end
  end
end

-- A waiter leaves the queue of a lock without the lock: a notification goes to another.
local function leave(k, w)
  local how = call('HGET', k, 'r:' .. w)
  call('HDEL', k, 'd:' .. w, 'r:' .. w)
  if how and string.sub(how, 1, 1) == 'N' then notify(string.sub(how, 2), k, 1) end
end

-- The holder has let go: give the lock to the first in the queue, or free it.
local function hand_on(k)
  local w = next_waiter(k, 'q', leave)
  if not w then call('HDEL', k, 'o', 'd', 'n') return end
  local found = call('HMGET', k, 'd:' .. w, 'r:' .. w, 'f')
  if found[1] then call('HDEL', k, 'd:' .. w, 'r:' .. w) end
  local how = found[2] or 'G'
  wake(k, w, string.format('%s %.0f', how, own(k, w, found[1] or 1, found[3], 'n', how)))
end

local function serve_if_free(k)
  if call('HEXISTS', k, 'o') == 0 and call('EXISTS', k .. ':q') == 1 then hand_on(k) end
end

-- The token of a waiter that has not read it: how the wait ended, and the fence.
local function read_token(token)
  local how, fence = string.match(token, '^(.*) (%d+)$')
  return string.sub(how, 1, 1), tonumber(fence)
end

-- The holder gives up what it was granted, or has died before it let go: its notification, which
-- it may not have seen, goes to another.
local function pass_on_notification(k, w)
  unwake(k, w)
  local how = call('HGET', k, 'n')
  if not how then return end
  call('HDEL', k, 'n')
  if string.sub(how, 1, 1) == 'N' then notify(string.sub(how, 2), k, 1) end
end

-- Return the holder; if it is dead, that of the lock that has been handed on.  The session of the
-- waiter who asks, if one does, is not dead.  `o` is the holder, where that has been read.
local function holder(k, w, o)
  if o == nil then o = call('HGET', k, 'o') end
  if not o then return o end
  local session = session_of(o)
  if w and session == session_of(w) or not is_dead(session) then return o end
  pass_on_notification(k, o)
  call('HINCRBY', k, 'r', 1)
  call('HSET', k, 'died', 1)
  hand_on(k)
  return call('HGET', k, 'o')
end

-- `waiter block kind`: kind is L, or R for a lock that its owner may take again.
define_by_hash('lock_acquire', {'f', 'o'}, function(k, A, found)
  local w = A[1]
  local o = holder(k, w, found[2])
  if recall(withdrawn, w) then return {0} end
  if not o then return {1, own(k, w, 1, not found[2] and found[1])} end
  if A[3] == 'R' and thread_of(o) == thread_of(w) then
    call('HINCRBY', k, 'd', 1)
    granted(w)
    return {1, tonumber(call('HGET', k, 'f'))}
  end
  if A[2] == '0' then return {0} end
  return queue_up(k, 'q', w)
end, 'allow-oom')

local function look_at_waiter(k, w)
  if holder(k) == w then
    local how = read_token(unwake(k, w) or 'G 0')
    return {1, tonumber(call('HGET', k, 'f')), how}
  end
  local found = waiting(k, 'q', w)
  if found[1] == 3 then
    local token = unwake(k, w)
    if token then
      local how, fence = read_token(token)
      return {1, fence, how}
    end
  end
  return found
end

define('lock_look', function(k, A) return look_at_waiter(k, A[1]) end, 'allow-oom')

-- A waiter's time is over: {0}, or what it was granted meanwhile.
define('lock_expire', function(k, A)
  if call('LREM', k .. ':q', 1, A[1]) == 1 then return {0} end
  return look_at_waiter(k, A[1])
end, 'allow-oom')

-- A waiter was interrupted: it gives back what it was granted, also what it does not know of.
define('lock_withdraw', function(k, A)
  local w = A[1]
  if call('LREM', k .. ':q', 1, w) == 1 then
    leave(k, w)
  elseif call('HGET', k, 'o') == w then
    unwake(k, w)
    hand_on(k)
  elseif was_granted(w) then
    ungrant(w)
    if tonumber(call('HINCRBY', k, 'd', -1)) == 0 then hand_on(k) end
  else
    unwake(k, w)
    remember(withdrawn, w, true)
  end
  return {0}
end, 'allow-oom')

-- `waiter kind [fence depth]`: with these, release only what was held by that grant at that depth,
-- for the client does not know whether it has been released.
define_by_hash('lock_release', {'o', 'd'}, function(k, A, found)
  local w = A[1]
  local o = holder(k, w, found[1])
  local is_another = A[3] and
    (not o or call('HGET', k, 'f') ~= A[3] or call('HGET', k, 'd') ~= A[4])
  if A[2] == 'R' then
    if is_another then return 1 end
    if not o or thread_of(o) ~= thread_of(w) then
      return fail('RUNTIME', 'cannot release un-acquired lock')
    end
    if (o ~= found[1] or found[2] ~= '1') and call('HINCRBY', k, 'd', -1) > 0 then return 1 end
  else
    if not o or session_of(o) ~= session_of(w) then
      if tonumber(call('HGET', k, 'r') or 0) > 0 then
        call('HINCRBY', k, 'r', -1)
        return 1
      end
    end
    if is_another then return 1 end
    if not o then return fail('RUNTIME', 'release unlocked lock') end
  end
  hand_on(k)
  return 1
end, 'allow-oom')

define('lock_locked', function(k)
  if holder(k) then return 1 end
  return 0
end, 'allow-oom')

define('lock_state', function(k)
  local o = holder(k)
  return {o or '', tonumber(call('HGET', k, 'd') or 0)}
end, 'allow-oom')

-- A session ends in order: what it holds stays held.
define('lock_keep', function(k, A)
  local o = call('HGET', k, 'o')
  if o and session_of(o) == A[1] then call('HSET', k, 'o', KEPT .. string.sub(o, 17)) end
  return 1
end, 'allow-oom')

define('lock_died', function(k)
  holder(k)
  return call('HEXISTS', k, 'died')
end, 'allow-oom')

define('consistent', function(k)
  call('HDEL', k, 'died', 'r')
  return 1
end, 'allow-oom')

-- Conditions -------------------------------------------------------------------------------------
-- KEYS: the condition's, and its lock's, which may be the same.  LIST c: the sleepers in order.
-- All tokens of a sleeper are the lock's.

local function is_owner(k, w, kind)
  local o = holder(k, w)
  return o and (kind == 'L' or thread_of(o) == thread_of(w))
end

-- `waiter kind`
define('condition_wait', function(c, A, K)
  local w, k = A[1], K[2]
  if recall(withdrawn, w) then return {0} end
  if not is_owner(k, w, A[2]) then return fail('RUNTIME', 'cannot wait on un-acquired lock') end
  call('HSET', k, 'd:' .. w, call('HGET', k, 'd'))
  local reply = queue_up(c, 'c', w)
  hand_on(k)
  return reply
end, 'allow-oom')

-- `waiter kind n`
define('condition_notify', function(c, A, K)
  local w, k = A[1], K[2]
  if not is_owner(k, w, A[2]) then return fail('RUNTIME', 'cannot notify on un-acquired lock') end
  notify(c, k, tonumber(A[3]))
  return 1
end, 'allow-oom')

local function look_at_sleeper(c, k, w)
  local o = holder(k)
  if o == w then
    unwake(k, w)
    return {1, tonumber(call('HGET', k, 'f')), string.sub(call('HGET', k, 'n') or 'N', 1, 1)}
  end
  local found = waiting(k, 'q', w)
  if found[1] == 3 then found = waiting(c, 'c', w) end
  return found
end

define('condition_look', function(c, A, K) return look_at_sleeper(c, K[2], A[1]) end, 'allow-oom')

-- A sleeper's time is over: it waits for the lock.
define('condition_expire', function(c, A, K)
  local w, k = A[1], K[2]
  if call('LREM', c .. ':c', 1, w) == 1 then
    call('HSET', k, 'r:' .. w, 'T')
    call('RPUSH', k .. ':q', w)
    holder(k)
    serve_if_free(k)
  end
  return look_at_sleeper(c, k, w)
end, 'allow-oom')

-- A sleeper was interrupted: it waits for the lock, and its notification goes to another.
define('condition_withdraw', function(c, A, K)
  local w, k = A[1], K[2]
  if call('LREM', c .. ':c', 1, w) == 1 then
    call('HSET', k, 'r:' .. w, 'T')
    call('RPUSH', k .. ':q', w)
  elseif call('LPOS', k .. ':q', w) then
    local how = call('HGET', k, 'r:' .. w)
    call('HSET', k, 'r:' .. w, 'T')
    if how and string.sub(how, 1, 1) == 'N' then notify(string.sub(how, 2), k, 1) end
  elseif call('HGET', k, 'o') == w then
    pass_on_notification(k, w)
    return {1, tonumber(call('HGET', k, 'f'))}
  else
    remember(withdrawn, w, true)
    local o = call('HGET', k, 'o')
    if o and thread_of(o) == thread_of(w) then return {1, tonumber(call('HGET', k, 'f'))} end
    call('RPUSH', k .. ':q', w)
  end
  holder(k)
  serve_if_free(k)
  return look_at_sleeper(c, k, w)
end, 'allow-oom')

-- `proxy`: the condition holds the lock that it is over, as a container does what is in it.
define('condition_over', function(c, A)
  call('HSET', c, 'lock', A[1])
  return 1
end)
contains('Condition', function(c) return {call('HGET', c, 'lock')} end)

define('condition_sleepers', function(c) return call('LLEN', c .. ':c') end, 'no-writes')

local function bury(k) holder(k) end
BURY.Lock, BURY.RLock, BURY.Condition = bury, bury, bury
