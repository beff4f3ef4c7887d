"""Where primitives are, in this process or a server, and clients that call and wait there."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import managers as stdlib
from typing import Any

import fastmgr
from fastmgr.kinds import events, locks, primitives, queues, semaphores, waits
from support import DEADLINE, KEY, Probe, ProbeManager, Tracked, poll
from support.managers import Census
from support.valkeys import ValkeyCensus


class Client(threading.Thread):
    """A call in a thread of its own, and so of a client of its own."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self.job = (function, args)
        self.outcome: tuple[bool, Any] | None = None
        self.start()

    def run(self) -> None:
        function, args = self.job
        try:
            self.outcome = (True, function(*args))
        except BaseException as error:
            self.outcome = (False, error)

    def result(self) -> Any:
        self.join(DEADLINE)
        assert self.outcome is not None, f"{self.job} has not returned"
        good, value = self.outcome
        if not good:
            raise value
        return value


class Opaque:
    """Only pickle can carry it, and it is equal to none but itself."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Opaque) and other.value == self.value

    __hash__ = None  # type: ignore[assignment]


class Last(Tracked):
    """Counts itself, and notes where in the server its kind is destroyed."""

    ended_on: tuple[str, ...] = ()

    def __reduce__(self) -> tuple[Callable[[str], Last], tuple[str]]:
        return last, ("names multiprocessing, and so is not carried unread",)

    def __del__(self) -> None:
        Last.ended_on += (threading.current_thread().name,)
        super().__del__()


def last(_note: str) -> Last:
    return Last()


class LastProbe(Probe):
    def ended_on(self) -> tuple[str, ...]:
        gc.collect()
        return Last.ended_on


class ParkManager(ProbeManager):
    """With what these tests have in the server."""


ParkManager.register("Census", Census)
ParkManager.register("LastProbe", LastProbe)


class Place:
    """The primitives as threads of one process see them."""

    def __init__(self) -> None:
        self.Lock, self.RLock, self.Condition = locks.Lock, locks.RLock, locks.Condition
        self.Semaphore, self.BoundedSemaphore = semaphores.Semaphore, semaphores.BoundedSemaphore
        self.Event = events.Event
        self.Barrier, self.Queue = primitives.Barrier, queues.Queue

    Lock: Any
    RLock: Any
    Condition: Any
    Semaphore: Any
    BoundedSemaphore: Any
    Event: Any
    Barrier: Any
    Queue: Any

    def parked(self) -> int:
        """How many calls wait."""
        found = [o for o in gc.get_objects() if type(o) is waits.Waiter and not o.finished]
        # One may be on its way to be served at once, and only be held up by the search.
        time.sleep(0.002)
        return sum(not waiter.finished for waiter in found)

    def enter(self) -> None:
        """Be a client, on a thread that has done nothing yet."""

    def call(self, function: Callable[..., Any], *args: Any) -> Client:
        """A client that makes a call."""

        def run() -> Any:
            self.enter()
            return function(*args)

        return Client(run)

    def park(self, function: Callable[..., Any], *args: Any) -> Client:
        """A client that makes a call and now waits in it."""
        before = self.parked()
        client = self.call(function, *args)
        self.await_parked(before + 1)
        return client

    def await_parked(self, number: int) -> None:
        poll(lambda: self.parked() == number, f"{number} calls wait")


class Managed(Place):
    """The primitives as clients of a server see them."""

    def __init__(self, manager: ParkManager) -> None:
        self.manager = manager
        self.census = manager.Census()
        # On its own thread: asking a user's class would change how the others are served.
        self.observer = ThreadPoolExecutor(1)

    def __getattr__(self, kind: str) -> Any:
        return getattr(self.manager, kind)

    def parked(self) -> int:
        return self.observer.submit(self.census.parked).result(DEADLINE)


class Pinned(Managed):
    """Each client has called a user's class, and so has a thread of the server for itself."""

    def enter(self) -> None:
        assert self.manager.Sleeper().echo(1) == 1


def with_ring(proxy: Any) -> Any:
    """A queue that has a ring, of which the proxy knows."""
    for _ in range(17):  # calls, after which a proxy asks
        proxy.qsize()
    return proxy


class Ringed(Managed):
    """Queues have rings, in which clients put and get by themselves."""

    def __getattr__(self, kind: str) -> Any:
        if kind != "Queue":
            return super().__getattr__(kind)
        return lambda *args: with_ring(self.manager.Queue(*args))


class OnValkey(Managed):
    """The primitives as clients of a Valkey or Redis server see them."""

    def __init__(self, manager: fastmgr.SyncManager) -> None:
        self.manager = manager
        self.census = ValkeyCensus(manager._session)
        self.observer = ThreadPoolExecutor(1)


STOCK_PROXIES = {
    "Lock": stdlib.AcquirerProxy,
    "RLock": stdlib.AcquirerProxy,
    "Semaphore": stdlib.AcquirerProxy,
    "BoundedSemaphore": stdlib.AcquirerProxy,
    "Condition": stdlib.ConditionProxy,
    "Event": stdlib.EventProxy,
    "Barrier": stdlib.BarrierProxy,
    "Queue": stdlib.MakeProxyType("Queue", fastmgr.managers.public_methods(queues.Queue())),
}


def stock(proxy: Any) -> Any:
    """The stdlib's own proxy of the same object; lives no longer than `proxy`."""
    token = stdlib.Token(proxy._token.typeid, proxy._token.address, proxy._token.id)
    return STOCK_PROXIES[token.typeid](token, "pickle", authkey=KEY, incref=False)


class Stock(Managed):
    """The clients are the stdlib's."""

    def __init__(self, manager: ParkManager) -> None:
        super().__init__(manager)
        self.keep: list[Any] = []

    def __getattr__(self, kind: str) -> Any:
        def make(*args: Any, **kwds: Any) -> Any:
            self.keep.append(getattr(self.manager, kind)(*args, **kwds))
            if kind == "Queue" and len(self.keep) % 2:
                with_ring(self.keep[-1])
            return stock(self.keep[-1])

        return make


def outcome(function: Callable[..., Any], *args: Any, **kwds: Any) -> tuple[Any, ...]:
    try:
        return "returned", function(*args, **kwds)
    except Exception as error:
        # Our wording is that of later versions.
        text = str(error).replace("must be positive", "must be a non-negative number")
        return type(error), text


def taken(lock: Any) -> bool:
    """Whether anybody has a lock, where it may not be able to say so."""
    with ThreadPoolExecutor(1) as somebody:
        if not somebody.submit(lock.acquire, False).result():
            return True
        somebody.submit(lock.release).result()
        return False


def permits(semaphore: Any) -> int:
    count = 0
    while semaphore.acquire(False):
        count += 1
    for _ in range(count):
        semaphore.release()
    return count


def contents(q: Any) -> tuple[Any, ...]:
    return q.qsize(), q.empty(), q.full(), getattr(q, "is_shutdown", False)


HUGE = 10**5000
NAN = float("nan")
