"""Calls by mail: when there is a mailbox, what goes by it, and that nothing else is different."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from support import DEADLINE, KEY, ProbeManager, poll, rss_bytes, settle, stopped, together
from support.mail import FORK, Held, MailManager, Ours, StockManager, caught, use
from support.mailboxes import AFTER, OPEN, ROOM, Call, boxes, fresh_box

from fastmgr import OnewayError, RemoteError, oneway

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the mailbox in /proc"),
]


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
    """The server would find both at the same time: it stands still with the mailbox open."""
    items, keeper = manager.list(), manager.Keeper()
    box = fresh_box(items)
    server = manager._process.pid
    for count in range(1, 11):
        for _ in range(10):
            keeper.echo(1) if kind == "Keeper" else len(items)
        with stopped(server):
            box.state = OPEN
            oneway(items).append(count) if kind == "list" else oneway(keeper).note(2 * count - 2)
            # It goes on when this thread waits for it.
            timer = threading.Timer(0.02, os.kill, (server, signal.SIGCONT))
            timer.start()
            call = (lambda: len(items)) if kind == "list" else (lambda: keeper.note(None) // 2)
            assert box.carries(call) == (count, False)
            timer.join(DEADLINE)


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
