"""Calls by mail: when there is a mailbox, what goes by it, and that nothing else is different."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import random
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from multiprocessing import managers as stock
from pathlib import Path
from pickle import PickleBuffer
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    in_thread,
    manager_without_arena,
    poll,
    rss_bytes,
    settle,
    together,
)
from support.mailboxes import AFTER, MARK, OPEN, REQUEST, ROOM, SLEEPS, Box, Call, boxes, fresh_box

from fastmgr import OnewayError, RemoteError, oneway

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the mailbox in /proc"),
]

FORK: Any = multiprocessing.get_context("fork")
SPAWN: Any = multiprocessing.get_context("spawn")

# What is in the server


class Ours(Exception):
    """An exception of a user's."""


class Held:
    """Leaves its buffer to pickle, which keeps it out of the pickle if it may."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: Any) -> Any:
        return Held, (PickleBuffer(self.data) if protocol >= 5 else bytes(self.data),)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Held) and bytes(self.data) == bytes(other.data)


class Keeper:
    """A class of a user's: its calls are served by a thread."""

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def echo(self, value: Any) -> Any:
        return value

    def note(self, value: Any) -> int:
        self.notes.append(value)
        return len(self.notes)

    def all(self) -> list[Any]:
        return self.notes

    def fail(self, value: Any) -> None:
        raise Ours(value)

    def unpicklable(self) -> Any:
        return threading.Lock()

    def page(self, *items: Any) -> list[Any]:
        """Shared in its turn."""
        return list(items)

    def waiters(self) -> int:
        """How many calls wait in the server."""
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        return sum(conn.waiter is not None for conn in list(server._engine.conns.values()))


class MailManager(ProbeManager):
    """With what these tests have in the server."""


MailManager.register("Keeper", Keeper, method_to_typeid={"page": "list"})


class StockManager(stock.SyncManager):
    """The stdlib's, with the same class."""


StockManager.register("Keeper", Keeper)


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[MailManager]:
    with MailManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def own_manager() -> Iterator[MailManager]:
    with MailManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def off_manager() -> Iterator[MailManager]:
    """One with which this process has no memory in common."""
    with manager_without_arena(MailManager) as manager:
        yield manager


# The mailboxes of a process


def use(proxy: Any, times: int = 2 * AFTER) -> None:
    """Call often enough that the channel has a mailbox, if it is to have one."""
    for _ in range(times):
        proxy._callmethod("__len__")


def caught(call: Call) -> Call:
    """A call that returns what it raises."""

    def calling() -> Any:
        try:
            return call()
        except Exception as error:
            return error

    return calling


# When there is one


def new_boxes_after(manager: Any, *counts: int) -> list[int]:
    """How many mailboxes a new channel has after so many calls."""
    d = manager.dict(a=1)
    d._connect()  # what the channel before had is gone by now
    before = set(boxes())
    found, made = [], 0
    for count in counts:
        while made < count:
            assert d["a"] == 1
            made += 1
        found.append(len(set(boxes()) - before))
    return found


def test_it_comes_after_some_calls(manager: MailManager) -> None:
    # A few of a channel's requests are for what a proxy needs.
    assert new_boxes_after(manager, 1, AFTER - 10, AFTER + 10, 10 * AFTER) == [0, 0, 1, 1]


def test_every_thread_has_its_own_and_leaves_none(manager: MailManager) -> None:
    d = manager.dict(a=1)
    use(d)
    before = set(boxes())
    of_server = set(boxes(manager._process.pid))

    def work(_: int) -> set[str]:
        use(d)
        ready.wait(DEADLINE)
        seen = set(boxes()) - before
        ready.wait(DEADLINE)
        return seen

    ready = threading.Barrier(5)
    seen = together(5, work)
    assert all(len(found) == 5 for found in seen), seen
    assert len(set.union(*seen)) == 5
    poll(lambda: set(boxes()) <= before, "the threads' mailboxes are gone")
    poll(lambda: set(boxes(manager._process.pid)) <= of_server, "the server's ends of them, too")


def test_one_way_calls_do_not_bring_it_with_them(manager: MailManager) -> None:
    """To ask for one is to wait for a reply."""
    items = manager.list()
    items._connect()
    before = set(boxes())
    for i in range(3 * AFTER):
        oneway(items).append(i)
    assert set(boxes()) <= before
    assert items[:] == list(range(3 * AFTER))
    assert len(items) == 3 * AFTER
    assert len(set(boxes()) - before) == 1


