"""The methods of locks, conditions and semaphores."""

from __future__ import annotations

import math
import operator
import threading
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from fastmgr.client.session import Target
from fastmgr.engines.valkey.commands import METHODS
from fastmgr.engines.valkey.fences import lock_key
from fastmgr.engines.valkey.references import Maker, make_ident, store
from fastmgr.engines.valkey.waiting import (
    LOOK_AFTER,
    LOOK_SELDOM,
    MOST,
    Wait,
    counted,
    declare,
    give_back,
    make,
    seconds_of,
    shown_at,
    timeout_of,
)  # fmt: skip
from fastmgr.stock.dialect import NotHosted

__all__: list[str] = []

# -- locks --------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def kind_of(key: bytes) -> bytes:
    """Return L or R, for a lock that its owner may take again."""
    return b"L" if key.partition(b":")[2].startswith(b"Lock") else b"R"


class LockWait(Wait):
    """A call that waits for a lock."""

    def granted(self, token: bytes) -> list[Any]:
        how, _, fence = token.rpartition(b" ")
        return [1, int(fence), how[:1]]


def lock_timeout(blocking: Any, timeout: Any) -> float | None:
    """Check what `threading.Lock.acquire` takes; None to wait for ever, 0 not to wait."""
    if blocking is True and timeout == -1 and type(timeout) is int:
        return None
    if type(blocking) is not bool or type(timeout) is not int or timeout != -1:
        # So that wrong arguments get this interpreter's own message.
        threading.Lock().acquire(blocking, timeout)
    if not blocking:
        return 0
    timeout = float(timeout)
    return None if timeout == -1 else timeout


def acquire(session: Any, key: bytes, blocking: Any = True, timeout: Any = -1) -> bool:
    seconds = lock_timeout(blocking, timeout)
    key = lock_key(key)
    session.life.check(key)
    block = b"0" if seconds == 0 else b"1"
    wait, is_noted = None, False
    try:
        while True:
            wait = LockWait(session, key, b"lock")
            reply = wait.begin(b"lock_acquire", block, kind_of(key), timeout=seconds)
            if not wait.is_void():
                break
            seconds = wait.left()
        if reply is None:
            return False
        session.life.took(key, reply[1] if len(reply) > 1 else 0)
        is_noted = True
    except BaseException:
        undo(session, key, wait, is_noted)
        raise
    return True


def undo(session: Any, key: bytes, wait: Wait | None, is_noted: bool) -> None:
    """Give back what a call has taken that an exception of a signal's handler ends."""
    if is_noted:
        session.life.gave(key)
    if wait is not None:
        wait.undo()


def release(session: Any, key: bytes) -> None:
    key = lock_key(key)
    session.life.check(key, gives=True)
    request = [b"FCALL", b"fm1_lock_release", 1, key, session.life.name(), kind_of(key)]
    give_back(session, key, request, grant=session.life.grant(key))


def locked(session: Any, key: bytes) -> bool:
    return bool(session.function(b"lock_locked", lock_key(key), reads=True))


def owner_died(session: Any, key: bytes) -> bool:
    return bool(session.function(b"lock_died", lock_key(key), reads=True))


def consistent(session: Any, key: bytes) -> None:
    session.function(b"consistent", lock_key(key))


def make_lock(session: Any, key: bytes, *args: Any, **kwds: Any) -> None:
    if args or kwds:
        threading.Lock(*args, **kwds)  # raises as this interpreter does
    make(session, key, "Lock")


def make_rlock(session: Any, key: bytes, *args: Any, **kwds: Any) -> None:
    if args or kwds:
        threading.RLock(*args, **kwds)  # some interpreters take any
    make(session, key, "RLock")


def _shown_owner(owner: bytes) -> str:
    session, thread, _ = owner.split(b"/")
    return f"{int(session, 16) % 1000003 + 1}.{int(thread)}"


def show_lock(session: Any, key: bytes) -> str:
    """What `threading` shows of a lock."""
    owner, depth = session.function(b"lock_state", lock_key(key), reads=True)
    state = "locked" if owner else "unlocked"
    at = shown_at(key)
    if kind_of(key) == b"L":
        return f"<{state} fastmgr.Lock object at {at}>"
    shown = _shown_owner(owner) if owner else 0
    return f"<{state} fastmgr.RLock object owner={shown} count={depth} at {at}>"


