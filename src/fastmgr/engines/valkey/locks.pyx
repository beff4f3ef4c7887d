# cython: auto_pickle=False, boundscheck=True, wraparound=True
"""The methods of locks, conditions and semaphores."""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memchr, strncmp

from fastmgr.engines.valkey.grants cimport Grants
from fastmgr.engines.valkey.waiting cimport Wait, give_back

import math
import operator
import threading

from fastmgr.client.session import Target
from fastmgr.engines.valkey.commands import METHODS
from fastmgr.engines.valkey.fences import lock_key as lock_key_of
from fastmgr.engines.valkey.references import Maker, make_ident, store
from fastmgr.engines.valkey.waiting import (
    LOOK_AFTER,
    LOOK_SELDOM,
    MOST,
    counted,
    declare,
    make,
    seconds_of,
    shown_at,
    timeout_of,
)  # fmt: skip
from fastmgr.stock.dialect import NotHosted


# -- locks --------------------------------------------------------------------------


cdef bytes lock_key(bytes key):
    """The key of the lock behind a lock's or condition's key."""
    return key if PyBytes_AS_STRING(key)[PyBytes_GET_SIZE(key) - 1] == c"}" else lock_key_of(key)


cdef bytes kind_of(bytes key):
    """L or R, for a lock that its owner may take again."""
    cdef const char *name = <const char *>memchr(
        PyBytes_AS_STRING(key), c":", PyBytes_GET_SIZE(key))
    return b"L" if name is not NULL and strncmp(name, ":Lock", 5) == 0 else b"R"


cdef class LockWait(Wait):
    """A call that waits for a lock."""

    def granted(self, token):
        how, _, fence = token.rpartition(b" ")
        return [1, int(fence), how[:1]]


cdef object lock_timeout(object blocking, object timeout):
    """Check what `threading.Lock.acquire` takes; None to wait for ever, 0 not to wait."""
    if blocking is True and type(timeout) is int and timeout == -1:
        return None
    if type(blocking) is not bool or type(timeout) is not int or timeout != -1:
        # So that wrong arguments get this interpreter's own message.
        threading.Lock().acquire(blocking, timeout)
    if not blocking:
        return 0
    timeout = float(timeout)
    return None if timeout == -1 else timeout


def acquire(session, bytes key, blocking=True, timeout=-1):
    cdef object reply, seconds = lock_timeout(blocking, timeout)
    cdef bytes block = b"0" if seconds == 0 else b"1"
    cdef Grants life = session.life
    cdef LockWait wait = None
    cdef bint is_noted = False
    key = lock_key(key)
    life.check(key)
    try:
        while True:
            wait = LockWait.__new__(LockWait)
            wait.prepare(session, (key,), b"lock")
            reply = wait.go([*wait.request_for(b"lock_acquire"), block, kind_of(key)], seconds)
            if not wait.is_void():
                break
            seconds = wait.left()
        if reply is None:
            return False
        life.took(key, reply[1] if len(reply) > 1 else 0)
        is_noted = True
    except BaseException:
        undo(life, key, wait, is_noted)
        raise
    return True


cdef int undo(Grants life, bytes key, Wait wait, bint is_noted) except -1:
    """Give back what a call has taken that an exception of a signal's handler ends."""
    if is_noted:
        life.gave(key)
    if wait is not None:
        wait.undo()
    return 0


def release(session, bytes key):
    cdef Grants life = session.life
    key = lock_key(key)
    life.check(key, True)
    request = [b"FCALL", b"fm1_lock_release", b"1", key, life.name(), kind_of(key)]
    give_back(session, key, request, 1, life.grant(key))


def locked(session, key):
    return bool(session.function(b"lock_locked", lock_key(key), reads=True))


def owner_died(session, key):
    return bool(session.function(b"lock_died", lock_key(key), reads=True))


def consistent(session, key):
    session.function(b"consistent", lock_key(key))