def test_nobody_has_one_over_tcp() -> None:
    with ProbeManager(("127.0.0.1", 0), KEY) as manager:
        assert new_boxes_after(manager, 5 * AFTER) == [0]


def test_nobody_has_one_where_the_client_wants_none(off_manager: MailManager) -> None:
    assert new_boxes_after(off_manager, 5 * AFTER) == [0]
    assert boxes(off_manager._process.pid) == {}


def test_nobody_has_one_where_the_client_wants_none_any_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It is the client's variable: the server was started without it."""
    manager = ProbeManager(authkey=KEY)
    manager.start()
    monkeypatch.setenv("FASTMGR_ARENA", "off")
    with manager:
        assert new_boxes_after(manager, 5 * AFTER) == [0]
        assert boxes(manager._process.pid) == {}


def test_nobody_has_one_where_the_server_shares_no_memory() -> None:
    with ProbeManager(authkey=KEY, arena=False) as manager:
        assert new_boxes_after(manager, 5 * AFTER) == [0]
        assert boxes(manager._process.pid) == {}


def test_nobody_has_one_with_a_stock_server() -> None:
    with StockManager(authkey=KEY) as server:
        manager = MailManager(server.address, KEY)
        manager.connect()
        assert new_boxes_after(manager, 5 * AFTER) == [0]


def test_a_stock_client_is_served_as_ever(manager: MailManager) -> None:
    client = StockManager(manager.address, KEY)
    client.connect()
    before = set(boxes(manager._process.pid))
    d = client.dict(a=1)
    assert [d.get("a") for _ in range(3 * AFTER)] == [1] * (3 * AFTER)
    assert set(boxes(manager._process.pid)) <= before


# What goes by it


def test_requests_and_replies_are_in_the_box(manager: MailManager) -> None:
    d = manager.dict()
    box = fresh_box(d)
    for i in range(20):
        # A reply lies over the request, of which the end is left to be seen.
        key, value = f"{'key' * 100} number {i}", f"value number {i}"
        d[key] = value
        box.clear()
        assert box.until_carried(lambda key=key: d[key]) == value
        assert value.encode() in box.message
        assert f"number {i}".encode() in box.message.partition(value.encode())[2]
        assert 0 < box.size < 100
        assert box.state & ~OPEN == 0


def test_calls_of_a_busy_client_go_by_it_in_rows(manager: MailManager) -> None:
    """Most do on an idle machine; on a busy one there are rows of them at least."""
    d = manager.dict(a=1)
    box = fresh_box(d)

    def row() -> bool:
        return any(all(box.carries(lambda: d["a"])[1] for _ in range(10)) for _ in range(50))

    poll(row, "ten calls in a row that go by mail")


@pytest.mark.parametrize("kind", ["dict", "Keeper"])
def test_replies_to_the_last_byte(manager: MailManager, kind: str) -> None:
    d = manager.dict()
    box = fresh_box(d)
    keeper = manager.Keeper()

    def reply_of(size: int) -> bytes:
        if kind == "dict":
            return box.until_carried(lambda: d["x"])
        return box.until_carried(lambda: keeper.all())[0]

    def put(size: int) -> bytes:
        nonlocal keeper
        value = random.Random(size).randbytes(size)
        if kind == "dict":
            d["x"] = value
        else:
            keeper = manager.Keeper()
            keeper.note(value)
        return value

    value = put(1000)
    assert reply_of(1000) == value
    beside = box.size - 1000  # of the frame, besides the bytes
    assert 24 < beside < 100
    for size in (0, 1, 500, ROOM - beside - 1, ROOM - beside):
        value = put(size)
        assert reply_of(size) == value
        assert box.size <= ROOM
        assert box.size == beside + size or size < 500
    for size in (ROOM - beside + 1, ROOM - beside + 2, 5000, 100_000):
        # It was asked for by mail; the answer says: over the socket.
        value = put(size)
        assert reply_of(size) == value
        assert box.size == 0


@pytest.mark.parametrize("kind", ["dict", "Keeper"])
def test_requests_to_the_last_byte(manager: MailManager, kind: str) -> None:
    d, keeper = manager.dict(), manager.Keeper()
    box = fresh_box(d)

    def put(size: int) -> Call:
        value = b"\xff" * size
        if kind == "dict":
            return lambda: d.__setitem__("x", value)
        return lambda: (keeper.note(value), None)[1]

    # What is left of a request shows how long it was.
    box.clear()
    box.until_carried(put(1000))
    beside = box.message.rindex(b"\xff") + 1 - 1000
    after = len(box.message[beside + 1000 :].rstrip(b"\0"))
    assert 24 < beside + after < 100
    fits = ROOM - beside - after
    for more in range(-4, 1):
        box.clear()
        box.until_carried(put(fits + more))
        assert box.message[beside + 500 : beside + fits + more] == b"\xff" * (fits + more - 500)
    # A last byte of the frame may be 0.
    for more in (4, 5, 1000, 100_000):
        for _ in range(50):
            assert box.carries(put(fits + more)) == (None, False)
            d.get("y")


