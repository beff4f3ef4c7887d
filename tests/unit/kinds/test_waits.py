"""The primitives do what those of `threading` and `queue` do, from wherever they are called."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import queue
import re
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import managers as stdlib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings, strategies as st
from support import (
    DEADLINE,
    KEY,
    FastPeer,
    Probe,
    ProbeManager,
    Tracked,
    call_in_subprocess,
    count_behind_an_acquire,
    in_thread,
    poll,
)
from support.frames import OP_CALL, OP_INCREF

import fastmgr
from fastmgr.kinds import events, locks, primitives, queues, semaphores, waits
from fastmgr.wire import codec

pytestmark = pytest.mark.timeout(60)


# Where the primitives are, and who calls them


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


class Census:
    """Looks at the waiters from within the server."""

    def parked(self) -> int:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        waiters = [conn.waiter for conn in list(server._engine.conns.values())]
        return sum(waiter is not None and not waiter.finished for waiter in waiters)


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


STOCK_PROXIES = {
    "Lock": stdlib.AcquirerProxy,
    "RLock": stdlib.AcquirerProxy,
    "Semaphore": stdlib.AcquirerProxy,
    "BoundedSemaphore": stdlib.AcquirerProxy,
    "Condition": stdlib.ConditionProxy,
    "Event": stdlib.EventProxy,
    "Barrier": stdlib.BarrierProxy,
    "Queue": stdlib.MakeProxyType("Queue", fastmgr.managers.public_methods(queue.Queue())),
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
            return stock(self.keep[-1])

        return make


@pytest.fixture(scope="module")
def park_manager() -> Iterator[ParkManager]:
    with ParkManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def polling_manager() -> Iterator[ParkManager]:
    """Its server waits by poll(), as where there is no epoll."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FASTMGR_POLLER", "poll")
        manager = ParkManager(authkey=KEY)
        manager.start()
    with manager:
        yield manager