def make_lock(session, key, *args, **kwds):
    if args or kwds:
        threading.Lock(*args, **kwds)  # raises as this interpreter does
    make(session, key, "Lock")


def make_rlock(session, key, *args, **kwds):
    if args or kwds:
        threading.RLock(*args, **kwds)  # some interpreters take any
    make(session, key, "RLock")


def _shown_owner(owner):
    session, thread, _ = owner.split(b"/")
    return f"{int(session, 16) % 1000003 + 1}.{int(thread)}"


def show_lock(session, key):
    """What `threading` shows of a lock."""
    owner, depth = session.function(b"lock_state", lock_key(key), reads=True)
    state = "locked" if owner else "unlocked"
    at = shown_at(key)
    if kind_of(key) == b"L":
        return f"<{state} fastmgr.Lock object at {at}>"
    shown = _shown_owner(owner) if owner else 0
    return f"<{state} fastmgr.RLock object owner={shown} count={depth} at {at}>"


# -- conditions -----------------------------------------------------------------------


cdef class SleeperWait(LockWait):
    """A call that waits to be notified, and then for the lock."""

    def pause(self, position):
        # A sleeper does not know whether it is in the lock's queue already.
        return min(LOOK_AFTER * (2 + position), LOOK_SELDOM)

    def withdraw(self):
        """Wait for the lock: however the call ends, the lock is the thread's again."""
        raised = None
        reply = None
        self.deadline = None
        while True:
            try:
                if reply is None:
                    reply = self.persist(b"_withdraw")
                self.wait(reply)
                break
            except BaseException as error:
                if self.answered:
                    break  # the server is gone, and the lock with it
                raised = error  # of a signal's handler: the lock comes first
        if raised is not None:
            raise raised


def wait(session, key, timeout=None):
    seconds = timeout_of(timeout)
    lock = lock_key(key)
    session.life.check(lock)
    sleep = SleeperWait(session, key, b"condition", lock)
    reply = sleep.begin(b"condition_wait", kind_of(lock), timeout=seconds)
    if sleep.is_void():
        # It slept unseen: what it was to be told it must look for itself.
        for _ in range(session.life.forget_lost(lock) or 1):
            acquire(session, lock)
        return True
    if reply is None or len(reply) < 3:
        return True
    session.life.renewed(lock, reply[1])
    return bytes(reply[2]) == b"N"


def notify(session, key, n=1):
    lock = lock_key(key)
    session.life.check(lock)
    number = math.ceil(min(n, 2**53)) if n > 0 else 0  # no number either (nan) notifies nobody
    Wait(session, key, b"condition", lock).ask(b"condition_notify", kind_of(lock), number)


def notify_all(session, key):
    notify(session, key, 2**53)


class ConditionMaker(Maker):
    """Makes a condition with a lock of its own, or over a lock that is shared.

    A condition over a lock has the lock's hash tag, so that one function may change both; its hash
    has the lock's proxy, which it holds as a container does.
    """

    def make(self, session, typeid, args, kwds):
        lock = self.lock_of(*args, **kwds)
        ident = make_ident(typeid)
        if lock is None:
            make(session, session.key_of(ident), typeid)
            return ident
        methods = METHODS.get(lock._token.typeid, {}) if isinstance(lock, Target) else {}
        if "acquire" not in methods or lock._token.address != session.address:
            raise TypeError(f"{lock!r} is no proxy of a lock on this server")
        if lock._token.typeid not in ("Lock", "RLock", "Condition") or "@" in lock._id:
            raise NotHosted(
                f"a Valkey server cannot host a Condition over a {lock._token.typeid}, but over a "
                "Lock or an RLock\n"
            )
        ident = f"{ident}@{lock._id}"
        key = session.key_of(ident)
        make(session, key, typeid)
        session.function(b"condition_over", key, store(session, key, lock))
        return ident

    def lock_of(self, lock=None):
        return lock


