"""The rows of the primitives, and functions that make a primitive of ours or of `threading`."""

from __future__ import annotations

import _thread
import queue
import threading
from typing import Any

from fastmgr.kinds import events, locks, queues, semaphores
from fastmgr.kinds.rows import Row, Unread, declare, names

__all__ = [
    "BARRIER", "BOUNDED_SEMAPHORE", "CONDITION", "EVENT", "LOCK", "QUEUE", "RLOCK", "SEMAPHORE",
    "Barrier", "Condition", "is_locked",
]  # fmt: skip

_RLock = type(threading.RLock())


def Condition(lock: Any = None) -> Any:
    """Return a condition; one over a lock that is given waits in threads."""
    return locks.Condition() if lock is None else threading.Condition(lock)


def Barrier(parties: int, action: Any = None, timeout: float | None = None) -> Any:
    """Return a barrier; one with an action to call waits in threads."""
    if action is None:
        return events.Barrier(parties, timeout)
    return threading.Barrier(parties, action, timeout)


def is_locked(obj: Any) -> bool:
    """Whether a primitive of `threading` is held; AttributeError for what cannot be held."""
    if isinstance(obj, threading.Condition):
        obj = obj._lock  # type: ignore[attr-defined]
    if isinstance(obj, threading.Semaphore):
        return bool(obj._value == 0)
    if isinstance(obj, _RLock):
        # The compiled RLock shows its state in its representation alone.
        return repr(obj).startswith("<locked")
    return bool(obj.locked())


def _holdable(kind: type) -> Row:
    """Declare a lock or semaphore: a client may make each call by one step on a slot."""
    return declare(
        Row(
            typeids=(kind.__name__,),
            make=kind,
            types=(kind,),
            proxy="fastmgr.proxies:AcquirerProxy",
            exposed=("acquire", "release", "locked", "owner_died", "consistent"),
            cell_calls=names("acquire release locked"),
            loop_makes=True,
            parks=True,
        )
    )


LOCK = _holdable(locks.Lock)
RLOCK = _holdable(locks.RLock)
SEMAPHORE = _holdable(semaphores.Semaphore)
BOUNDED_SEMAPHORE = _holdable(semaphores.BoundedSemaphore)

CONDITION = declare(
    Row(
        typeids=("Condition",),
        make=Condition,
        types=(locks.Condition,),
        proxy="fastmgr.proxies:ConditionProxy",
        exposed=(*LOCK.exposed, "wait", "notify", "notify_all"),
        cell_calls=frozenset(),  # its waiters are the server's in any case
        loop_makes=True,
        parks=True,
    )
)

EVENT = declare(
    Row(
        typeids=("Event",),
        make=events.Event,
        types=(events.Event,),
        proxy="fastmgr.proxies:EventProxy",
        exposed=("is_set", "set", "clear", "wait"),
        cell_calls=names("is_set"),
        loop_makes=True,
        parks=True,
    )
)

BARRIER = declare(
    Row(
        typeids=("Barrier",),
        make=Barrier,
        types=(events.Barrier,),
        proxy="fastmgr.proxies:BarrierProxy",
        exposed=("__getattribute__", "wait", "abort", "reset"),
        cell_calls=frozenset(),
        loop_makes=True,
        parks=True,
        errors=(threading.BrokenBarrierError,),
    )
)

QUEUE = declare(
    Row(
        typeids=("Queue", "JoinableQueue"),
        make=queues.Queue,
        types=(queues.Queue,),
        cell_calls=frozenset(),
        unread=Unread(keeps={"put": 0, "put_nowait": 0}, blind=None),
        loop_makes=True,
        parks=True,
        errors=(queue.Empty, queue.Full, getattr(queue, "ShutDown", queue.Full)),
    )
)

# The stdlib's own, which users register: a call of them waits on a thread, but on any.
declare(
    Row(
        types=(
            _thread.LockType, queue.Queue, threading.Semaphore, threading.BoundedSemaphore,
            threading.Event, threading.Barrier,
        ),
        any_thread=True,
    )
)  # fmt: skip
