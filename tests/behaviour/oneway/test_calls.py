"""Calls that wait for no reply: served in order, and their failures are told with a later call."""

from __future__ import annotations

import contextlib
import gc
import os
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from support import DEADLINE, SANITIZED, in_thread, poll, rss_bytes, settle
from support.oneway import Item, OnewayManager, Ours, Unpicklable, cause_of, failure_of, posted
from support.signals import Interrupt, signals_when

from fastmgr import oneway

# The order


def test_nothing_is_returned(any_manager: OnewayManager) -> None:
    d = any_manager.dict(a=1)
    calls = oneway(d)
    assert calls.get("a") is None
    assert calls.update(b=2) is None
    assert calls["a"] is None  # type: ignore[func-returns-value]
    assert d.copy() == {"a": 1, "b": 2}


@pytest.mark.parametrize("values", ["plain", "pickled", "mixed"])
def test_order_with_ordinary_calls(any_manager: OnewayManager, values: str) -> None:
    """Plain values are served by the loop, pickled ones by a worker; the order is the thread's."""

    def value(i: int) -> Any:
        pickled = values == "pickled" or (values == "mixed" and i % 7 == 0)
        return {i: Ours} if pickled else i

    items = any_manager.list()
    for i in range(0, 300, 3):
        oneway(items).append(value(i))
        oneway(items).insert(i + 1, value(i + 1))
        items.append(value(i + 2))
        assert len(items) == i + 3
    assert items[:] == [value(i) for i in range(300)]


def test_order_with_a_users_class(any_manager: OnewayManager) -> None:
    journal, items = any_manager.Journal(), any_manager.list()
    for i in range(0, 200, 2):
        oneway(journal).note(i)
        oneway(items).append(i)
        assert journal.note(i + 1) == i + 1
        assert len(items) == i // 2 + 1
    assert journal.all() == list(range(200))
    assert items[:] == list(range(0, 200, 2))


def test_order_with_pipelines(any_manager: OnewayManager) -> None:
    items = any_manager.list()
    for i in range(0, 90, 3):
        oneway(items).append(i)
        with any_manager.pipeline() as pipe:
            pipe(items).append(i + 1)
            pipe(items).pop(0)
        oneway(items).append(i + 2)
        assert pipe.results[1] is not None
    assert items[-2:] == [88, 89]


def test_each_thread_has_its_order(any_manager: OnewayManager) -> None:
    journal = any_manager.Journal()

    def client(name: int) -> None:
        for i in range(100):
            oneway(journal).note((name, i))
        assert (name, 99) in journal.all()

    with ThreadPoolExecutor(4) as clients:
        for done in [clients.submit(client, name) for name in range(4)]:
            done.result(DEADLINE)
    notes = journal.all()
    assert len(notes) == 400
    for name in range(4):
        assert [i for other, i in notes if other == name] == list(range(100))


def test_calls_of_a_thread_run_on_one(manager: OnewayManager) -> None:
    """What a thread owns in the server is its own."""
    lock = manager.RLock()
    oneway(lock).acquire()
    assert lock.acquire(False)
    assert not in_thread(lock.acquire, False)
    oneway(lock).release()
    oneway(lock).release()
    manager.Event().is_set()  # all of them are served
    assert in_thread(lock.acquire, False)
    journal = manager.Journal()
    oneway(journal).note(0)
    thread = journal.thread()
    oneway(journal).note(1)
    assert journal.thread() == thread


# Arguments


def test_arguments(any_manager: OnewayManager) -> None:
    journal, d = any_manager.Journal(), any_manager.dict()
    oneway(journal).note(1, by="keyword", of=Ours)
    oneway(journal).note(value={"any": [Ours, 2.5, None]})
    oneway(d).update([("a", 1)], b=Ours)
    assert journal.all() == [
        {"value": 1, "by": "keyword", "of": Ours},
        {"any": [Ours, 2.5, None]},
    ]
    assert d.copy() == {"a": 1, "b": Ours}


@pytest.mark.parametrize(
    "value",
    [b"b" * 3_000_000, bytearray(b"a" * 3_000_000), "s" * 3_000_000, [b"x" * 1000] * 3000],
    ids=["bytes", "bytearray", "str", "list"],
)
def test_large_arguments(any_manager: OnewayManager, value: Any) -> None:
    d, journal = any_manager.dict(), any_manager.Journal()
    oneway(d).setdefault("large", value)
    oneway(journal).note(value)
    oneway(d)["after"] = 1
    assert d["large"] == value
    assert journal.all() == [value]
    assert type(journal.all()[0]) is type(value)
    assert d["after"] == 1


def test_large_results_are_not_sent(manager: OnewayManager) -> None:
    """They would fill the sockets: nobody reads them."""
    items = manager.list(["x" * 1000] * 1000)
    for _ in range(50):
        oneway(items).copy()
        oneway(items)[:]
    assert len(items) == 1000