# -- conditions -----------------------------------------------------------------------


class SleeperWait(LockWait):
    """A call that waits to be notified, and then for the lock."""

    def pause(self, position: int) -> float:
        # A sleeper does not know whether it is in the lock's queue already.
        return min(LOOK_AFTER * (2 + position), LOOK_SELDOM)

    def withdraw(self) -> None:
        """Wait for the lock: however the call ends, the lock is the thread's again."""
        raised: BaseException | None = None
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


def wait(session: Any, key: bytes, timeout: Any = None) -> bool:
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


def notify(session: Any, key: bytes, n: Any = 1) -> None:
    lock = lock_key(key)
    session.life.check(lock)
    number = math.ceil(min(n, 2**53)) if n > 0 else 0  # no number either (nan) notifies nobody
    Wait(session, key, b"condition", lock).ask(b"condition_notify", kind_of(lock), number)


def notify_all(session: Any, key: bytes) -> None:
    notify(session, key, 2**53)


class ConditionMaker(Maker):
    """Makes a condition with a lock of its own, or over a lock that is shared.

    A condition over a lock has the lock's hash tag, so that one function may change both; its hash
    has the lock's proxy, which it holds as a container does.
    """

    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
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

    def lock_of(self, lock: Any = None) -> Any:
        return lock


def show_condition(session: Any, key: bytes) -> str:
    sleepers = session.function(b"condition_sleepers", key, reads=True)
    return f"<Condition({show_lock(session, key)}, {sleepers})>"


# -- semaphores -------------------------------------------------------------------------


def acquire_permit(session: Any, key: bytes, blocking: Any = True, timeout: Any = None) -> bool:
    if not blocking and timeout is not None:
        raise ValueError("can't specify timeout for non-blocking acquire")
    seconds = None if timeout is None else seconds_of(timeout)
    block = b"0" if not blocking or (seconds is not None and not seconds > 0) else b"1"
    session.life.check(key)
    wait, is_noted = None, False
    try:
        while True:
            wait = Wait(session, key, b"semaphore")
            reply = wait.begin(b"semaphore_acquire", block, timeout=seconds)
            if not wait.is_void():
                break
            seconds = wait.left()
        if reply is not None:
            session.life.took(key, 0)
            is_noted = True
            session.life.note_permit(key, wait.name)
    except BaseException:
        undo(session, key, wait, is_noted)
        raise
    if reply is None:
        timeout_of(timeout)
    return reply is not None


def release_permits(session: Any, key: bytes, n: Any = 1) -> None:
    if n < 1:
        raise ValueError("n must be one or more")
    if operator.index(n) > MOST:
        if b":Bounded" in key:
            raise ValueError("Semaphore released too many times")
        raise OverflowError("the semaphore's counter cannot be so high")
    session.life.check(key, gives=True)
    request = [b"FCALL", b"fm1_semaphore_release", 1, key, session.life.name(), n]
    permit = session.life.permit(key)
    if permit is not None:
        request.append(permit)
    give_back(session, key, request, n, [1] if permit is not None and n == 1 else [])


def permits_locked(session: Any, key: bytes) -> bool:
    return bool(session.function(b"semaphore_value", key, reads=True)[0] == b"0")


def permit_owner_died(session: Any, key: bytes) -> bool:
    return bool(session.function(b"semaphore_died", key, reads=True))


def permits_consistent(session: Any, key: bytes) -> None:
    session.function(b"consistent", key)


def make_semaphore(session: Any, key: bytes, value: Any = 1) -> None:
    make(session, key, "Semaphore", b"v", _permits(value))


def make_bounded_semaphore(session: Any, key: bytes, value: Any = 1) -> None:
    number = _permits(value)
    make(session, key, "BoundedSemaphore", b"v", number, b"b", number)


def _permits(value: Any) -> int:
    if value < 0:
        raise ValueError("semaphore initial value must be >= 0")
    number = counted(value)
    if number > MOST:
        raise OverflowError("Python int too large to convert to C ssize_t")
    return number


def show_semaphore(session: Any, key: bytes) -> str:
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
