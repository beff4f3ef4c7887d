-- Semaphores.
--
-- HASH k: v free permits, b the bound, died, r releases that are not to count, u permits that were
-- released for a session that is not known.  HASH h: the permits of each session.  HASH g: of each
-- thread the wait by which it got its last permit, until that is given back.

uses('q', 'h', 'g')

local function book(k, w) call('HINCRBY', k .. ':h', session_of(w), 1) end

local function unbook(k, session)
  local left = call('HINCRBY', k .. ':h', session, -1)
  if left <= 0 then call('HDEL', k .. ':h', session) end
  return left >= 0
end

local function note_grant(k, w) call('HSET', k .. ':g', thread_of(w), w) end
local function has_grant(k, w) return call('HGET', k .. ':g', thread_of(w)) == w end
local function forget_grant(k, w) call('HDEL', k .. ':g', thread_of(w)) end

local function forget_grants(k, session)
  for _, thread in ipairs(call('HKEYS', k .. ':g')) do
    if session_of(thread) == session then call('HDEL', k .. ':g', thread) end
  end
end

local function give_permit(k)
  local w = next_waiter(k, 'q')
  if not w then return call('HINCRBY', k, 'v', 1) end
  book(k, w)
  note_grant(k, w)
  wake(k, w, 'G')
end

-- Give back the permits of sessions that are dead.
local function reap_permits(k)
  for _, session in ipairs(call('HKEYS', k .. ':h')) do
    if is_dead(session) then
      local held, unsure = number(k .. ':h', session), number(k, 'u')
      local kept = math.min(held, unsure)
      call('HDEL', k .. ':h', session)
      forget_grants(k, session)
      if kept > 0 then
        call('HINCRBY', k .. ':h', KEPT, kept)
        call('HINCRBY', k, 'u', -kept)
      end
      if held > kept then
        call('HINCRBY', k, 'r', held - kept)
        call('HSET', k, 'died', 1)
        for _ = 1, held - kept do give_permit(k) end
      end
    end
  end
end

local function take_permit(k, w)
  if number(k, 'v') <= 0 then return false end
  call('HINCRBY', k, 'v', -1)
  book(k, w)
  return true
end

-- Give back a permit of this session, or else of any that has one.
local function give_back(k, session)
  if not unbook(k, session) then
    local holders = call('HKEYS', k .. ':h')
    if #holders > 0 then
      local taken = 0
      for _, n in ipairs(call('HVALS', k .. ':h')) do taken = taken + n end
      local unsure = math.min(number(k, 'u') + (#holders > 1 and 1 or 0), taken - 1)
      call('HSET', k, 'u', unsure)
      unbook(k, holders[1])
    end
  end
  give_permit(k)
end

-- `waiter block`
define('semaphore_acquire', function(k, A)
  local w = A[1]
  if recall(withdrawn, w) then return {0} end
  if not take_permit(k, w) then
    reap_permits(k)
    if not take_permit(k, w) then
      if A[2] == '0' then return {0} end
      return queue_up(k, 'q', w)
    end
  end
  note_grant(k, w)
  return {1}
end, 'allow-oom')

define('semaphore_look', function(k, A)
  local found = waiting(k, 'q', A[1])
  if found[1] == 2 then
    reap_permits(k)
    found = waiting(k, 'q', A[1])
  end
  if found[1] == 3 and (unwake(k, A[1]) or has_grant(k, A[1])) then return {1} end
  return found
end, 'allow-oom')

define('semaphore_expire', function(k, A)
  if call('LREM', k .. ':q', 1, A[1]) == 1 then return {0} end
  if unwake(k, A[1]) or has_grant(k, A[1]) then return {1} end
  return {3}
end, 'allow-oom')

define('semaphore_withdraw', function(k, A)
  local w = A[1]
  if call('LREM', k .. ':q', 1, w) == 1 then return {0} end
  if unwake(k, w) or has_grant(k, w) then
    forget_grant(k, w)
    give_back(k, session_of(w))
  else
    remember(withdrawn, w, true)
  end
  return {0}
end, 'allow-oom')

-- `waiter n [grant ['1']]`: `grant` is the wait by which the permit was got.  With the 1, release it
-- only if it has not been released, which the client does not know.
define('semaphore_release', function(k, A)
  local session, n, h = session_of(A[1]), tonumber(A[2]), k .. ':h'
  local is_noted = A[3] and has_grant(k, A[3])
  if A[4] and not is_noted then return 1 end
  if number(h, session) < n then reap_permits(k) end
  local returned = number(k, 'r')
  local spared = math.min(math.max(n - number(h, session), 0), returned)
  local left, bound = n - spared, call('HGET', k, 'b')
  if bound then
    if n > tonumber(bound) or number(k, 'v') + left > tonumber(bound) then
      return fail('VALUE', 'Semaphore released too many times')
    end
  elseif n >= 2 ^ 53 or number(k, 'v') >= 2 ^ 53 then
    -- Numbers that Lua does not have exactly: the server adds.
    local sum = redis.pcall('HINCRBY', k, 'v', A[2])
    if type(sum) == 'table' and sum.err then
      return fail('OVERFLOW', 'release(' .. A[2] .. "): the semaphore's counter cannot be so high")
    end
    call('HINCRBY', k, 'v', '-' .. A[2])
  end
  if is_noted then forget_grant(k, A[3]) end
  if spared > 0 then call('HINCRBY', k, 'r', -spared) end
  local done = 0
  while done < left and (call('EXISTS', k .. ':q') == 1 or call('EXISTS', h) == 1) do
    give_back(k, session)
    done = done + 1
  end
  if done < left then
    if done == 0 and spared == 0 then
      call('HINCRBY', k, 'v', A[2])
    else
      call('HINCRBY', k, 'v', string.format('%.0f', left - done))
    end
  end
  return 1
end, 'allow-oom')

define('semaphore_value', function(k)
  if number(k, 'v') == 0 then reap_permits(k) end
  return {call('HGET', k, 'v'), call('HGET', k, 'b')}
end, 'allow-oom')

define('semaphore_died', function(k)
  reap_permits(k)
  return call('HEXISTS', k, 'died')
end, 'allow-oom')

define('semaphore_keep', function(k, A)
  local held = call('HGET', k .. ':h', A[1])
  if held then
    call('HDEL', k .. ':h', A[1])
    call('HINCRBY', k .. ':h', KEPT, held)
  end
  forget_grants(k, A[1])
  return 1
end, 'allow-oom')

local function bury(k, session)
  reap_permits(k)
  forget_grants(k, session)
end
BURY.Semaphore, BURY.BoundedSemaphore = bury, bury