def test_all_sizes(manager: MailManager, off_manager: MailManager) -> None:
    """Values of all sizes, there and back; by mail, in part by mail, over the socket."""
    d, off = manager.dict(), off_manager.dict()
    keeper = manager.Keeper()
    box = fresh_box(d)
    rng = random.Random(1)
    sizes = [*range(0, 1900, 37), *range(1900, 2100), *range(2100, 5000, 61), 65_000, 1 << 20]
    rng.shuffle(sizes)
    carried: Counter[bool] = Counter()
    for size in sizes:
        data = rng.randbytes(size)
        kinds = [data, "\xe9" * (size // 2), [data, size], {"k": data}, bytearray(data)]
        for value in (kinds[size % 5], Held(data)):
            for proxy in (d, off):
                proxy["x"] = value
            result, by_mail = box.carries(lambda: d.get("x"))
            carried[by_mail] += 1
            assert type(result) is type(value)
            assert result == value == off.get("x")
            assert keeper.echo(value) == value
    assert carried[True], carried


def test_no_arguments_many_arguments_keywords(manager: MailManager) -> None:
    d, keeper = manager.dict(), manager.Keeper()
    box = fresh_box(d)
    for _ in range(20):
        assert box.until_carried(lambda: len(d)) == 0
        assert box.until_carried(lambda: d.copy()) == {}
        assert box.until_carried(lambda: keeper.echo(value=(None, 2.5, -1 << 70))) == (
            None, 2.5, -1 << 70,
        )  # fmt: skip
    many = {f"key {i}": i for i in range(100)}
    assert box.until_carried(lambda: (d.update(**many), d.copy())[1]) == many
    assert box.until_carried(lambda: keeper.echo(Ours)) is Ours


# The same program by mail and without

KEYS = st.sampled_from(["a", "b", 1, None, (1, 2)])
VALUES = st.one_of(
    st.integers(-(2**70), 2**70), st.none(), st.booleans(), st.text(max_size=5),
    st.floats(allow_nan=False), st.lists(st.integers(), max_size=3),
    st.sampled_from([0, 1, 1000, 1900, 1960, 1990, 2010, 2032, 3000]).map(bytes),
)  # fmt: skip
INDEXES = st.integers(-3, 6)
CALLS = st.one_of(
    st.tuples(st.just("d"), st.just("__setitem__"), KEYS, VALUES),
    st.tuples(st.just("d"), st.sampled_from(["__getitem__", "__delitem__", "pop", "get"]), KEYS),
    st.tuples(st.just("d"), st.just("setdefault"), KEYS, VALUES),
    st.tuples(st.just("d"), st.just("incr"), KEYS, st.integers(-5, 5)),
    st.tuples(st.just("d"), st.sampled_from(["copy", "popitem", "__len__", "keys", "items"])),
    st.tuples(st.just("l"), st.sampled_from(["append", "remove", "index", "count"]), VALUES),
    st.tuples(st.just("l"), st.sampled_from(["__getitem__", "__delitem__", "pop"]), INDEXES),
    st.tuples(st.just("l"), st.sampled_from(["__setitem__", "insert", "incr"]), INDEXES, VALUES),
    st.tuples(st.just("l"), st.just("extend"), st.lists(VALUES, max_size=4)),
    st.tuples(st.just("l"), st.sampled_from(["reverse", "pop", "__len__", "nonsense"])),
    st.tuples(st.just("k"), st.sampled_from(["echo", "note", "fail"]), VALUES),
    st.tuples(st.just("k"), st.sampled_from(["all", "unpicklable", "nonsense"])),
)


def test_programs_do_the_same_by_mail(manager: MailManager, off_manager: MailManager) -> None:
    d = manager.dict()
    box = fresh_box(d)

    def outcomes_of(program: list[Any], maker: MailManager) -> list[Any]:
        proxies = {"d": maker.dict(), "l": maker.list(), "k": maker.Keeper()}
        found = []
        for which, name, *args in [*program, ("d", "copy"), ("l", "copy"), ("k", "all")]:
            outcome = caught(partial(proxies[which]._callmethod, name, tuple(args)))()
            if isinstance(outcome, RemoteError):
                outcome = RemoteError, None  # with a traceback of the other server
            elif isinstance(outcome, Exception):
                outcome = type(outcome), outcome.args
            found.append((which, name, args, type(outcome), outcome))
        return found

    @settings(
        max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @given(st.lists(CALLS, min_size=1, max_size=30))
    def run(program: list[Any]) -> None:
        assert outcomes_of(program, manager) == outcomes_of(program, off_manager)

    run()
    assert box.until_carried(lambda: len(d)) == 0


# Errors


def test_errors_by_mail(manager: MailManager) -> None:
    d, keeper = manager.dict(), manager.Keeper()
    box = fresh_box(d)

    def error_of(call: Call) -> Any:
        return box.until_carried(caught(call))

    for size in (0, 10, 1900, 2000, 2100, 100_000):
        key = "\x01" * size
        error = error_of(lambda key=key: d[key]) if size < 1900 else caught(lambda k=key: d[k])()
        assert (type(error), error.args) == (KeyError, (key,))
        error = error_of(lambda s=size: d[s])
        assert (type(error), error.args) == (KeyError, (size,))
        error = caught(lambda key=key: keeper.fail(key))()
        assert (type(error), error.args) == (Ours, (key,))
    error = error_of(lambda: keeper.fail([1]))
    assert (type(error), error.args) == (Ours, ([1],))
    # With a traceback, and so larger than the box.
    assert type(error_of(lambda: keeper.unpicklable())) is RemoteError
    error = error_of(lambda: d._callmethod("nonsense"))
    assert type(error) is RemoteError and "nonsense" in str(error)
    # What fails before it is sent leaves nothing behind.
    for _ in range(10):
        assert type(caught(lambda: d.__setitem__("x", threading.Lock()))()) is TypeError
        assert box.until_carried(lambda: len(d)) == 0


def test_proxies_by_mail(own_manager: MailManager) -> None:
    manager = own_manager
    keeper, items = manager.Keeper(), manager.list([1, 2, 3])
    box = fresh_box(items)
    expected = manager._number_of_objects()
    pages = []
    for i in range(100):
        page = box.until_carried(lambda i=i: keeper.page(i, "x"), before=lambda: len(items))
        assert page[:] == [i, "x"]
        page.append(i)
        pages.append(page)
        if i % 3 == 0:
            del pages[i % len(pages)]
    for page in pages:
        assert len(page) == 3
    assert manager._number_of_objects() >= expected + len(pages)
    del page, pages[10:]
    settle(manager, expected + 10)
    # Within a value that goes by mail, and back.
    d = manager.dict()
    for page in pages:
        box.until_carried(lambda page=page: d.__setitem__("page", [page]))
        assert box.until_carried(lambda: d["page"], before=lambda: len(d))[0][:] == page[:]
    d.clear()
    del pages, page
    settle(manager, expected + 1)


def test_iterators_by_mail(own_manager: MailManager) -> None:
    items = own_manager.list(range(50))
    box = fresh_box(items)
    expected = own_manager._number_of_objects()
    for _ in range(5):
        assert list(iter(items)) == list(range(50))
        iterator = own_manager.dict(a=1, b=2)._callmethod("__iter__")
        assert box.until_carried(lambda iterator=iterator: next(iterator, None)) in ("a", "b", None)
    del iterator
    settle(own_manager, expected)


# What gets no reply, and many in one go


def test_one_way_calls_are_served_before_what_follows(manager: MailManager) -> None:
    """They go over the socket; mail must not overtake them."""
    items, keeper = manager.list(), manager.Keeper()
    box = fresh_box(items)
    rng = random.Random(2)
    count, noted, carried = 0, 0, 0
    for _ in range(600):
        for _ in range(rng.randrange(3)):
            oneway(items).append(count)
            count += 1
        if rng.random() < 0.2:
            oneway(keeper).note(noted)
            noted += 1
        if rng.random() < 0.1:
            assert keeper._callmethod("note", (None,)) == noted + 1
            keeper = manager.Keeper()
            noted = 0
        length, by_mail = box.carries(lambda: len(items))
        assert length == count
        carried += by_mail
        if rng.random() < 0.5:
            assert items[-3:] == list(range(max(count - 3, 0), count))
    assert items[:] == list(range(count))
    assert box.until_carried(lambda: len(items)) == count


@pytest.mark.parametrize("kind", ["list", "Keeper"])
def test_mail_does_not_overtake_what_is_in_the_socket(manager: MailManager, kind: str) -> None:
    """The server finds both at the same time: it has stood still with the mailbox open."""
    items, keeper = manager.list(), manager.Keeper()
    box = fresh_box(items)
    server = manager._process.pid
    count = met = 0
    for _ in range(300):
        for _ in range(10):
            keeper.echo(1) if kind == "Keeper" else len(items)
        os.kill(server, signal.SIGSTOP)
        # It goes on when this thread waits for it.
        timer = threading.Timer(0.02, os.kill, (server, signal.SIGCONT))
        try:
            met += box.state == OPEN
            if kind == "Keeper":
                oneway(keeper).note(count)
                timer.start()
                assert keeper.note(None) == count + 2
                count += 2
            else:
                oneway(items).append(count)
                timer.start()
                count += 1
                assert len(items) == count
        finally:
            timer.join(DEADLINE)
            os.kill(server, signal.SIGCONT)
        if met == 10:
            return
    assert met


@pytest.mark.parametrize("kind", ["list", "Keeper"])
def test_failures_of_one_way_calls_are_told(manager: MailManager, kind: str) -> None:
    items, keeper = manager.list(), manager.Keeper()
    box = fresh_box(items)
    for i in range(100):
        failed = i % 3 + 1
        for _ in range(failed):
            if kind == "list":
                oneway(items).pop(1000)
            else:
                oneway(keeper).fail(i)
        with pytest.raises(OnewayError) as caught_here:
            items.append(i)
        assert (caught_here.value.failed, caught_here.value.result) == (failed, None)
        assert type(caught_here.value.__cause__) is (IndexError if kind == "list" else Ours)
        # It was said once, and the call was made.
        assert len(items) == i + 1
    assert box.until_carried(lambda: items[-1]) == 99


def test_pipelines_between_calls(manager: MailManager) -> None:
    d, items, keeper = manager.dict(n=0), manager.list(), manager.Keeper()
    box = fresh_box(items)
    rng = random.Random(3)
    n, carried = 0, 0
    for _ in range(300):
        count = rng.choice([1, 2, 10, 100])
        with manager.pipeline() as pipe:
            for _ in range(count):
                pipe(d).incr("n")
            if rng.random() < 0.3:
                pipe(keeper).echo(bytes(rng.randrange(5000)))
        assert pipe.results[:count] == list(range(n + 1, n + count + 1))
        n += count
        for _ in range(rng.randrange(4)):
            value, by_mail = box.carries(lambda: d["n"])
            assert value == n
            carried += by_mail
        if rng.random() < 0.3:
            oneway(d).incr("n")
            n += 1
    assert box.until_carried(lambda: d["n"]) == n


# Who serves


def test_the_loop_and_a_worker_take_turns(manager: MailManager) -> None:
    """A user's class moves a connection to a thread, and the mailbox with it."""
    d, keeper = manager.dict(n=0), manager.Keeper()
    box = fresh_box(d)
    carried: Counter[str] = Counter()
    n = noted = 0
    rng = random.Random(4)
    for _ in range(60):
        for _ in range(rng.choice([1, 2, 70])):
            n += 1
            value, by_mail = box.carries(lambda: d.incr("n"))
            assert value == n
            carried["dict"] += by_mail
        for _ in range(rng.choice([1, 2, 70])):
            noted += 1
            value, by_mail = box.carries(lambda: keeper.note(None))
            assert value == noted
            carried["Keeper"] += by_mail
    assert box.until_carried(lambda: keeper.echo(5)) == 5
    assert box.until_carried(lambda: d["n"]) == n


def test_calls_of_users_that_take_their_time(manager: MailManager) -> None:
    """By the time of the reply the client sleeps, and the reply finds it."""
    sleeper, d = manager.Sleeper(), manager.dict(a=1)
    box = fresh_box(d)
    for i in range(20):
        assert sleeper.slow(0.002 * (i % 3), i) == i
        assert box.until_carried(lambda: d["a"]) == 1
        assert box.until_carried(lambda i=i: sleeper.slow(0.001, i)) == i
        assert box.state & ~OPEN == 0


def test_calls_that_wait_between_others(manager: MailManager, off_manager: MailManager) -> None:
    q, d = manager.Queue(), manager.dict(n=0)
    condition = manager.Condition()
    box = fresh_box(d)

    def empty() -> bool:
        with pytest.raises(queue.Empty):
            q.get(True, 0.002)
        return True

    for i in range(15):
        assert box.until_carried(empty)
        assert box.until_carried(lambda: d.incr("n")) == d["n"]
        q.put(i)
        assert box.until_carried(lambda: (q.put(0), q.get())[1]) in (0, i)
        while not q.empty():
            q.get()
        with condition:
            assert condition.wait(0.002) is False
            assert condition.wait_for(lambda: True, 1)
    assert q.qsize() == 0
    # A lock that is waited for over the channel: by who shares no memory with the server.
    lock = off_manager.Lock()
    assert lock.acquire()
    off = off_manager.dict(n=0)
    for i in range(10):
        assert in_thread(lambda: [lock.acquire(True, 0.002), lock.acquire(False)]) == [False] * 2
        assert off.incr("n") == i + 1
    lock.release()


def test_two_threads_wait_for_each_other(manager: MailManager) -> None:
    """Each call waits in the server, and is answered by what another's does."""
    there, back, d = manager.Queue(), manager.Queue(), manager.dict(n=0)
    condition, rounds = manager.Condition(), 300

    def serve() -> None:
        for i in range(rounds):
            assert there.get(True, DEADLINE) == i
            d.incr("n")
            back.put(-i)

    def ask() -> None:
        for i in range(rounds):
            there.put(i)
            assert back.get(True, DEADLINE) == -i
            assert d["n"] == i + 1

    together(2, lambda i: (serve, ask)[i]())
    turns = manager.list([0])

    def alternate(me: int) -> None:
        for _ in range(50):
            with condition:
                assert condition.wait_for(lambda: turns[0] % 2 == me, DEADLINE)
                turns.incr(0)
                condition.notify_all()

    together(2, alternate)
    assert turns[0] == 100


# Many


def test_many_threads(manager: MailManager) -> None:
    d, keeper = manager.dict(n=0), manager.Keeper()
    count, times = 16, 200

    def work(me: int) -> None:
        own = manager.list()
        for i in range(times):
            d.incr("n")
            d[me] = (me, i)
            assert d[me] == (me, i)
            own.append(i)
            if i % 50 == me:
                assert keeper.echo((me, i)) == (me, i)
        assert own[:] == list(range(times))

    together(count, work, 60)
    assert d["n"] == count * times


def test_more_clients_than_are_looked_for_at_once(manager: MailManager) -> None:
    """The server looks into 64 open mailboxes; the others' calls go over the socket meanwhile."""
    count, times = 80, 60
    d = manager.dict(n=0)
    use(d)
    of_server = set(boxes(manager._process.pid))
    ready = threading.Barrier(count)
    seen = [0, 0]

    def work(me: int) -> None:
        use(d)
        if ready.wait(60) == 0:
            seen[:] = [len(boxes()), len(set(boxes(manager._process.pid)) - of_server)]
        ready.wait(60)
        for i in range(times):
            d.incr("n")
            d[me] = i
            assert d[me] == i

    together(count, work, 60)
    assert seen[0] >= count and seen[1] == count
    assert d["n"] == count * times


# Processes


def report_from(child: Callable[[], Any]) -> Any:
    """What a function returns in a child of a bare fork."""
    read, write = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(write, repr(child()).encode())
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        said = in_thread(pipe.read).decode()
    assert os.waitpid(pid, 0)[1] == 0
    return eval(said)


def work_in_child(d: Any, inherited: list[str]) -> tuple[int, int]:
    """Make calls; how many mailboxes are new, and the sum."""
    for _ in range(3 * AFTER):
        total = d.incr("n")
    return len(set(boxes()) - set(inherited)), total


@pytest.mark.parametrize("kind", ["os.fork", "multiprocessing"])
def test_a_forked_child_leaves_its_parents_alone(manager: MailManager, kind: str) -> None:
    d = manager.dict(n=0)
    box = fresh_box(d)
    for round_ in range(3):
        box.until_carried(lambda: d["n"])
        inherited = list(boxes())
        box.size = MARK
        before = box.message
        if kind == "os.fork":
            found = report_from(lambda inherited=inherited: work_in_child(d, inherited))
        else:
            results = FORK.SimpleQueue()
            child = FORK.Process(
                target=lambda inherited=inherited, results=results: results.put(
                    work_in_child(d, inherited)
                )
            )
            child.start()
            found = in_thread(results.get)
            child.join(DEADLINE)
            assert child.exitcode == 0
        # The child has had a mailbox, but not this one.
        assert found == (1, (round_ + 1) * 3 * AFTER)
        assert (box.size, box.message) == (MARK, before)
        assert box.state & ~OPEN == 0
        assert box.until_carried(lambda: d["n"]) == found[1]


def test_forks_while_other_threads_call(manager: MailManager) -> None:
    d = manager.dict(n=0)
    done = threading.Event()
    made = [0, 0, 0]

    def hammer(me: int) -> None:
        while not done.is_set():
            d.incr("n")
            made[me] += 1

    threads = [threading.Thread(target=hammer, args=(me,), daemon=True) for me in range(3)]
    for thread in threads:
        thread.start()
    try:
        of_children = 0
        for _ in range(5):
            report_from(lambda: [d.incr("n") for _ in range(100)] and None)
            of_children += 100
            d.incr("n")
            of_children += 1
    finally:
        done.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert not any(thread.is_alive() for thread in threads)
    assert d["n"] == sum(made) + of_children


def count_up(d: Any, keeper: Any, times: int) -> None:
    """For a child that has got proxies."""
    for i in range(times):
        d.incr("n")
        assert keeper.echo(i) == i


def test_proxies_in_children(own_manager: MailManager) -> None:
    d, keeper = own_manager.dict(n=0), own_manager.Keeper()
    use(d)
    children = [
        context.Process(target=count_up, args=(d, keeper, 200))
        for context in (FORK, FORK, FORK, SPAWN)
    ]
    for child in children:
        child.start()
    count_up(d, keeper, 200)
    for child in children:
        child.join(DEADLINE)
        assert child.exitcode == 0
    assert d["n"] == 1000
    server = own_manager._process.pid
    poll(lambda: len(boxes(server)) <= len(boxes()), "the server's ends of theirs are gone")


# Calls within calls


class Calling:
    """Its pickling makes calls, of which the result goes with it."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __reduce__(self) -> Any:
        return int, (self.call(),)


def test_calls_made_while_an_argument_is_pickled(manager: MailManager) -> None:
    d, items, keeper = manager.dict(n=0), manager.list(), manager.Keeper()
    # On a new channel the mailbox comes with a call that is made within another.
    d._connect()
    for i in range(2 * AFTER):
        items.append(Calling(lambda: d.incr("n")))
        assert items[-1] == d["n"] == i + 1
    box = fresh_box(d)
    items[:] = []
    start, total = d["n"], 0
    for i in range(300):
        inner: list[bool] = []

        def nested(inner: list[bool] = inner) -> int:
            result, by_mail = box.carries(lambda: d.incr("n"))
            inner.append(by_mail)
            return result

        if i % 3 == 0:
            items.append(Calling(nested))
        elif i % 3 == 1:
            oneway(items).append(Calling(nested))
        else:
            assert keeper.echo([Calling(nested)]) == [start + i + 1]
            items.append(start + i + 1)
        total += len(inner)
    assert items[:] == list(range(start + 1, start + 301))
    assert total == 300


class Dropping:
    """Drops what it holds while it is pickled."""

    def __init__(self, held: list[Any]) -> None:
        self.held = held

    def __reduce__(self) -> Any:
        self.held.clear()
        return int, (7,)


def test_proxies_dropped_at_any_time(own_manager: MailManager) -> None:
    """Releases get no reply: those that a finalizer sends go before what follows."""
    manager = own_manager
    keeper, d = manager.Keeper(), manager.dict()
    box = fresh_box(d)
    expected = manager._number_of_objects()
    for i in range(150):
        page = manager.list([i])
        box.until_carried(lambda: len(d))
        if i % 2:
            del page
        else:
            held = [page, keeper.page(i)]
            del page
            # Inside a call, behind whose encoding the releases queue.
            assert keeper.echo(Dropping(held)) == 7
        assert len(d) == 0
    settle(manager, expected)
    # By another thread, over whichever channel is free: also this one's.
    given: queue.Queue[Any] = queue.Queue()

    def drop() -> None:
        while given.get(timeout=DEADLINE) is not None:
            pass

    thread = threading.Thread(target=drop, daemon=True)
    thread.start()
    for i in range(500):
        given.put(keeper.page(i) if i % 2 else manager.list([i]))
        d["x"] = i
        assert d["x"] == i
    given.put(None)
    thread.join(DEADLINE)
    assert not thread.is_alive()
    assert box.until_carried(lambda: d["x"]) == 499
    settle(manager, expected)


# Interrupts


class Interrupt(Exception):
    """What the handler of a signal raises."""


@contextlib.contextmanager
def interruptible() -> Iterator[None]:
    """SIGUSR1 raises Interrupt in the main thread."""

    def interrupt(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGUSR1, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGUSR1, before)


def waiters(manager: Any) -> int:
    return manager.Keeper().waiters()


def interrupted(call: Call, ready: Call) -> bool:
    """Whether the call was interrupted by a signal, sent when `ready()` first is true."""
    main = threading.main_thread().ident
    assert main is not None
    over = threading.Event()
    sent = threading.Event()

    def send() -> None:
        while not over.is_set():
            if ready():
                signal.pthread_kill(main, signal.SIGUSR1)
                sent.set()
                return
            over.wait(0.001)

    thread = threading.Thread(target=send, daemon=True)
    try:
        thread.start()
        call()
    except Interrupt:
        return True
    finally:
        # One that comes late is waited for, where it hurts nobody.
        with contextlib.suppress(Interrupt):
            over.set()
            thread.join(DEADLINE)
    assert not thread.is_alive()
    return False


def test_a_signal_while_a_call_by_mail_waits(manager: MailManager) -> None:
    q, d = manager.Queue(), manager.dict(n=0)
    asleep_by_mail: list[bool] = []
    with interruptible():
        for i in range(100):
            # What was interrupted is out of step: a new channel takes its place.
            box = fresh_box(d)
            looks = 0

            def waits(box: Box = box) -> bool:
                nonlocal looks
                looks += 1
                by_mail = box.state & (REQUEST | SLEEPS) == REQUEST | SLEEPS
                # The server may have been asleep, and the call gone over the socket.
                if by_mail or looks > 50:
                    asleep_by_mail.append(by_mail)
                    return True
                return False

            assert interrupted(lambda box=box: (box.until_carried(lambda: len(d)), q.get()), waits)
            assert d.incr("n") == i + 1
            assert d["n"] == i + 1
            # Nobody waits for this any more.
            poll(lambda: in_thread(waiters, manager) == 0, "the server knows")
            q.put(i)
            assert q.get(True, DEADLINE) == i
            if sum(asleep_by_mail) == 3:
                return
    assert any(asleep_by_mail)


def test_signals_at_any_moment_of_calls(manager: MailManager) -> None:
    d = manager.dict(n=0)
    rng = random.Random(5)
    done = [0]

    def calls() -> None:
        while True:
            d.incr("n")
            done[0] += 1

    count = 25
    with interruptible():
        for _ in range(count):
            aim = done[0] + rng.randrange(200)
            assert interrupted(calls, lambda aim=aim: done[0] >= aim)
    # One may have been served of which the result was never seen.
    assert done[0] <= d["n"] <= done[0] + count
    box = fresh_box(d)
    n = d["n"]
    assert [box.until_carried(lambda: d.incr("n")) > n for _ in range(50)] == [True] * 50


# What is left behind


def test_clients_that_come_and_go_leave_nothing(own_manager: MailManager) -> None:
    manager = own_manager
    server = manager._process.pid
    d = manager.dict(a=1)
    use(d)

    def held() -> tuple[int, int, int]:
        maps = Path(f"/proc/{server}/maps").read_text().count("memfd:fastmgr")
        return len(os.listdir(f"/proc/{server}/fd")), maps, len(boxes(server))

    def visit() -> None:
        together(10, lambda _: use(d))
        child = FORK.Process(target=use, args=(d,))
        child.start()
        child.join(DEADLINE)
        assert child.exitcode == 0

    visit()
    poll(lambda: len(boxes(server)) == 1, "only this thread has a mailbox")
    before, memory = held(), rss_bytes(server)
    mine = len(os.listdir("/proc/self/fd"))
    for _ in range(12):
        visit()
    poll(lambda: held() == before, f"the server has what it had: {before}")
    poll(lambda: len(os.listdir("/proc/self/fd")) <= mine, "and so has this process")
    assert rss_bytes(server) - memory < 8 << 20
    assert d["a"] == 1


def test_a_mailbox_holds_no_descriptor(own_manager: MailManager) -> None:
    """Else a host with many clients would run out of them."""
    d = own_manager.dict()
    d._connect()
    d._callmethod("__len__")
    server = own_manager._process.pid
    before = [len(os.listdir(f"/proc/{pid}/fd")) for pid in (server, "self")]
    use(d)
    assert len(boxes(server)) == 1
    assert [len(os.listdir(f"/proc/{pid}/fd")) for pid in (server, "self")] == before


def test_the_end_of_a_manager_takes_them_along() -> None:
    before = set(boxes())
    manager = MailManager(authkey=KEY)
    manager.start()
    d = manager.dict(a=1)
    use(d)
    assert len(set(boxes()) - before) == 1
    manager.shutdown()
    assert manager._process.exitcode == 0
    del d, manager
    assert set(boxes()) - before == set()
