"""The rows of the primitives, and functions that make a primitive of ours or of `threading`."""

from __future__ import annotations

import _thread
import queue
import threading
from collections.abc import Callable
from typing import Any

from fastmgr.kinds.rows import Later, Row, Unread, declare, names

events, locks, queues, semaphores = (
    Later(f"fastmgr.kinds.{name}") for name in ("events", "locks", "queues", "semaphores")
)

__all__ = [
    "BARRIER", "BOUNDED_SEMAPHORE", "CONDITION", "EVENT", "LOCK", "QUEUE", "RLOCK", "SEMAPHORE",
    "Barrier", "BoundedSemaphore", "Condition", "Event", "Lock", "Queue", "RLock", "Semaphore",
    "is_locked",
]  # fmt: skip

_RLock = type(threading.RLock())


def Lock() -> Any:
    """As `threading.Lock`: anybody may release it."""
    return locks.Lock()


def RLock(*args: Any, **kwds: Any) -> Any:
    """As `threading.RLock`: its owner may take it again, and nobody else may release it."""
    return locks.RLock(*args, **kwds)  # some interpreters take any arguments


RLock.__wrapped__ = Lock  # type: ignore[attr-defined]  # for `help`: it needs none


def Semaphore(value: int = 1) -> Any:
    """As `threading.Semaphore`.

    When a party without a permit releases while several parties have some, nobody can tell whose
    permit that was.  One becomes free, and the next of these parties to die gives back one less.
    """
    return semaphores.Semaphore(value)


def BoundedSemaphore(value: int = 1) -> Any:
    """As `threading.BoundedSemaphore`."""
    return semaphores.BoundedSemaphore(value)


def Event() -> Any:
    """As `threading.Event`."""
    return events.Event()


def Queue(maxsize: int = 0) -> Any:
    """As `queue.Queue`."""
    return queues.Queue(maxsize)


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


def _holdable(make: Callable[..., Any], kind: str) -> Row:
    """Declare a lock or semaphore: a client may make each call by one step on a slot."""
    return declare(
        Row(
            typeids=(make.__name__,),
            make=make,
            also_make=(kind,),
            types=(kind,),
            proxy="fastmgr.proxies:AcquirerProxy",
            exposed=("acquire", "release", "locked", "owner_died", "consistent"),
            cell_calls=names("acquire release locked"),
            loop_makes=True,
            parks=True,
        )
    )


LOCK = _holdable(Lock, "fastmgr.kinds.locks:Lock")
RLOCK = _holdable(RLock, "fastmgr.kinds.locks:RLock")
SEMAPHORE = _holdable(Semaphore, "fastmgr.kinds.semaphores:Semaphore")
BOUNDED_SEMAPHORE = _holdable(BoundedSemaphore, "fastmgr.kinds.semaphores:BoundedSemaphore")

CONDITION = declare(
    Row(
        typeids=("Condition",),
        make=Condition,
        types=("fastmgr.kinds.locks:Condition",),
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
        make=Event,
        also_make=("fastmgr.kinds.events:Event",),
        types=("fastmgr.kinds.events:Event",),
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
        types=("fastmgr.kinds.events:Barrier",),
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
        make=Queue,
        also_make=("fastmgr.kinds.queues:Queue",),
        types=("fastmgr.kinds.queues:Queue",),
        cell_calls=names(
            "put put_nowait put_many get get_nowait get_many qsize empty full task_done"
        ),
        unread=Unread(
            keeps={"put": 0, "put_nowait": 0, "put_many": 0}, blind=None, each=names("put_many")
        ),
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
