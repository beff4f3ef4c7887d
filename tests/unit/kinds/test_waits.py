"""The primitives do what those of `threading` and `queue` do, from wherever they are called."""

from __future__ import annotations

import multiprocessing
import os
import queue
import re
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
from support import DEADLINE, KEY, ProbeManager, call_in_subprocess, poll
from support.places import (
    HUGE,
    NAN,
    STOCK_PROXIES,
    Client,
    Managed,
    Opaque,
    ParkManager,
    Place,
    contents,
    outcome,
    permits,
    taken,
)

import fastmgr
from fastmgr.kinds import events, locks, primitives, queues, semaphores

pytestmark = pytest.mark.timeout(60)


class Twin(NamedTuple):
    """One of our types, one of the stdlib's, and calls of either that do not wait."""

    ours: Callable[..., Any]
    theirs: Callable[..., Any]
    arguments: list[tuple[Any, ...]]
    calls: list[tuple[str, tuple[Any, ...]]]
    state: Callable[[Any], Any]


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


def test_shared_makes_what_parks_where_it_can() -> None:
    assert type(primitives.Condition()) is locks.Condition
    assert type(primitives.Condition(threading.Lock())) is threading.Condition
    assert type(primitives.Barrier(2)) is events.Barrier
    assert type(primitives.Barrier(2, lambda: None)) is threading.Barrier


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