def test_proxies_as_arguments(any_manager: OnewayManager) -> None:
    outer, inner = any_manager.list(), any_manager.list([5])
    oneway(outer).append(inner)
    del inner  # the server holds it, once it has served the call
    assert outer[0][0] == 5
    oneway(outer).clear()
    del outer
    settle(any_manager, 0)


def test_an_argument_that_cannot_be_pickled(any_manager: OnewayManager) -> None:
    """That is known at once; the connection stays, and nothing is left to tell."""
    d = any_manager.dict()
    d["a"] = 1
    connection = d._tls.connection
    for _ in range(3):
        with pytest.raises(TypeError, match="pickle"):
            oneway(d).update(b=threading.Lock())
        with pytest.raises(TypeError, match="pickle"):
            oneway(d)["b"] = threading.Lock()
    assert d.copy() == {"a": 1}
    oneway(d)["c"] = 3
    assert d.copy() == {"a": 1, "c": 3}
    assert d._tls.connection is connection


class Asking:
    """Pickling it makes calls of its own, by the same thread."""

    def __init__(self, d: Any) -> None:
        self.d = d

    def __reduce__(self) -> Any:
        oneway(self.d).setdefault("oneway", "first")
        return str, (self.d["oneway"],)


@pytest.mark.timeout(30)
def test_pickling_an_argument_may_make_calls(any_manager: OnewayManager) -> None:
    d = any_manager.dict()
    oneway(d)["a"] = Asking(d)
    d["b"] = Asking(d)
    assert d.copy() == {"oneway": "first", "a": "first", "b": "first"}


# Results


def test_results_that_would_be_shared_are_not(any_manager: OnewayManager) -> None:
    d, journal = any_manager.dict(a=1), any_manager.Journal()
    before = any_manager._debug_info()
    for _ in range(20):
        oneway(d).__iter__()  # by the loop
        oneway(journal).page()  # by a worker
    assert len(d) == 1
    assert journal.all() == []
    assert any_manager._number_of_objects() == 2
    assert any_manager._debug_info() == before
    oneway(journal).fail_page()
    assert cause_of(failure_of(len, d)).args == ("no page",)
    assert any_manager._number_of_objects() == 2


def test_a_result_that_was_all_that_held_an_object_ends_it(any_manager: OnewayManager) -> None:
    outer = any_manager.dict()
    outer["inner"] = any_manager.list([1])
    oneway(outer).pop("inner")
    assert outer.copy() == {}
    settle(any_manager, 1)


def test_a_result_that_cannot_be_pickled_is_no_failure(manager: OnewayManager) -> None:
    """Nobody wants it; so nobody need know."""
    journal = manager.Journal()
    oneway(journal).note(Unpicklable)
    oneway(manager.Sleeper()).slow(0, 1)
    oneway(journal).__str__()
    assert journal.all() == [Unpicklable]


# Calls that wait


class Wait(NamedTuple):
    make: Callable[[Any], Any]
    prepare: Callable[[Any], Any]
    post: Callable[[Any], Any]
    release: Callable[[Any], Any]


WAITS = {
    "lock": Wait(
        lambda m: m.Lock(), lambda p: p.acquire(), lambda c: c.acquire(), lambda p: p.release()
    ),
    "semaphore": Wait(
        lambda m: m.Semaphore(0), lambda p: None, lambda c: c.acquire(), lambda p: p.release()
    ),
    "full queue": Wait(
        lambda m: m.Queue(1), lambda p: p.put(0), lambda c: c.put(1), lambda p: p.get()
    ),
    "full queue, pickled": Wait(
        lambda m: m.Queue(1), lambda p: p.put(0), lambda c: c.put(Ours), lambda p: p.get()
    ),
    "empty queue": Wait(lambda m: m.Queue(), lambda p: None, lambda c: c.get(), lambda p: p.put(1)),
    "event": Wait(lambda m: m.Event(), lambda p: None, lambda c: c.wait(), lambda p: p.set()),
    "barrier": Wait(lambda m: m.Barrier(2), lambda p: None, lambda c: c.wait(), lambda p: p.wait()),
}


@pytest.mark.parametrize("pinned", [False, True], ids=["loop", "pinned"])
@pytest.mark.parametrize("name", WAITS)
def test_a_call_that_waits_holds_up_those_behind_it(
    manager: OnewayManager, name: str, pinned: bool
) -> None:
    wait = WAITS[name]
    d, shared = manager.dict(), wait.make(manager)
    wait.prepare(shared)

    def client() -> dict[str, int]:
        if pinned:  # a user's class makes the connection a thread's in the server
            assert manager.Journal().all() == []
        wait.post(oneway(shared))
        oneway(d)["oneway"] = 1
        d["ordinary"] = 2
        return d.copy()

    future = posted(manager, client)
    assert d.copy() == {}
    assert not future.done()
    wait.release(shared)
    assert future.result(DEADLINE) == {"oneway": 1, "ordinary": 2}


def test_what_a_call_took_is_held(manager: OnewayManager) -> None:
    lock = manager.Lock()
    lock.acquire()

    def client() -> None:
        oneway(lock).acquire()
        assert lock.acquire(False) is False
        assert not in_thread(lock.acquire, False)
        oneway(lock).release()
        assert lock.acquire(False) is True

    future = posted(manager, client)
    lock.release()
    future.result(DEADLINE)