def show_condition(session, key):
    sleepers = session.function(b"condition_sleepers", key, reads=True)
    return f"<Condition({show_lock(session, key)}, {sleepers})>"


# -- semaphores -------------------------------------------------------------------------


def acquire_permit(session, bytes key, blocking=True, timeout=None):
    if not blocking and timeout is not None:
        raise ValueError("can't specify timeout for non-blocking acquire")
    cdef object reply, seconds = None if timeout is None else seconds_of(timeout)
    cdef bytes block = (
        b"0" if not blocking or (seconds is not None and not seconds > 0) else b"1")
    cdef Grants life = session.life
    cdef Wait wait = None
    cdef bint is_noted = False
    life.check(key)
    try:
        while True:
            wait = Wait.__new__(Wait)
            wait.prepare(session, (key,), b"semaphore")
            reply = wait.go([*wait.request_for(b"semaphore_acquire"), block], seconds)
            if not wait.is_void():
                break
            seconds = wait.left()
        if reply is not None:
            life.took(key, 0)
            is_noted = True
            life.note_permit(key, wait.name)
    except BaseException:
        undo(life, key, wait, is_noted)
        raise
    if reply is None:
        timeout_of(timeout)
    return reply is not None


def release_permits(session, bytes key, n=1):
    if n < 1:
        raise ValueError("n must be one or more")
    if operator.index(n) > MOST:
        if b":Bounded" in key:
            raise ValueError("Semaphore released too many times")
        raise OverflowError("the semaphore's counter cannot be so high")
    cdef Grants life = session.life
    life.check(key, True)
    cdef list request = [b"FCALL", b"fm1_semaphore_release", b"1", key, life.name(), n]
    cdef bytes permit = life.permit(key)
    if permit is not None:
        request.append(permit)
    give_back(session, key, request, n, [1] if permit is not None and n == 1 else [])


def permits_locked(session, key):
    return bool(session.function(b"semaphore_value", key, reads=True)[0] == b"0")


def permit_owner_died(session, key):
    return bool(session.function(b"semaphore_died", key, reads=True))


def permits_consistent(session, key):
    session.function(b"consistent", key)


def make_semaphore(session, key, value=1):
    make(session, key, "Semaphore", b"v", _permits(value))


def make_bounded_semaphore(session, key, value=1):
    number = _permits(value)
    make(session, key, "BoundedSemaphore", b"v", number, b"b", number)


def _permits(value):
    if value < 0:
        raise ValueError("semaphore initial value must be >= 0")
    number = counted(value)
    if number > MOST:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return number


def show_semaphore(session, key):
    value, bound = session.function(b"semaphore_value", key, reads=True)
    name, state = "Semaphore", f"value={value.decode()}"
    if bound is not None:
        name, state = "BoundedSemaphore", f"{state}/{bound.decode()}"
    return f"<fastmgr.{name} at {shown_at(key)}: {state}>"


declare(
    "Lock", create=make_lock, acquire=acquire, release=release, locked=locked,
    owner_died=owner_died, consistent=consistent, show=show_lock,
)  # fmt: skip
declare(
    "RLock", create=make_rlock, acquire=acquire, release=release, locked=locked,
    owner_died=owner_died, consistent=consistent, show=show_lock,
)  # fmt: skip
declare(
    "Condition",  acquire=acquire, release=release, locked=locked,
    owner_died=owner_died, consistent=consistent, wait=wait, notify=notify,
    notify_all=notify_all, show=show_condition,
)  # fmt: skip
METHODS["Condition"]["#create"] = ConditionMaker()
for _typeid, _create in (
    ("Semaphore", make_semaphore),
    ("BoundedSemaphore", make_bounded_semaphore),
):
    declare(
        _typeid, create=_create, acquire=acquire_permit, release=release_permits,
        locked=permits_locked, owner_died=permit_owner_died, consistent=permits_consistent,
        show=show_semaphore,
    )  # fmt: skip
