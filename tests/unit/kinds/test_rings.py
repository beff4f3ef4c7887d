"""The server's part of rings: what becomes of those who do not let go, or write nonsense."""

from __future__ import annotations

import gc
import multiprocessing
import queue
import signal
import threading
import time
from typing import Any

import pytest
from fastmgr.kinds.queues import Queue
from model.compiled import compiled
from support import KEY, TESTS, ProbeManager, Script, connected, in_thread, locally, poll, say
from support.places import Client, stock, with_ring
from support.signals import Interrupt

import fastmgr
from fastmgr import managers
from fastmgr.kinds import stores
from fastmgr.managers import Token
from fastmgr.memory.arena import Arena, settle
from fastmgr.wire.codec import dumps
from fastmgr.wire.opaque import WireError

pytestmark = pytest.mark.timeout(120)

rings: Any = compiled("rings", TESTS / "support")


@pytest.fixture
def manager(own_manager: ProbeManager) -> ProbeManager:
    return own_manager


def memory_of(proxy: Any) -> Any:
    """The ring of a queue, in this process's memory."""
    _, segment, offset, size, _ = proxy._session_of().locate(proxy)
    return rings.Memory(memoryview(segment)[offset : offset + size])


STRANGER = 77 << 24


def test_a_process_that_stands_still_blocks_nobody(manager: ProbeManager) -> None:
    """It has the slot, and does nothing: the queue goes on elsewhere, with all its items."""
    q = with_ring(manager.Queue())
    for i in range(5):
        q.put(i)
    ring = memory_of(q)
    turn = rings.Step(ring, STRANGER)
    assert turn.take() == rings.DONE and turn.push(b"late")
    begun = time.monotonic()
    q.put(5)
    assert time.monotonic() - begun < 30
    assert [q.get() for _ in range(6)] == list(range(6))
    turn.write()
    assert not turn.commit() and ring.put(STRANGER, b"late") == rings.OVER
    with_ring(q)
    assert locally(manager, lambda: (q.put(6), q.get())) == (None, 6)


def test_who_asks_too_early_for_another_ring_asks_again(manager: ProbeManager) -> None:
    q = with_ring(manager.JoinableQueue())
    for i in range(3):
        q.put(i)
    turn = rings.Step(memory_of(q), STRANGER)
    assert turn.take() == rings.DONE
    for i in range(3, 50):  # the ring has ended, and still has items: there is no other yet
        q._callmethod("put", (i,))
        q.task_done()
    assert [q.get() for _ in range(50)] == list(range(50))
    for _ in range(200):
        q.qsize()
    assert locally(manager, lambda: (q.put(3), q.get())) == (None, 3)


def test_the_loop_waits_for_no_client(manager: ProbeManager) -> None:
    q, d = with_ring(manager.Queue()), manager.dict()
    turn = rings.Step(memory_of(q), STRANGER)
    assert turn.take() == rings.DONE
    putter = Client(stock(q).put, 1)
    waiting = Client(q._callmethod, "put", (2,))
    begun = time.monotonic()
    for i in range(20):
        d[i] = i
    assert time.monotonic() - begun < 0.8 and putter.outcome is waiting.outcome is None
    putter.result()
    waiting.result()
    assert {q.get(), q.get()} == {1, 2}


def hold(address: Any, ident: str) -> None:
    """Be killed in the middle of a turn."""
    q = with_ring(managers.AutoProxy(Token("Queue", address, ident), "pickle", authkey=KEY))
    turn = rings.Step(memory_of(q), owner_of(q))
    assert turn.take() == rings.DONE and turn.push(b"half")
    say("holds")
    threading.Event().wait()


def owner_of(proxy: Any) -> int:
    """What the process has in a slot: it is seen in the slot of a lock."""
    lock = connected(proxy._token.address).Lock()
    lock.acquire()
    _, segment, offset, _, _ = lock._session_of().locate(lock)
    number = int.from_bytes(memoryview(segment)[offset : offset + 8], "little") & rings.OWNER_BITS
    lock.release()
    return number


