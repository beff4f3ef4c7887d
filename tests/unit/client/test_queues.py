"""Queues whose clients put and get by themselves: one order and one truth for all clients."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import time
from pathlib import Path
from typing import Any

import pytest
from support import (
    KEY,
    ProbeManager,
    Script,
    connected,
    locally,
    poll,
    say,
)
from support.places import Client, stock, with_ring
from support.processes import in_child

import fastmgr
from fastmgr import managers
from fastmgr.managers import Token

FORK: Any = multiprocessing.get_context("fork")

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def manager(own_manager: ProbeManager) -> ProbeManager:
    return own_manager


def test_no_call_is_made(manager: ProbeManager) -> None:
    q = with_ring(manager.JoinableQueue(3))

    def use() -> list[Any]:
        q.put("a")
        q.put(2.5, timeout=5)
        q.put_nowait((None, [True], {"k": b"v"}))
        seen: list[Any] = [q.qsize(), q.full(), q.empty()]
        with pytest.raises(queue.Full):
            q.put_nowait(4)
        with pytest.raises(queue.Full):
            q.put(4, block=False)
        seen += [q.get(), q.get(True, 1), q.get_nowait()]
        for call in (q.get_nowait, lambda: q.get(False), lambda: q.get(block=False)):
            with pytest.raises(queue.Empty):
                call()
        for _ in range(3):
            q.task_done()
        return seen

    assert locally(manager, use) == [3, True, False, "a", 2.5, (None, [True], {"k": b"v"})]
    with pytest.raises(ValueError, match="too many times"):
        q.task_done()
    q.join()


def test_many_items_in_one_turn(manager: ProbeManager) -> None:
    q = with_ring(manager.JoinableQueue(5000))
    items = [(i, "x" * (i % 50)) for i in range(5000)]

    def use() -> list[Any]:
        q.put_many(iter(items))
        return [q.get_many(100), q.get_many(10_000), q.qsize()]

    first, rest, left = locally(manager, use)
    assert first + rest == items and left == 0
    for _ in items:
        q.task_done()
    q.join()
    with pytest.raises(queue.Empty):
        q.get_many(5, False)
    with pytest.raises(ValueError, match="1 or more"):
        q.get_many(0)


def test_many_items_that_have_no_room(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue(5))
    q.put(0)
    with pytest.raises(queue.Full) as caught:
        q.put_many(range(1, 10), False)
    assert caught.value.put == 4  # type: ignore[attr-defined]
    putter = Client(q.put_many, [5, 6, {"k": manager.dict(a=1)}, 8])
    got: list[Any] = []
    while len(got) < 9:
        got += q.get_many(3)
    putter.result()
    assert got.pop(7)["k"].copy() == {"a": 1} and got == [0, 1, 2, 3, 4, 5, 6, 8]


@pytest.mark.parametrize("keyword", [False, True])
def test_the_time_of_a_put_many_is_for_all_items(manager: ProbeManager, keyword: bool) -> None:
    """What the server is asked for has the time that is left."""
    q, calls = with_ring(manager.Queue(3)), []
    q._callmethod = lambda *call: calls.append(call)
    q.put_many(range(5), timeout=30) if keyword else q.put_many(range(5), True, 30)
    ((name, (items, block, left), *_),) = calls
    assert (name, items, block) == ("put_many", [3, 4], True)
    assert 0 < left < 30


def test_a_timeout_that_no_clock_knows_matters_only_to_who_waits(manager: ProbeManager) -> None:
    for q in (manager.Queue(1), with_ring(manager.Queue(1))):
        assert q.put("item", True, 10**400) is None and q.get(True, 10**400) == "item"
        for _ in range(2):
            with pytest.raises(OverflowError):
                q.get(True, 10**400)
        q.put_many(["item"], timeout=10**400)
        assert q.get_many(5, timeout=10**400) == ["item"]


def test_a_queue_without_many_has_no_such_methods() -> None:
    made = managers.MakeProxyType("Few", managers.public_methods(queue.Queue()))
    assert not hasattr(made, "put_many") and hasattr(made, "put")
    with pytest.raises(AttributeError, match=r"'put_many': the server's queue has no such method"):
        made.put_many([1])


def test_all_kinds_of_clients_see_one_queue(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    theirs = stock(q)
    for i in range(30):
        (q, theirs)[i % 2].put(i)
    assert theirs.qsize() == q.qsize() == 30
    assert [(q, theirs)[i // 2 % 2].get() for i in range(30)] == list(range(30))
    getter = Client(theirs.get)
    q.put("theirs")
    assert getter.result() == "theirs"


@pytest.mark.parametrize("way", ["pipeline", "oneway"])
def test_a_thread_keeps_its_order(manager: ProbeManager, way: str) -> None:
    q = with_ring(manager.Queue())
    for i in range(0, 300, 3):
        if way == "pipeline":
            with fastmgr.Pipeline(q._session_of()) as pipe:
                pipe(q).put(i)
                pipe(q).put(i + 1)
        else:
            fastmgr.oneway(q).put(i)
            fastmgr.oneway(q).put(i + 1)
        q.put(i + 2)
    assert [q.get() for _ in range(300)] == list(range(300))


def test_who_waits_is_served_in_order(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue(2))
    for i in range(2):
        q.put(i)
    putters = []
    for i in range(2, 12):
        # By a call: who looks at the ring for a while is not in the line yet.
        putters.append(Client(q._callmethod, "put", (i,)))
        poll(lambda: q.full(), "it is full")
        time.sleep(0.02)
    assert [q.get() for _ in range(12)] == list(range(12))
    for putter in putters:
        putter.result()
    with pytest.raises(queue.Empty):
        q.get(timeout=0.01)
    q.put(0)  # which finds that nobody waits any more
    assert q.get() == 0
    assert locally(manager, lambda: (q.put(1), q.get())) == (None, 1)


def test_a_join_ends_with_the_last_task(manager: ProbeManager) -> None:
    q = with_ring(manager.JoinableQueue())
    for i in range(3):
        q.put(i)
    joiner = Client(q.join)
    for _ in range(3):
        assert joiner.outcome is None
        q.get()
        q.task_done()
    joiner.result()


def test_a_forked_child_uses_the_ring(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    q.put("parent")
    status, text = in_child(lambda: (q.get(), with_ring(q).put("child")))
    assert (status, text) == (0, "('parent', None)")
    assert locally(manager, q.get) == "child"


def put_many(address: Any, ident: str, first: int, count: int, off: bool) -> None:
    if off:
        os.environ["FASTMGR_ARENA"] = "off"
    token = Token("Queue", tuple(address) if isinstance(address, list) else address, ident)
    q = managers.AutoProxy(token, "pickle", authkey=KEY)
    for i in range(first, first + count):
        q.put(i)
    say("done")


def test_clients_without_shared_memory_take_part(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    with Script(put_many, manager.address, q._token.id, 0, 100, True) as script:
        assert script.line() == "done"
        q.put(100)
        assert [q.get() for _ in range(101)] == list(range(101))


def test_clients_over_tcp_take_part() -> None:
    with ProbeManager(address=("127.0.0.1", 0), authkey=KEY) as manager:
        q = with_ring(manager.Queue())
        for i in range(50):
            q.put(i)
        other = connected(manager.address).Queue()
        assert [q.get() for _ in range(50)] == list(range(50)) and other.empty()


@pytest.mark.parametrize("size", ["0", "8192", "1,000"])
def test_the_size_of_rings_can_be_set(monkeypatch: pytest.MonkeyPatch, size: str) -> None:
    monkeypatch.setenv("FASTMGR_RING_SIZE", size)
    # A server that is forked by a fork server has that one's environment.
    manager = ProbeManager(authkey=KEY, ctx=multiprocessing.get_context("spawn"))
    if size == "1,000":
        with pytest.raises(ValueError, match="FASTMGR_RING_SIZE='1,000'"):
            manager.start()
        return
    with manager:
        q = with_ring(manager.Queue())
        assert (q._session_of().locate(q) is not None) == (size != "0")
        for i in range(2000):
            q.put(i)
        assert [q.get() for _ in range(2000)] == list(range(2000))


def test_a_put_many_that_has_put_some_does_not_say_that_it_has_put_none(
    manager: ProbeManager,
) -> None:
    q = with_ring(manager.Queue(3))
    with pytest.raises(fastmgr.CallTimeout) as raised, fastmgr.timeout(0):
        q.put_many(range(5))
    assert raised.value.applied is None and "3 of 5 items" in str(raised.value)
    assert q.get_many(5) == [0, 1, 2]
    with pytest.raises(fastmgr.CallTimeout) as raised, fastmgr.timeout(0):
        q.put_many([Path("pickled")])
    assert raised.value.applied is False and q.empty()


def flood(q: Any, stop: Any) -> None:
    while not stop.is_set():
        q.put_many(range(50))


def test_many_items_are_those_that_are_there(manager: ProbeManager) -> None:
    """Else a call would go on for as long as others put quickly."""
    q, stop = with_ring(manager.Queue(1000)), FORK.Event()
    producers = [FORK.Process(target=flood, args=(q, stop)) for _ in range(2)]
    for producer in producers:
        producer.start()
    most = max(len(q.get_many(10**9)) for _ in range(3000))
    stop.set()
    while any(producer.is_alive() for producer in producers):
        with contextlib.suppress(queue.Empty):
            q.get_many(10**9, timeout=0.1)
    for producer in producers:
        producer.join()
    assert most <= 2 * 1000 + 2 * 50  # with those that came before the call knew how many