@pytest.fixture(params=["threads", "manager", "pinned", "stock", "polling"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    kinds = {"manager": Managed, "pinned": Pinned, "stock": Stock, "polling": Managed}
    if request.param == "threads":
        found = Place()
    else:
        name = "polling_manager" if request.param == "polling" else "park_manager"
        found = kinds[request.param](request.getfixturevalue(name))
    found.await_parked(0)
    yield found
    found.await_parked(0)
    if isinstance(found, Managed):
        found.observer.shutdown()


# The same calls do the same as the stdlib's


def outcome(function: Callable[..., Any], *args: Any, **kwds: Any) -> tuple[Any, ...]:
    try:
        return "returned", function(*args, **kwds)
    except Exception as error:
        # Our wording is that of later versions.
        text = str(error).replace("must be positive", "must be a non-negative number")
        return type(error), text


class Twin(NamedTuple):
    """One of our types, one of the stdlib's, and calls of either that do not wait."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    arguments: list[tuple[Any, ...]]
    calls: list[tuple[str, tuple[Any, ...]]]
    state: Callable[[Any], Any]


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


LOCKING: list[tuple[str, tuple[Any, ...]]] = [
    ("acquire", (False,)),
    ("acquire", (True, 0)),
    ("acquire", (True, 0.0005)),
    ("acquire", (True, -2)),
    ("acquire", (True, 1e200)),
    ("acquire", (False, 1)),
    ("acquire", (True, "soon")),
    ("release", ()),
    ("release", ()),
]
PERMITTING: list[tuple[str, tuple[Any, ...]]] = [
    ("acquire", (False,)),
    ("acquire", (False, 0)),
    ("acquire", (True, 0)),
    ("acquire", (True, -1)),
    ("acquire", (True, 0.0005)),
    ("release", ()),
    ("release", (2,)),
    ("release", (0,)),
]
QUEUEING: list[tuple[str, tuple[Any, ...]]] = [
    ("put", ("a", False)),
    ("put", ("b", True, 0)),
    ("put", ("c", True, 0.0005)),
    ("put", ("d", True, -1)),
    ("put", ("e", False, -1)),
    ("put_nowait", ("f",)),
    ("get", (False,)),
    ("get", (True, 0)),
    ("get", (True, 0.0005)),
    ("get", (True, -1)),
    ("get", (False, -1)),
    ("get_nowait", ()),
    ("task_done", ()),
]
if hasattr(queue, "ShutDown"):
    QUEUEING += [("shutdown", ()), ("shutdown", (True,))]

TWINS = {
    "Lock": Twin(locks.Lock, threading.Lock, [()], LOCKING, lambda lock: lock.locked()),
    "RLock": Twin(locks.RLock, threading.RLock, [()], LOCKING, taken),
    "Condition": Twin(
        locks.Condition,
        threading.Condition,
        [()],
        [
            *LOCKING,
            ("wait", (0,)),
            ("wait", (-1,)),
            ("wait", (0.0005,)),
            ("wait_for", (lambda: 0, 0)),
            ("wait_for", (lambda: 7,)),
            ("notify", ()),
            ("notify", (-1,)),
            ("notify_all", ()),
        ],
        taken,
    ),
    "Semaphore": Twin(
        semaphores.Semaphore, threading.Semaphore, [(), (0,), (3,), (-1,)], PERMITTING, permits
    ),
    "BoundedSemaphore": Twin(
        semaphores.BoundedSemaphore,
        threading.BoundedSemaphore,
        [(), (0,), (3,), (-1,)],
        PERMITTING,
        permits,
    ),
    "Event": Twin(
        events.Event,
        threading.Event,
        [()],
        [("set", ()), ("clear", ()), ("wait", (0,)), ("wait", (-1,)), ("wait", (0.0005,))],
        lambda event: event.is_set(),
    ),
    "Barrier": Twin(
        events.Barrier,
        lambda parties, timeout=None: threading.Barrier(parties, None, timeout),
        [(1,), (1, 0), (2, 0), (3, 0.0005)],
        [("wait", (0,)), ("wait", (-1,)), ("wait", (0.0005,)), ("reset", ()), ("abort", ())],
        lambda barrier: (barrier.parties, barrier.n_waiting, barrier.broken),
    ),
    "Queue": Twin(queues.Queue, queue.Queue, [(), (0,), (-1,), (1,), (3,)], QUEUEING, contents),
}


@pytest.fixture(scope="module")
def actors() -> Iterator[list[ThreadPoolExecutor]]:
    """Two threads, who own what they own."""
    with ThreadPoolExecutor(1) as one, ThreadPoolExecutor(1) as other:
        yield [one, other]


@pytest.mark.parametrize("kind", TWINS)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_the_same_calls_do_the_same(
    kind: str, actors: list[ThreadPoolExecutor], data: st.DataObject
) -> None:
    twin = TWINS[kind]
    arguments = data.draw(st.sampled_from(twin.arguments))
    pair = [outcome(twin.ours, *arguments), outcome(twin.theirs, *arguments)]
    if pair[0][0] != "returned":
        assert pair[0] == pair[1]
        return
    ours, theirs = pair[0][1], pair[1][1]
    steps = st.tuples(st.sampled_from([0, 1]), st.sampled_from(twin.calls))
    done: list[Any] = []
    for who, (name, args) in data.draw(st.lists(steps, max_size=25)):
        results = [
            actors[who].submit(outcome, getattr(obj, name), *args).result(DEADLINE)
            for obj in (ours, theirs)
        ]
        done.append((who, name, args))
        if results[1][0] in (TypeError, OverflowError):
            # The types are one thing, the wording of the interpreter's own checks another.
            results = [result[:1] for result in results]
        assert results[0] == results[1], done
        assert twin.state(ours) == twin.state(theirs), done


@pytest.mark.parametrize("kind", TWINS)
def test_state_that_cannot_be_copied_is_not(kind: str) -> None:
    twin = TWINS[kind]
    with pytest.raises(TypeError, match="cannot pickle"):
        twin.ours(*twin.arguments[0]).__reduce_ex__(4)


def test_the_names_of_a_queue(park_manager: ParkManager) -> None:
    expected = fastmgr.managers.public_methods(queue.Queue())
    assert fastmgr.managers.public_methods(queues.Queue()) == expected
    proxy = park_manager.Queue()
    assert sorted(proxy._exposed_) == sorted(expected)
    assert sorted(park_manager.JoinableQueue()._exposed_) == sorted(expected)


@pytest.mark.parametrize(
    "kind, args, name, given_to",
    [
        ("Lock", (), "release", ()),
        ("Lock", (), "acquire", (False, 1)),
        ("Lock", (), "acquire", (True, -2)),
        ("RLock", (), "release", ()),
        ("Condition", (), "wait", ()),
        ("Condition", (), "notify", ()),
        ("Condition", (), "notify_all", ()),
        ("Condition", (), "release", ()),
        ("Semaphore", (), "acquire", (False, 1)),
        ("BoundedSemaphore", (2,), "release", ()),
        ("Barrier", (2,), "wait", (0,)),
        ("Queue", (), "get_nowait", ()),
        ("Queue", (), "get", (False,)),
        ("Queue", (), "get", (True, 0.001)),
        ("Queue", (), "get", (True, -1)),
        ("Queue", (), "task_done", ()),
    ],
)
def test_errors_cross(
    place: Place, kind: str, args: tuple[Any, ...], name: str, given_to: tuple[Any, ...]
) -> None:
    ours = getattr(place, kind)(*args)
    theirs = getattr(queue if kind == "Queue" else threading, kind)(*args)
    expected = outcome(getattr(theirs, name), *given_to)
    assert expected[0] != "returned"
    assert outcome(getattr(ours, name), *given_to) == expected


@pytest.mark.parametrize(
    "kind, args",
    [
        ("Lock", ()),
        ("RLock", ()),
        ("Condition", ()),
        ("Semaphore", (70,)),
        ("BoundedSemaphore", (3,)),
        ("Event", ()),
        ("Barrier", (2,)),
    ],
)
def test_str_says_what_that_of_threading_says(
    place: Place, kind: str, args: tuple[Any, ...]
) -> None:
    def shown(obj: Any) -> str:
        text = re.sub(r"0x\w+", "0x", str(obj)).replace("fastmgr.", "threading.")
        return re.sub(r"owner=[1-9][\d.]*", "owner=1", text.replace("_thread.", "threading."))

    ours = getattr(place, kind)(*args)
    theirs = getattr(threading, kind)(*args)
    steps = {"Event": ("set", "clear"), "Barrier": ("abort", "reset")}
    for name in ("", *steps.get(kind, ("acquire", "release"))):
        for obj in (ours, theirs) if name else ():
            getattr(obj, name)()
        if kind == "Lock" or sys.version_info >= (3, 11):
            assert shown(ours).lower() == shown(theirs).lower()


def test_str_counts_who_waits(place: Place) -> None:
    condition, barrier, q = place.Condition(), place.Barrier(3), place.Queue(5)

    def sleep() -> None:
        with condition:
            condition.wait()

    sleeper = place.park(sleep)
    party = place.park(barrier.wait)
    assert str(condition).endswith(", 1)>")
    assert str(barrier).endswith(": waiters=1/3>")
    q.put(Opaque(1))
    assert str(q).endswith(": size=1/5>")
    assert str(place.Queue()).endswith(": size=0>")
    with condition:
        condition.notify()
    barrier.abort()
    with pytest.raises(threading.BrokenBarrierError):
        party.result()
    sleeper.result()
    assert str(condition).endswith(", 0)>")


HUGE = 10**5000
NAN = float("nan")


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Condition"])
@pytest.mark.parametrize(
    "args",
    [("no",), (None,), (1.5,), (HUGE,), (True, NAN), (True, "1"), (True, None), (True, HUGE)],
    ids=lambda args: "-".join(type(arg).__name__ for arg in args),
)
def test_what_this_interpreter_says_of_arguments(place: Place, kind: str, args: Any) -> None:
    """The stdlib's own proxies leave out a timeout of None, as ours do."""
    ours, theirs = getattr(place, kind)(), getattr(threading, kind)()
    expected = outcome(theirs.acquire, *args[: 1 if args[-1] is None and len(args) > 1 else 2])
    if type(place) is Place and args == (True, None):
        expected = outcome(theirs.acquire, *args)
    assert outcome(ours.acquire, *args) == expected
    if expected[0] == "returned":
        ours.release()


@pytest.mark.parametrize(
    "kind, args, kwds",
    [
        ("Lock", (1,), {}),
        ("Lock", ("spam",), {"x": 2}),
        ("Lock", (), {"name": "hits"}),
        ("RLock", (1,), {}),  # newer interpreters refuse it
        ("Event", (1,), {}),
        ("Event", (), {"name": "hits"}),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_arguments_that_make_no_primitive(
    manager: ProbeManager, kind: str, args: Any, kwds: Any
) -> None:
    try:
        getattr(threading, kind)(*args, **kwds)
    except TypeError:
        with pytest.raises(fastmgr.managers.RemoteError, match="TypeError"):
            getattr(manager, kind)(*args, **kwds)
    else:
        getattr(manager, kind)(*args, **kwds)


@pytest.mark.parametrize("maxsize", [2.5, 2.0, 0.5, -0.5, float("inf"), NAN])
def test_size_of_a_queue_that_is_no_integer(maxsize: float) -> None:
    ours, theirs = queues.Queue(maxsize), queue.Queue(maxsize)  # type: ignore[arg-type]
    for _ in range(4):
        assert outcome(ours.put, None, False)[0] == outcome(theirs.put, None, False)[0]
        assert ours.full() == theirs.full()


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_permits_as_a_float(kind: str) -> None:
    semaphore = getattr(semaphores, kind)(2.0)
    assert [semaphore.acquire(False) for _ in range(3)] == [True, True, False]
    with pytest.raises(ValueError, match=r"1\.5: a whole number"):
        getattr(semaphores, kind)(1.5)
    assert events.Barrier(2.0).parties == 2  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "kind, args, name, given_to",
    [
        ("Semaphore", (0,), "acquire", (True, NAN)),
        ("Condition", (), "wait", (NAN,)),
        ("Event", (), "wait", (NAN,)),
        ("Barrier", (2,), "wait", (NAN,)),
        ("Queue", (), "get", (True, NAN)),
    ],
)
def test_nobody_waits_for_no_number_of_seconds(
    place: Place, kind: str, args: Any, name: str, given_to: Any
) -> None:
    """With the stdlib some of these turn in circles for ever."""
    obj = getattr(place, kind)(*args)
    if kind == "Condition":
        obj.acquire()
    with pytest.raises(ValueError, match="nan"):
        getattr(obj, name)(*given_to)
    if kind == "Condition":
        obj.release()


def test_several_permits_are_released_at_once(place: Place) -> None:
    if isinstance(place, Stock):
        return  # whose proxies have no such argument
    semaphore, bounded = place.Semaphore(0), place.BoundedSemaphore(2)
    semaphore.release(2)
    assert permits(semaphore) == 2
    for n in (0, -1):
        with pytest.raises(ValueError, match="one or more"):
            semaphore.release(n)
    for n in (1.5, "2"):
        with pytest.raises(TypeError):
            semaphore.release(n)
    with pytest.raises(OverflowError):
        semaphore.release(HUGE)
    for n in (1, HUGE):
        with pytest.raises(ValueError, match="too many times"):
            bounded.release(n)
    assert permits(semaphore) == permits(bounded) == 2


def test_a_queue_may_have_any_size(place: Place) -> None:
    q = place.Queue(HUGE)
    q.put(1)
    assert not q.full()
    with pytest.raises(TypeError, match=r"(?<!_)(join|get)\(\)"):
        q.join(1) if type(place) is not Place else q.get(1, 2, 3)


def test_a_full_queue_says_so(place: Place) -> None:
    q = place.Queue(1)
    q.put_nowait(1)
    assert q.full()
    for call in (lambda: q.put_nowait(2), lambda: q.put(2, False), lambda: q.put(2, True, 0.001)):
        with pytest.raises(queue.Full):
            call()
    with pytest.raises(ValueError, match="non-negative"):
        q.put(2, True, -1)
    assert q.get() == 1


# Waiting: first come, first served


def test_a_lock_goes_from_hand_to_hand(place: Place) -> None:
    lock, order = place.Lock(), []

    def work(number: int) -> None:
        assert lock.acquire() is True
        order.append(number)
        lock.release()

    lock.acquire()
    clients = [place.park(work, i) for i in range(20)]
    lock.release()
    for client in clients:
        client.result()
    assert order == list(range(20))
    assert lock.acquire(False) is True


def test_an_rlock_goes_from_hand_to_hand(place: Place) -> None:
    lock, order = place.RLock(), []

    def work(number: int) -> None:
        for _ in range(3):
            assert lock.acquire()
        order.append(number)
        for _ in range(3):
            lock.release()

    for _ in range(3):
        assert lock.acquire()
    clients = [place.park(work, i) for i in range(5)]
    for left in (2, 1, 0):
        assert not order
        place.await_parked(5)
        lock.release()
        assert outcome(in_thread, lock.release)[0] is RuntimeError, left
    for client in clients:
        client.result()
    assert order == list(range(5))


@pytest.mark.parametrize("kind", ["Semaphore", "BoundedSemaphore"])
def test_a_permit_goes_to_who_came_first(place: Place, kind: str) -> None:
    semaphore = getattr(place, kind)(2)
    assert semaphore.acquire() and semaphore.acquire()
    clients = [place.park(semaphore.acquire) for _ in range(6)]
    for i, client in enumerate(clients):
        semaphore.release()
        assert client.result() is True
        place.await_parked(5 - i)
    semaphore.release()
    semaphore.release()
    assert semaphore.acquire(False) and semaphore.acquire(False)
    assert not semaphore.acquire(False)


def test_as_many_permits_as_can_be_counted() -> None:
    semaphore = semaphores.Semaphore(3)
    assert semaphore.acquire() and semaphore.acquire()
    with pytest.raises(OverflowError, match="release"):
        semaphore.release(sys.maxsize)
    semaphore.release(sys.maxsize // 2)  # not one step for each of them
    assert not semaphore.locked() and semaphore.acquire(False)


def test_many_permits_at_once() -> None:
    place = Place()
    semaphore = semaphores.Semaphore(0)
    clients = [place.park(semaphore.acquire) for _ in range(4)]
    semaphore.release(3)
    assert [client.result() for client in clients[:3]] == [True] * 3
    assert place.parked() == 1 and semaphore.locked()
    semaphore.release(2)
    assert clients[3].result() is True
    assert semaphore.acquire(False) and not semaphore.acquire(False)


def test_an_event_wakes_all(place: Place) -> None:
    event = place.Event()
    clients = [place.park(event.wait, *args) for args in ((), (60,), (None,))]
    event.set()
    assert [client.result() for client in clients] == [True] * 3
    assert event.wait() is True and event.wait(0) is True
    event.clear()
    assert event.wait(0.001) is False


def test_who_gets_first_is_served_first(place: Place) -> None:
    q = place.Queue()
    clients = [place.park(q.get) for _ in range(20)]
    for i in range(20):
        q.put(i)
    assert [client.result() for client in clients] == list(range(20))
    assert q.empty()


def test_who_puts_first_is_served_first(place: Place) -> None:
    q = place.Queue(2)
    q.put("first")
    q.put("second")
    clients = [place.park(q.put, i) for i in range(10)]
    assert q.qsize() == 2 and q.full()
    assert [q.get() for _ in range(12)] == ["first", "second", *range(10)]
    assert [client.result() for client in clients] == [None] * 10
    assert q.empty()
    for _ in range(12):
        q.task_done()
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()


def test_items_that_need_pickle_pass_waiters(place: Place) -> None:
    q = place.Queue(1)
    getters = [place.park(q.get) for _ in range(3)]
    for i in range(3):
        q.put(Opaque(i))
    assert [client.result() for client in getters] == [Opaque(0), Opaque(1), Opaque(2)]
    q.put(Opaque("first"))
    putters = [place.park(q.put, Opaque(i)) for i in range(3)]
    assert [q.get() for _ in range(4)] == [Opaque("first"), Opaque(0), Opaque(1), Opaque(2)]
    assert [client.result() for client in putters] == [None] * 3


def test_a_timeout_takes_a_waiter_out_of_the_queue(place: Place) -> None:
    lock = place.Lock()
    lock.acquire()
    first = place.park(lock.acquire)
    impatient = place.call(lock.acquire, True, 0.02)
    assert impatient.result() is False
    last = place.park(lock.acquire)
    lock.release()
    assert first.result() is True
    place.await_parked(1)
    lock.release()
    assert last.result() is True
    lock.release()
    assert lock.acquire(False) is True


def test_a_crowd_that_gives_up_leaves_the_patient(place: Place) -> None:
    """There are enough of them for the queue to be cleaned."""
    lock = place.Lock()
    lock.acquire()
    patient = place.park(lock.acquire)
    crowd = [place.call(lock.acquire, True, 0.02) for _ in range(40)]
    assert [client.result() for client in crowd] == [False] * 40
    place.await_parked(1)
    lock.release()
    assert patient.result() is True
    assert lock.acquire(False) is False


def test_timeouts_end_in_time(place: Place) -> None:
    """Neither before the time, nor only with the next event."""
    lock, q, event, semaphore = place.Lock(), place.Queue(1), place.Event(), place.Semaphore(0)
    lock.acquire()
    patient = place.park(lock.acquire, True, threading.TIMEOUT_MAX)
    calls: list[tuple[Callable[..., Any], tuple[Any, ...], tuple[Any, ...]]] = [
        (lock.acquire, (True, 0.1), ("returned", False)),
        (semaphore.acquire, (True, 0.1), ("returned", False)),
        (event.wait, (0.1,), ("returned", False)),
        (q.get, (True, 0.1), (queue.Empty, "")),
    ]
    for function, args, expected in calls:
        start = time.monotonic()
        assert outcome(function, *args) == expected
        # The clocks of two sides may tell a rounding apart.
        assert 0.099 <= time.monotonic() - start < DEADLINE
    lock.release()
    assert patient.result() is True


# Conditions


def test_wait_gives_up_every_depth_and_takes_it_back(place: Place) -> None:
    condition = place.Condition()

    def sleep() -> list[Any]:
        seen: list[Any] = []
        for _ in range(3):
            condition.acquire()
        seen.append(condition.wait())
        for _ in range(3):
            seen.append(in_thread(condition.acquire, False))
            condition.release()
        seen.append(outcome(condition.release)[0])
        return seen

    sleeper = place.park(sleep)
    assert condition.acquire(False)  # it gave up all three
    condition.notify()
    condition.release()
    assert sleeper.result() == [True, False, False, False, RuntimeError]
    assert condition.acquire(False)


def test_notify_wakes_as_many_as_it_says_in_order(place: Place) -> None:
    condition, order = place.Condition(), []

    def sleep(number: int) -> None:
        condition.acquire()
        assert condition.wait() is True
        order.append(number)
        condition.release()

    sleepers = [place.park(sleep, i) for i in range(6)]
    condition.acquire()
    condition.notify(0)
    condition.notify(2)
    condition.notify()
    assert not order  # those who are woken wait for the lock
    condition.release()
    for sleeper in sleepers[:3]:
        sleeper.result()
    assert order == [0, 1, 2]
    place.await_parked(3)
    condition.acquire()
    condition.notify_all()
    condition.release()
    for sleeper in sleepers[3:]:
        sleeper.result()
    assert order == list(range(6))


def test_one_who_gives_up_is_not_notified(place: Place) -> None:
    condition = place.Condition()

    def sleep(timeout: float | None) -> Any:
        condition.acquire()
        try:
            return condition.wait(timeout)
        finally:
            condition.release()

    assert place.call(sleep, 0.01).result() is False
    assert place.call(sleep, 0).result() is False
    patient = place.park(sleep, None)
    condition.acquire()
    condition.notify()
    condition.release()
    assert patient.result() is True


def test_wait_returns_no_sooner_than_it_has_the_lock(place: Place) -> None:
    condition, freed = place.Condition(), []

    def sleep() -> Any:
        condition.acquire()
        holds.set()
        place.await_parked(1)  # who gets the lock next is there before the time begins
        result = condition.wait(0.05)
        freed.append("woken")
        condition.release()
        return result

    holds = threading.Event()
    sleeper = place.call(sleep)
    assert holds.wait(DEADLINE)
    condition.acquire()
    # Time for its timeout to pass; should it not do so in time, then nothing is wrongly seen.
    sleeper.join(0.15)
    freed.append("released")
    condition.release()
    assert sleeper.result() is False
    assert freed == ["released", "woken"]


def test_wait_for_waits_for_the_predicate(place: Place) -> None:
    condition, ready = place.Condition(), []

    def sleep() -> Any:
        condition.acquire()
        try:
            return condition.wait_for(lambda: list(ready)), condition.wait_for(lambda: 0, 0.01)
        finally:
            condition.release()

    sleeper = place.park(sleep)
    for value in (None, "ready"):
        place.await_parked(1)
        condition.acquire()
        if value:
            ready.append(value)
        condition.notify_all()
        condition.release()
    assert sleeper.result() == (["ready"], 0)


# Barriers


def test_barrier_indexes_come_in_order_of_arrival(place: Place) -> None:
    barrier = place.Barrier(5)
    for _ in range(3):
        clients = []
        for i in range(4):
            assert barrier.n_waiting == i
            clients.append(place.park(barrier.wait))
        assert barrier.wait() == 4
        assert [client.result() for client in clients] == [0, 1, 2, 3]
        assert barrier.n_waiting == 0 and not barrier.broken


@pytest.mark.parametrize("breaking", ["abort", "timeout", "default timeout"])
def test_a_broken_barrier_lets_nobody_wait(place: Place, breaking: str) -> None:
    barrier = place.Barrier(4, None, 0.03 if breaking == "default timeout" else None)
    patient = place.park(barrier.wait, 60)
    if breaking == "abort":
        barrier.abort()
    else:
        with pytest.raises(threading.BrokenBarrierError):
            barrier.wait(*[0.03][: breaking == "timeout"])
    with pytest.raises(threading.BrokenBarrierError):
        patient.result()
    assert barrier.broken and barrier.n_waiting == 0
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert not barrier.broken
    clients = [place.park(barrier.wait, 60) for _ in range(3)]
    assert barrier.wait() == 3
    assert [client.result() for client in clients] == [0, 1, 2]


def test_reset_sends_away_who_waits(place: Place) -> None:
    barrier = place.Barrier(3)
    clients = [place.park(barrier.wait) for _ in range(2)]
    barrier.reset()
    for client in clients:
        with pytest.raises(threading.BrokenBarrierError):
            client.result()
    assert not barrier.broken and barrier.n_waiting == 0


# Queues


def test_join_waits_for_all_tasks(place: Place) -> None:
    q = place.Queue()
    q.join()
    q.put(1)
    q.put(2)
    clients = [place.park(q.join) for _ in range(3)]
    q.get()
    q.task_done()
    q.get()
    place.await_parked(3)
    q.task_done()
    assert [client.result() for client in clients] == [None] * 3


def shut_down_in_use(place: Place) -> None:
    """Putters and getters are sent away; what is in it can be had, unless it is immediate."""
    shut_down = queue.ShutDown  # type: ignore[attr-defined]
    q = place.Queue(1)
    getters = [place.park(q.get) for _ in range(2)]
    q.shutdown()
    q.shutdown()
    for client in getters:
        with pytest.raises(shut_down):
            client.result()
    q = place.Queue(1)
    q.put("in it")
    clients = [place.park(q.put, 1), place.park(q.put, 2), place.park(q.join)]
    q.shutdown()
    for client in clients[:2]:
        with pytest.raises(shut_down):
            client.result()
    with pytest.raises(shut_down):
        q.put_nowait(3)
    assert q.get() == "in it"
    with pytest.raises(shut_down):
        q.get_nowait()
    q.task_done()
    clients[2].result()
    q = place.Queue()
    q.put("thrown away")
    joiner = place.park(q.join)
    q.shutdown(immediate=True)
    joiner.result()
    with pytest.raises(shut_down):
        q.get()
    assert q.empty()


def nothing_to_shut_down(place: Place) -> None:
    """No shutdown where the interpreter's own has none."""
    assert not hasattr(place.Queue(), "shutdown")


@pytest.mark.parametrize(
    "check", [shut_down_in_use if hasattr(queue, "ShutDown") else nothing_to_shut_down]
)
def test_shutdown(place: Place, check: Callable[[Place], None]) -> None:
    check(place)


def test_putters_who_gave_up_are_forgotten() -> None:
    """Nobody gets from the queue, so nobody comes by to pass them over."""
    q = queues.Queue(1)
    q.put(1)
    gc.collect()
    before = sum(type(o) is waits.Waiter for o in gc.get_objects())
    for _ in range(200):
        with pytest.raises(queue.Full):
            q.put(2, True, 0.00001)
    assert sum(type(o) is waits.Waiter for o in gc.get_objects()) - before < 100


# Interrupts


@contextlib.contextmanager
def interrupted(place: Place, last_words: Callable[[], Any] = lambda: None) -> Iterator[None]:
    """The main thread is interrupted as soon as it waits; the handler says its last words."""

    def handler(_number: int, _frame: object) -> None:
        if not struck.is_set():
            struck.set()
            last_words()
            raise KeyboardInterrupt

    def interrupt() -> None:
        place.await_parked(waiting + 1)
        # Again, should the first come in the moment before the thread falls asleep.
        while not struck.is_set():
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)
            struck.wait(0.1)

    struck = threading.Event()
    waiting = place.parked()
    before = signal.signal(signal.SIGUSR1, handler)
    helper = Client(interrupt)
    try:
        with pytest.raises(KeyboardInterrupt):
            yield
        helper.result()
        place.await_parked(waiting)  # a server sees a moment later that the connection is gone
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.fixture(params=["threads", "manager", "pinned", "polling"])
def interruptible(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Not the stdlib's clients: their connection is of no use after an interrupt."""
    if request.param == "threads":
        yield Place()
        return
    name = "polling_manager" if request.param == "polling" else "park_manager"
    kind = Pinned if request.param == "pinned" else Managed
    place = kind(request.getfixturevalue(name))
    place.enter()
    yield place
    place.await_parked(0)
    place.observer.shutdown()


def test_an_interrupted_acquire_takes_nothing(interruptible: Place) -> None:
    place = interruptible
    lock = place.Lock()
    lock.acquire()
    with interrupted(place):
        lock.acquire()
    other = place.park(lock.acquire)
    lock.release()
    assert other.result() is True
    lock.release()
    assert lock.acquire(False) is True


def test_an_interrupted_get_or_put_leaves_no_trace(interruptible: Place) -> None:
    place = interruptible
    q = place.Queue(1)
    with interrupted(place):
        q.get()
    q.put("item")
    with interrupted(place):
        q.put("interrupted")
    assert q.get(True, DEADLINE) == "item"
    assert q.empty()


def test_an_interrupted_wait_is_not_counted(interruptible: Place) -> None:
    place = interruptible
    barrier, event = place.Barrier(2), place.Event()
    with interrupted(place):
        barrier.wait()
    assert barrier.n_waiting == 0 and not barrier.broken
    with interrupted(place):
        event.wait()
    event.set()
    assert event.wait()


@pytest.mark.parametrize("name", ["wait", "wait_for"])
def test_an_interrupted_condition_has_its_lock_again(interruptible: Place, name: str) -> None:
    """As with `threading`, so that the ``with`` block around it can be left."""
    place = interruptible
    condition = place.Condition()
    for _ in range(2):
        with interrupted(place), condition, condition:
            if name == "wait":
                condition.wait(DEADLINE)
            else:
                condition.wait_for(lambda: False)
        assert in_thread(lambda: condition.acquire(False) and not condition.release())
    sleeper = place.park(lambda: condition.acquire() and condition.wait())
    with condition:
        condition.notify()
    assert sleeper.result() is True


@pytest.mark.parametrize("notified", [False, True], ids=["", "notified"])
def test_an_interrupted_condition_waits_for_its_lock(interruptible: Place, notified: bool) -> None:
    """Which another may have got meanwhile, who has notified it or has not."""
    place = interruptible
    condition, holds, order = place.Condition(), threading.Event(), []
    helpers: list[Client] = []

    def hold() -> None:
        with condition:
            if notified:
                condition.notify()
            holds.set()
            place.await_parked(1)
            order.append("released")

    def hand_over() -> None:
        helpers.append(place.call(hold))
        assert holds.wait(DEADLINE)

    with interrupted(place, hand_over), condition:
        condition.wait()
    order.append("left")
    helpers[0].result()
    assert order == ["released", "left"]


def test_the_notification_of_one_interrupted_goes_to_the_next() -> None:
    place, condition, others = Place(), locks.Condition(), []

    def sleep() -> Any:
        with condition:
            return condition.wait()

    def last_words() -> None:
        others.append(place.park(sleep))
        place.call(notify).result()

    def notify() -> None:
        with condition:
            condition.notify()

    with interrupted(place, last_words), condition:
        condition.wait()
    assert others[0].result() is True


@pytest.mark.parametrize("way", ["pipeline", "one-way"])
def test_calls_behind_an_interrupted_acquire_are_not_made(interruptible: Place, way: str) -> None:
    """They were to be made with the lock."""
    place = interruptible
    if not isinstance(place, Managed):
        return
    lock, d = place.Lock(), place.dict()
    lock.acquire()
    with interrupted(place):
        count_behind_an_acquire(lock, d, way)
    assert d.copy() == {}
    assert lock.acquire(False) is False


@pytest.mark.parametrize("kind", ["stdlib's server", "stdlib's dialect"])
def test_an_interrupted_condition_elsewhere_has_its_lock_again(kind: str) -> None:
    """Where nothing is known of threads, the new connection takes the lock."""
    if kind == "stdlib's server":
        server: Any = stdlib.SyncManager(authkey=KEY)
        server.start()
        manager = fastmgr.SyncManager(server.address, KEY)
        manager.connect()
    else:
        server = manager = fastmgr.SyncManager(authkey=KEY, serializer="xmlrpclib")
        manager.start()
    with server:
        condition = manager.Condition()
        before = signal.signal(signal.SIGALRM, raise_interrupt)
        try:
            with pytest.raises(KeyboardInterrupt), condition:
                signal.setitimer(signal.ITIMER_REAL, 0.2, 0.5)
                condition.wait(DEADLINE)
        finally:
            signal.signal(signal.SIGALRM, before)
        assert in_thread(lambda: condition.acquire(False) and not condition.release())


def raise_interrupt(_number: int, _frame: object) -> None:
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise KeyboardInterrupt


def test_who_waits_without_the_lock_is_not_given_it(place: Place) -> None:
    condition = place.Condition()
    assert outcome(condition.wait)[0] is RuntimeError
    assert in_thread(lambda: condition.acquire(False) and not condition.release())


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "Queue"])
def test_what_becomes_due_while_it_is_interrupted_is_not_lost(kind: str) -> None:
    """A signal handler, or a thread in the same moment, may serve the call that it ends."""
    if kind == "Queue":
        q = queues.Queue()
        with interrupted(Place(), lambda: q.put("item")):
            q.get()
        assert q.qsize() == 1
    else:
        lock: Any = locks.Lock() if kind == "Lock" else semaphores.Semaphore()
        lock.acquire()
        with interrupted(Place(), lock.release):
            lock.acquire()
        assert lock.acquire(False)


# In a server


def threads_of(manager: ParkManager) -> int:
    return len(os.listdir(f"/proc/{manager._process.pid}/task"))


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts threads in /proc")
def test_waiters_cost_no_threads(park_manager: ParkManager) -> None:
    place = Managed(park_manager)
    place.parked()  # its own thread is there from now on
    threads = threads_of(park_manager)
    q, lock, event = place.Queue(), place.Lock(), place.Event()
    condition, barrier = place.Condition(), place.Barrier(41)
    lock.acquire()

    def sleep() -> Any:
        with condition:
            return condition.wait()

    calls: list[Callable[[], Any]] = [q.get, lock.acquire, event.wait, sleep, barrier.wait]
    clients = [[place.call(call) for _ in range(40)] for call in calls]
    place.await_parked(200)
    assert threads_of(park_manager) <= threads + 1
    for i in range(40):
        q.put(i)
    event.set()
    assert barrier.wait() == 40
    with condition:
        condition.notify_all()
    assert sorted(client.result() for client in clients[0]) == list(range(40))
    assert [client.result() for client in clients[2] + clients[3]] == [True] * 80
    assert sorted(client.result() for client in clients[4]) == list(range(40))
    for left in range(40, 0, -1):
        place.await_parked(left)
        lock.release()
    assert [client.result() for client in clients[1]] == [True] * 40
    place.observer.shutdown()


def take_turns(lock: Any, log: Any, number: int) -> None:
    with lock:
        log.append(number)


def test_twenty_processes_take_turns_in_order(park_manager: ParkManager) -> None:
    place = Managed(park_manager)
    lock, log = place.Lock(), place.list()
    lock.acquire()
    processes = []
    for i in range(20):
        processes.append(multiprocessing.Process(target=take_turns, args=(lock, log, i)))
        processes[-1].start()
        place.await_parked(i + 1)
    lock.release()
    for process in processes:
        process.join(DEADLINE)
        assert process.exitcode == 0
    assert log[:] == list(range(20))
    assert not lock.locked()
    place.observer.shutdown()


def echo_as_stock(address: Any, idents: list[str]) -> list[Any]:
    """In a process of its own: take what is put, and put it back, as the stdlib's client."""
    multiprocessing.current_process().authkey = KEY
    inbox, outbox = (
        STOCK_PROXIES["Queue"](
            stdlib.Token("Queue", address, ident), "pickle", authkey=KEY, incref=False
        )
        for ident in idents
    )
    seen = []
    while (item := inbox.get()) != "end":
        seen.append(item)
        outbox.put(item)
    return seen


def test_a_stock_process_hands_over_both_ways(park_manager: ParkManager) -> None:
    inbox, outbox = park_manager.Queue(), park_manager.Queue(1)
    idents = [inbox._token.id, outbox._token.id]
    peer = Client(call_in_subprocess, echo_as_stock, park_manager.address, idents)
    for i in range(50):
        inbox.put(i)
        assert outbox.get(True, DEADLINE) == i
    inbox.put("end")
    assert peer.result() == list(range(50))


def test_all_sorts_of_clients_wait_in_one_queue(park_manager: ParkManager) -> None:
    """On the loop, on a thread of their own, and the stdlib's."""
    fast, pinned = Managed(park_manager), Pinned(park_manager)
    q, lock, order = fast.Queue(1), fast.Lock(), []
    ways = [(fast, q, lock), (pinned, q, lock), (fast, stock(q), stock(lock))] * 3
    getters = [place.park(its_queue.get) for place, its_queue, _ in ways]
    for i, (_, its_queue, _) in enumerate(reversed(ways)):
        its_queue.put(i)
    assert [client.result() for client in getters] == list(range(9))
    q.put("first")
    putters = [place.park(its_queue.put, i) for i, (place, its_queue, _) in enumerate(ways)]
    assert [ways[i % 9][1].get() for i in range(10)] == ["first", *range(9)]
    assert [client.result() for client in putters] == [None] * 9

    def take(its_lock: Any, number: int) -> None:
        its_lock.acquire()
        order.append(number)
        its_lock.release()

    lock.acquire()
    takers = [place.park(take, its_lock, i) for i, (place, _, its_lock) in enumerate(ways)]
    lock.release()
    for client in takers:
        client.result()
    assert order == list(range(9))
    fast.observer.shutdown()
    pinned.observer.shutdown()


def test_a_pinned_client_sleeps_at_a_condition_with_others(park_manager: ParkManager) -> None:
    fast, pinned = Managed(park_manager), Pinned(park_manager)
    condition, order = fast.Condition(), []

    def sleep(its_condition: Any, name: str) -> None:
        its_condition.acquire()
        its_condition.acquire()
        assert its_condition.wait(60) is True
        order.append(name)
        its_condition.release()
        its_condition.release()

    sleepers = [
        pinned.park(sleep, condition, "pinned"),
        fast.park(sleep, condition, "fast"),
        fast.park(sleep, stock(condition), "stock"),
    ]
    with condition:
        condition.notify_all()
    for sleeper in sleepers:
        sleeper.result()
    assert order == ["pinned", "fast", "stock"]
    fast.observer.shutdown()
    pinned.observer.shutdown()


def test_a_proxy_is_an_item(park_manager: ParkManager) -> None:
    place = Managed(park_manager)
    q = place.Queue(1)
    getter = place.park(q.get)
    q.put(place.list([1, 2]))  # nobody else holds it
    assert getter.result()[:] == [1, 2]
    q.put(0)
    putter = place.park(q.put, place.dict(a=q))
    assert q.get() == 0
    nested = q.get()["a"]
    putter.result()
    getter = place.park(nested.get)
    q.put("through")
    assert getter.result() == "through"
    place.observer.shutdown()


def test_primitives_nest_in_containers(park_manager: ParkManager) -> None:
    """They go on when the container is all that holds them, and stay the same object."""
    place = Managed(park_manager)
    box = place.dict(lock=place.Lock(), events=place.list([place.Event()]), q=place.Queue())
    box["lock"].acquire()
    waiters = [
        place.park(lambda: box["lock"].acquire()),
        place.park(lambda: box["events"][0].wait()),
        place.park(lambda: box["q"].get()),
    ]
    box["q"].put(box["lock"])
    box["events"][0].set()
    box["lock"].release()
    assert [client.result() for client in waiters[:2]] == [True, True]
    assert waiters[2].result().acquire(False) is False
    place.observer.shutdown()


def test_a_condition_over_a_lock_that_is_shared(park_manager: ParkManager) -> None:
    """It waits in threads of the server: only the lock of a lock can be anybody's."""
    lock = park_manager.Lock()
    condition = park_manager.Condition(lock)
    asleep, log = threading.Event(), []

    def sleep() -> Any:
        condition.acquire()
        asleep.set()
        result = condition.wait(DEADLINE)
        log.append(lock.acquire(False))
        condition.release()
        return result

    sleeper = Client(sleep)
    assert asleep.wait(DEADLINE)
    lock.acquire()  # it sleeps: it has given up the lock
    condition.notify()
    lock.release()
    assert sleeper.result() is True
    assert log == [False]
    assert lock.acquire(False) is True


def test_a_barrier_with_an_action(park_manager: ParkManager) -> None:
    """The action is called in the server, once for each time it opens."""
    log = park_manager.list()
    barrier = park_manager.Barrier(3, log.reverse, None)
    log.extend([1, 2, 3])
    for expected in ([3, 2, 1], [1, 2, 3]):
        clients = [Client(barrier.wait) for _ in range(2)]
        clients.append(Client(barrier.wait))
        assert sorted(client.result() for client in clients) == [0, 1, 2]
        assert log[:] == expected


def test_shared_makes_what_parks_where_it_can() -> None:
    assert type(primitives.Condition()) is locks.Condition
    assert type(primitives.Condition(threading.Lock())) is threading.Condition
    assert type(primitives.Barrier(2)) is events.Barrier
    assert type(primitives.Barrier(2, lambda: None)) is threading.Barrier


def test_an_item_that_was_handed_over_is_not_kept(park_manager: ParkManager) -> None:
    """Not by the timer of the call that waited for it, either."""
    place = Managed(park_manager)
    probe, q = park_manager.Probe(), place.Queue(1)
    before = in_thread(probe.tracked)
    getter = place.park(q.get, True, 60)
    q.put(Last())
    assert isinstance(getter.result(), Last)
    q.put("full")
    putter = place.park(q.put, Last(), True, 60)
    assert q.get() == "full"
    putter.result()
    assert isinstance(q.get(), Last)
    assert q.empty()  # who asks for more has read the item before
    # Much less than the timeouts of the calls that waited.
    poll(lambda: in_thread(probe.tracked) == before, "the server has forgotten the items")
    place.observer.shutdown()


def test_no_destructor_runs_on_the_loop(park_manager: ParkManager) -> None:
    """It may be slow, or wait for another client."""
    place = Managed(park_manager)
    probe, q = park_manager.LastProbe(), place.Queue(1)
    ended = len(in_thread(probe.ended_on))
    q.put("full")
    # By a client whose call the loop looks after.
    assert place.call(outcome, q.put, Last(), True, 0.01).result()[0] is queue.Full
    assert q.get() == "full"
    getter = place.park(q.get)
    q.put(Last())
    getter.result()
    poll(lambda: len(in_thread(probe.ended_on)) >= ended + 2, "both are destroyed")
    assert "loop" not in in_thread(probe.ended_on)[ended:]
    place.observer.shutdown()


def test_a_strange_timeout_harms_nobody_else(park_manager: ParkManager) -> None:
    place = Managed(park_manager)
    lock, event = place.Lock(), place.Event()
    lock.acquire()
    strange = place.call(outcome, lock.acquire, True, float("nan"))
    poll(lambda: strange.outcome or place.parked(), "it is refused, or waits")
    later = place.park(event.wait, 30)
    soon = place.call(event.wait, 0.05)
    soon.join(DEADLINE)
    assert soon.outcome == (True, False)
    event.set()
    assert later.result() is True
    lock.release()
    assert strange.result()[0] in ("returned", ValueError)
    place.observer.shutdown()


def test_who_asks_for_the_lock_again_and_dies_passes_no_notification_on() -> None:
    """Nobody has notified: who sleeps goes on sleeping."""
    with (
        ProbeManager(authkey=KEY) as manager,
        FastPeer(manager.address) as sleeper,
        FastPeer(manager.address) as holder,
    ):
        condition = holder.create("Condition")
        with FastPeer(manager.address) as dying:
            for peer in (sleeper, dying):
                peer.handles(OP_INCREF, condition)
                peer.recv()
            assert sleeper.method(condition, "acquire").payload is True
            sleeper.send(OP_CALL, b"".join(map(codec.dumps, ("wait", (2.0,), None))), condition)
            assert holder.method(condition, "acquire").payload is True
            again = ("acquire", (True, -1, True), None)
            dying.send(OP_CALL, b"".join(map(codec.dumps, again)), condition)
            holder.control("dummy")
        holder.control("dummy")
        holder.method(condition, "release")
        assert sleeper.recv().payload is False