def test_a_process_that_is_killed_in_a_turn_has_done_nothing(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    for i in range(5):
        q.put(i)
    ring = memory_of(q)
    with Script(hold, manager.address, q._token.id) as script:
        assert script.line() == "holds"
        assert ring.slot & rings.OWNER_BITS
    poll(lambda: ring.slot & rings.IS_GONE, "the server ends the ring")
    assert locally(manager, lambda: None) is None
    q.put(5)
    assert [q.get() for _ in range(6)] == list(range(6))


def hold_after_many(address: Any, ident: str, least: int) -> None:
    """Take the slot as soon as the queue has fewer items, and keep it."""
    q = with_ring(managers.AutoProxy(Token("Queue", address, ident), "pickle", authkey=KEY))
    turn = rings.Step(ring := memory_of(q), owner_of(q))
    say("looks")
    while ring.peek()[0] >= least or turn.take() != rings.DONE:
        pass
    threading.Event().wait()


def test_items_at_hand_are_returned_where_the_ring_is_taken(manager: ProbeManager) -> None:
    """Also where the time of the call is over: nobody else gets them."""
    q = with_ring(manager.Queue())
    items = list(range(5000))
    q.put_many(items)
    with Script(hold_after_many, manager.address, q._token.id, len(items)) as script:
        assert script.line() == "looks"
        with fastmgr.timeout(0):
            got = q.get_many(len(items))  # in several turns, unless the other was too slow
    assert len(got) > 1000 and got == items[: len(got)]


def test_spoiled_items_are_dropped(manager: ProbeManager) -> None:
    q = with_ring(manager.JoinableQueue())
    for i in range(3):
        q.put(i)
    ring = memory_of(q)
    turn = rings.Step(ring, STRANGER)
    turn.take()
    turn.push(b"\xff\xff is no value")
    turn.commit()
    q.put(3)
    got = []
    while not q.empty():
        try:
            got.append(q.get(timeout=1))
        except (ValueError, queue.Empty):
            got.append("spoiled")
    assert got == [0, 1, 2, "spoiled", 3]


def test_one_spoiled_item_spoils_no_others(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    q.put_many(range(3))
    turn = rings.Step(memory_of(q), STRANGER)
    for data in (b"\xff is no value", dumps(3), b""):
        assert turn.take() == rings.DONE and turn.push(data) and turn.commit()
    assert locally(manager, q.get_many, 2) == [0, 1]
    assert locally(manager, q.get_many, 10) == [2, 3]
    turn.take()
    assert turn.push(b"\xff") and turn.commit()
    with pytest.raises(WireError):
        locally(manager, q.get_many, 10)


@pytest.mark.parametrize("hour", [0, 3600 * 10**9])
def test_rings_are_not_made_without_end(monkeypatch: pytest.MonkeyPatch, hour: int) -> None:
    """Where clients do not let go again and again, the queue stays in the server for a while."""
    monkeypatch.setattr(stores, "PERIOD_NS", hour)
    with ProbeManager(authkey=KEY, ctx=multiprocessing.get_context("fork")) as manager:
        q = manager.Queue()
        rings_had = 0
        while rings_had < 70 and q._session_of().locate(with_ring(q)) is not None:
            rings_had += 1
            memory_of(q).slot = rings.IS_GONE
            q.put(1)
            assert q.get() == 1
        assert rings_had == (64 if hour else 70)
        q.put(2)
        assert in_thread(q.get) == 2


def test_a_ring_that_has_ended_gives_its_memory_back(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    q.put_many(["x" * 1000] * 500)
    _, segment, offset, size, _ = q._session_of().locate(q)
    memory = memoryview(segment)[offset : offset + size]
    rings.Memory(memory).slot |= rings.IS_GONE
    assert len(q.get_many(500)) == 500
    assert any(memory[:4096]) and not any(memory[8192:500_000])


def test_one_call_moves_few_items_into_the_ring(manager: ProbeManager) -> None:
    """Others wait for the loop meanwhile."""
    q = with_ring(manager.Queue())
    q.put_many(range(100_000))
    ring = memory_of(q)
    got = [q.get() for _ in range(ring.peek()[0])]
    assert ring.peek()[0] == 0
    got.append(q.get())
    assert 0 < ring.peek()[0] < 10_000
    while not q.empty():
        got += q.get_many(10_000)
    assert got == list(range(100_000))


def test_who_begins_to_wait_gets_what_is_in_the_ring_first(manager: ProbeManager) -> None:
    """A client may put just before the flags say that somebody waits; then comes what is large."""
    q = with_ring(manager.Queue())
    ring = memory_of(q)
    q.put("first")
    (data,) = ring.items()
    assert q.get() == "first"
    getter = Client(q._callmethod, "get", ())
    poll(lambda: ring.peek()[1] & rings.FLAG_PUT, "it waits")
    turn = rings.Step(ring, STRANGER)
    assert turn.take() == rings.DONE and turn.push(data) and turn.commit()
    q.put("x" * 200_000)
    assert getter.result() == "first" and len(q.get()) == 200_000


def test_who_goes_while_the_server_takes_items_for_him_takes_none(manager: ProbeManager) -> None:
    """His time is over while the server, with half of the items, waits for the slot."""
    q = with_ring(manager.Queue())
    q.put("item")
    ring = memory_of(q)
    (data,) = ring.items()
    assert q.get() == "item"
    many = 5000
    getter = Client(q._callmethod, "get_many", (many, True, 0.6))
    poll(lambda: ring.peek()[1] & rings.FLAG_PUT, "it waits")
    turn = rings.Step(ring, STRANGER)
    assert turn.take() == rings.DONE and all(turn.push(data) for _ in range(many))
    assert turn.commit()
    putter = Client(stock(q).put, "last")
    while getter.outcome is None and (ring.peek()[0] >= many or turn.take() != rings.DONE):
        pass
    putter.result()  # the server has ended the ring by then
    try:
        got = getter.result()
    except queue.Empty:
        got = []
    assert len(got) + len(q.get_many(2 * many)) == many + 1
    q.put("more")
    assert Client(q.get, True, 30).result() == "more"


def test_a_handler_that_raises_in_a_get_many_loses_no_items(manager: ProbeManager) -> None:
    """Before Python 3.12 the collector may run between two turns: the second finds no free slot."""
    q = with_ring(manager.Queue())
    q.put_many([[i] for i in range(50)])
    ring = memory_of(q)
    turn = rings.Step(ring, STRANGER)
    taken: list[int] = []
    got: list[Any] = []

    def occupy(phase: str, info: Any) -> None:
        if phase == "start" and not taken and ring.peek()[0] == 0:
            taken.append(turn.take())
            signal.setitimer(signal.ITIMER_REAL, 0.05)

    def interrupt(*_: Any) -> None:
        raise Interrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    thresholds = gc.get_threshold()
    gc.callbacks.append(occupy)
    gc.collect()
    gc.set_threshold(20)
    try:
        got = q.get_many(100)
        if taken:
            time.sleep(30)
    except Interrupt:
        pass
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(occupy)
        signal.signal(signal.SIGALRM, before)
    assert got == [[i] for i in range(50)]


def test_a_put_costs_the_same_however_many_items_have_no_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FASTMGR_RING_SIZE", "4096")
    in_ring, few, many = 256, 4, 4000

    def seconds(behind: int) -> float:
        q = Queue()
        assert settle(q, arena)
        q.put_many(range(in_ring + behind))
        begun = time.perf_counter()
        for _ in range(10):
            q.put_nowait(1)
        spent = time.perf_counter() - begun
        assert q.get_many(2 * many) == [*range(in_ring + behind), *[1] * 10]
        return spent

    arena = Arena()
    arena.open()
    try:
        assert min(seconds(many) for _ in range(20)) < 5 * min(seconds(few) for _ in range(20))
    finally:
        arena.close()