def test_queue(any_manager: OnewayManager) -> None:
    q = any_manager.Queue()
    for i in range(100):
        oneway(q).put({i: Ours} if i % 9 == 0 else i)
    assert q.qsize() == 100
    assert [q.get() for _ in range(100)] == [{i: Ours} if i % 9 == 0 else i for i in range(100)]
    full = any_manager.Queue(1)
    oneway(full).put("taken")
    oneway(full).put("refused", False)
    oneway(full).put("given up", True, 0.01)
    error = failure_of(full.qsize)
    assert (error.failed, type(cause_of(error)), error.result) == (2, queue.Full, 1)
    assert "Queue.put() of object" in str(error) and "Full" in error.reason
    assert full.get() == "taken"


def test_event_wakes_who_waits(manager: OnewayManager) -> None:
    event, done = manager.Event(), manager.Event()

    def client() -> bool:
        event.wait()
        oneway(done).set()
        return event.is_set()

    future = posted(manager, client)
    oneway(event).set()
    assert future.result(DEADLINE)
    assert done.wait(DEADLINE)


# Many


@contextlib.contextmanager
def little_memory(manager: OnewayManager) -> Iterator[Callable[[], None]]:
    """What this process and the server have grown by, now and at the end, is little."""
    pids = os.getpid(), manager._process.pid
    before = [rss_bytes(pid) for pid in pids]

    def check() -> None:
        grown = [rss_bytes(pid) - had for pid, had in zip(pids, before, strict=True)]
        # A sanitizer's own memory says nothing: it keeps what has been freed.
        assert max(grown) < 20_000_000 or SANITIZED, grown

    yield check
    check()


def test_slow_methods_hold_the_sender_up(manager: OnewayManager) -> None:
    """Neither side keeps what the other is too slow for."""
    journal = manager.Journal()
    assert journal.served() == 0
    with little_memory(manager):
        work = oneway(journal).work
        for _ in range(100_000):
            work()
        assert journal.served() == 100_000


def test_a_call_that_waits_holds_the_sender_up(manager: OnewayManager) -> None:
    lock, d = manager.Lock(), manager.dict()
    lock.acquire()
    sent = 0

    def client() -> None:
        nonlocal sent
        oneway(lock).acquire()
        for _ in range(1500):
            oneway(d)["x"] = b"x" * 50_000
            sent += 1
        assert len(d) == 1

    seen = -1

    def stuck() -> bool:
        nonlocal seen
        seen, last = sent, seen
        return seen == last

    with little_memory(manager) as check:
        future = posted(manager, client)
        poll(stuck, "no more is sent")
        assert sent < 1500
        check()
        assert not future.done()
        lock.release()
        future.result(DEADLINE)
    assert sent == 1500


def test_failures_do_not_pile_up(manager: OnewayManager) -> None:
    journal = manager.Journal()
    with little_memory(manager):
        for _ in range(300):
            oneway(journal).fail("x" * 200_000)
        assert failure_of(journal.all).failed == 300


@pytest.mark.timeout(60)
def test_interrupted_while_sending(own_manager: Any) -> None:
    """The only connection is closed at once, and all objects go: `post` sets no `interrupted`."""
    d, lock, census = own_manager.dict(a=1), own_manager.Lock(), own_manager.Census()
    lock.acquire()
    interrupts = 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            raise Interrupt

    sent = 0
    seen = -1

    def stuck() -> bool:
        nonlocal seen
        seen, last = sent, seen
        return seen == last and seen > 0

    oneway(lock).acquire()
    with signals_when(stuck, 1, interrupt), pytest.raises(Interrupt):
        while True:
            oneway(d).get("a", b"x" * 10_000)
            sent += 1
    assert d["a"] == 1
    del census


def test_result_that_is_dropped_is_not_dropped_on_the_loop(own_manager: Any) -> None:
    """Its destructor is a user's (rule 2 of the architecture)."""
    marking, q = own_manager.Marking(), own_manager.Queue()
    q.put(Item())
    gc.collect()
    marking.begin()
    in_thread(lambda: (oneway(q).get(), q.qsize()))
    poll(marking.ended, "the item is gone")
    assert "loop" not in marking.ended()


def test_proxy_on_its_way_that_another_thread_drops(own_manager: Any) -> None:
    """The release overtakes the call: it goes over another connection."""
    outer, inner = own_manager.list(), own_manager.list([5])
    journal, gate = own_manager.Journal(), own_manager.Gate()
    gate.shut()
    box, sent = [inner], threading.Event()
    del inner

    def client() -> None:
        oneway(journal).await_gate()
        oneway(outer).append(box[0])
        sent.set()
        assert len(outer) == 1

    with ThreadPoolExecutor(1) as other:
        future = other.submit(client)
        assert sent.wait(DEADLINE)
        box.clear()
        own_manager._number_of_objects()
        gate.open()
        future.result(DEADLINE)
