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
    """Return a lock, as `threading.Lock`: anybody may release it.

    If the process that holds it dies, the next one gets it, whose ``lock.owner_died`` says so.

    Returns
    -------
    AcquirerProxy

    Examples
    --------
    >>> lock = manager.Lock()
    >>> with lock:
    ...     lock.locked()
    True
    """
    return locks.Lock()


def RLock(*args: Any, **kwds: Any) -> Any:
    """Return a lock, as `threading.RLock`: its owner may take it again, and must release it.

    The owner is a thread of a process. If the process dies, the next one gets the lock.

    Returns
    -------
    AcquirerProxy

    Examples
    --------
    >>> lock = manager.RLock()
    >>> with lock, lock:
    ...     lock.acquire(blocking=False)
    True
    """
    return locks.RLock(*args, **kwds)  # some interpreters take any arguments


RLock.__wrapped__ = Lock  # type: ignore[attr-defined]  # for `help`: it needs none


def Semaphore(value: int = 1) -> Any:
    """Return a semaphore, as `threading.Semaphore`; the permits of a process that dies are free.

    Parameters
    ----------
    value : int
        How many permits there are.

    Returns
    -------
    AcquirerProxy

    Notes
    -----
    When a party without a permit releases while several parties have some, nobody can tell whose
    permit that was.  One becomes free, and the next of these parties to die gives back one less.

    Examples
    --------
    >>> permits = manager.Semaphore(1)
    >>> permits.acquire()
    True
    >>> permits.acquire(blocking=False)
    False
    """
    return semaphores.Semaphore(value)


def BoundedSemaphore(value: int = 1) -> Any:
    """Return a semaphore that no release may raise above where it began.

    As `threading.BoundedSemaphore`: to release more permits than there are raises ValueError.

    Parameters
    ----------
    value : int
        How many permits there are.

    Returns
    -------
    AcquirerProxy

    Examples
    --------
    >>> with manager.BoundedSemaphore(3):
    ...     pass
    """
    return semaphores.BoundedSemaphore(value)


def Event() -> Any:
    """Return an event, as `threading.Event`: some wait for it until another sets it.

    Returns
    -------
    EventProxy

    Examples
    --------
    >>> ready = manager.Event()
    >>> ready.set()
    >>> ready.wait(timeout=2)
    True
    """
    return events.Event()


def Queue(maxsize: int = 0) -> Any:
    """Return a queue, as `queue.Queue`: first in, first out, for any number of processes.

    Parameters
    ----------
    maxsize : int
        How many items there may be before ``put`` waits; 0 for any number.

    Returns
    -------
    QueueProxy

    Examples
    --------
    >>> jobs = manager.Queue()
    >>> jobs.put("a")
    >>> jobs.put_many(["b", "c"])
    >>> jobs.get(timeout=2)
    'a'
    >>> jobs.get_many(100)
    ['b', 'c']
    """
    return queues.Queue(maxsize)


def Condition(lock: Any = None) -> Any:
    """Return a condition, as `threading.Condition`: a lock, and waiting for what it guards.

    Parameters
    ----------
    lock : lock, optional
        A `threading` lock in the server, for code that runs there; clients leave it out.  Each who
        waits with such a lock takes a thread of the server.

    Returns
    -------
    ConditionProxy

    Examples
    --------
    >>> condition = manager.Condition()
    >>> with condition:
    ...     condition.wait_for(lambda: True, timeout=2)
    True
    """
    return locks.Condition() if lock is None else threading.Condition(lock)


def Barrier(parties: int, action: Any = None, timeout: float | None = None) -> Any:
    """Return a barrier, as `threading.Barrier`: each waits until all parties have come.

    Parameters
    ----------
    parties : int
        How many have to come.
    action : callable, optional
        What one of them calls, in the server, before they go on.  Each who waits then takes a
        thread of the server.
    timeout : float, optional
        Seconds that ``wait`` takes at most if it is given none; then the barrier is broken.

    Returns
    -------
    BarrierProxy

    Examples
    --------
    >>> manager.Barrier(1).wait()
    0
    """
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
            keeps={"put": 0, "put_nowait": 0, "put_many": 0},
            blind=None,
            each=names("put_many"),
            find="fastmgr.kinds.queues:unread_values",
            put_in_place="fastmgr.kinds.queues:put_in_place",
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
