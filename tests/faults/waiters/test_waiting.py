"""Clients that are killed while they wait take nothing, and are not counted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

import pytest
from support import DEADLINE, at_rest, count_behind_an_acquire, in_thread, poll
from support.waiters import Start, WaiterManager, call, sleep_at, take_and_give, waiting

pytestmark = pytest.mark.timeout(60)


def test_a_killed_getter_takes_nothing(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    q = manager.Queue()
    first = start("first", call, q, "get", parks=True)
    doomed = start("doomed", *caller, q, "get", parks=True)
    last = start("last", call, q, "get", parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["first", "last"], "the dead one does not wait")
    q.put(1)
    assert first.said() == 1
    q.put(2)
    assert last.said() == 2
    q.put(3)
    assert q.get(timeout=DEADLINE) == 3


def test_a_killed_putter_puts_nothing(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    q = manager.Queue(1)
    q.put("full")
    first = start("first", call, q, "put", 1, parks=True)
    doomed = start("doomed", *caller, q, "put", {"never": 1}, parks=True)
    last = start("last", call, q, "put", 2, parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["first", "last"], "the dead one does not wait")
    assert [q.get(timeout=DEADLINE) for _ in range(3)] == ["full", 1, 2]
    assert first.said() is last.said() is None
    assert q.empty()
    q.put("room again")
    assert q.get() == "room again"


def test_a_killed_putter_of_many_has_put_what_there_was_room_for(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    q = manager.Queue(2)
    doomed = start("doomed", *caller, q, "put_many", list("abcd"), parks=True)
    last = start("last", call, q, "put_many", list("efgh"), parks=True)
    assert q.get(timeout=DEADLINE) == "a"
    doomed.kill()
    poll(lambda: waiting(census) == ["last"], "the dead one does not wait")
    got: list[str] = []
    while len(got) < 6:
        got += q.get_many(9, timeout=DEADLINE)
    assert got == list("bcefgh")
    assert last.said() is None
    assert q.empty()


def test_a_killed_getter_of_many_takes_nothing(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    q = manager.Queue()
    doomed = start("doomed", *caller, q, "get_many", 3, parks=True)
    last = start("last", call, q, "get_many", 3, parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["last"], "the dead one does not wait")
    q.put_many([1, 2, 3, 4])
    assert last.said() == [1, 2, 3]
    assert q.get_many(3, timeout=DEADLINE) == [4]


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_a_killed_acquirer_takes_nothing(
    kind: str, manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    lock = getattr(manager, kind)()
    assert lock.acquire()
    first = start("first", take_and_give, lock, parks=True)
    doomed = start("doomed", *caller, lock, "acquire", parks=True)
    last = start("last", take_and_give, lock, parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["first", "last"], "the dead one does not wait")
    lock.release()
    assert first.said() is True
    assert last.said() is True
    assert in_thread(lock.acquire, True, DEADLINE) is True


def test_a_killed_sleeper_is_not_notified(
    manager: WaiterManager, census: Any, start: Start
) -> None:
    condition = manager.Condition()
    doomed = start("doomed", sleep_at, condition, parks=True)
    last = start("last", sleep_at, condition, parks=True)
    doomed.kill()
    poll(lambda: waiting(census) == ["last"], "the dead one does not wait")
    with condition:
        condition.notify()
    assert last.said() is True


@pytest.mark.parametrize("name", ["notify", "notify_all"])
def test_a_sleeper_killed_after_it_was_notified_leaves_the_lock(
    manager: WaiterManager, census: Any, start: Start, name: str
) -> None:
    """And its notification to the next."""
    condition = manager.Condition()
    doomed = start("doomed", sleep_at, condition, parks=True)
    last = start("last", sleep_at, condition, parks=True)
    with condition:
        getattr(condition, name)()  # it waits for the lock now
        doomed.kill()
        poll(lambda: waiting(census) == ["last"], "the dead one does not wait")
    assert last.said() is True
    assert in_thread(condition.acquire, True, DEADLINE)


def take_and_count(lock: Any, d: Any, sleeper: Any, way: str) -> None:
    sleeper.echo(1)  # so that a thread of the server serves what follows
    count_behind_an_acquire(lock, d, way)


@pytest.mark.parametrize("way", ["pipeline", "one-way"])
@pytest.mark.usefixtures("own_server")
def test_calls_behind_the_acquire_of_a_killed_client_are_not_made(
    manager: WaiterManager, census: Any, start: Start, way: str
) -> None:
    """They were to be made with the lock."""
    lock, d, sleeper = manager.Lock(), manager.dict(), manager.Sleeper()
    before = in_thread(census.connections)
    lock.acquire()
    doomed = start("doomed", take_and_count, lock, d, sleeper, way, parks=True)
    doomed.kill()
    poll(lambda: in_thread(census.connections) <= before, "it is gone")
    assert d.copy() == {}
    lock.release()
    assert lock.acquire(False) is True


def test_a_killed_party_is_not_counted(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    barrier = manager.Barrier(3)
    first = start("first", call, barrier, "wait", parks=True)
    doomed = start("doomed", *caller, barrier, "wait", parks=True)
    assert barrier.n_waiting == 2
    doomed.kill()
    poll(lambda: barrier.n_waiting == 1, "the dead one is not counted")
    assert not barrier.broken
    last = start("last", call, barrier, "wait", parks=True)
    assert barrier.wait() == 2
    assert (first.said(), last.said()) == (0, 1)
    assert barrier.n_waiting == 0


def test_killed_at_an_event_or_in_join(
    manager: WaiterManager, census: Any, start: Start, caller: tuple[Any, ...]
) -> None:
    event, q = manager.Event(), manager.Queue()
    q.put(1)
    for obj, name, due in ((event, "wait", event.set), (q, "join", q.task_done)):
        doomed = start("doomed", *caller, obj, name, parks=True)
        last = start(f"last to {name}", call, obj, name, parks=True)
        doomed.kill()
        poll(lambda last=last: waiting(census) == [last.name], "the dead one does not wait")
        due()
        assert last.said() is (True if name == "wait" else None)


def put_when_told(orders: Connection, sleeper: Any, q: Any, item: Any) -> None:
    q.qsize()
    if sleeper is not None:
        sleeper.echo(1)
    orders.send("connected")
    orders.recv()
    orders.send("going")
    q.put(item)


@pytest.mark.parametrize("pinned", [False, True], ids=["on the loop", "on a thread"])
@pytest.mark.usefixtures("own_server")
def test_an_item_goes_past_one_who_died_a_moment_ago(
    pinned: bool, manager: WaiterManager, start: Start
) -> None:
    """The server learns of the death and of the item at the same time."""
    q, server = manager.Queue(), manager._process.pid
    sleeper = manager.Sleeper() if pinned else None
    for i in range(5):
        orders, theirs = multiprocessing.Pipe()
        putter = start(f"putter {i}", put_when_told, theirs, sleeper, q, i, parks=False)
        assert orders.recv() == "connected"
        doomed = start(f"doomed {i}", call, q, "get", parks=True)
        os.kill(server, signal.SIGSTOP)
        try:
            doomed.kill()
            orders.send("go")
            assert orders.recv() == "going"
            poll(lambda putter=putter: at_rest(putter.process.pid), "the request is on its way")
        finally:
            os.kill(server, signal.SIGCONT)
        assert putter.said() is None
        assert q.get(timeout=DEADLINE) == i
        putter.end()


def call_when_told(orders: Connection, sleeper: Any, obj: Any, name: str) -> None:
    sleeper.echo(1)
    orders.send("connected")
    orders.recv()
    orders.send("going")
    call(obj, name)


@pytest.mark.usefixtures("own_server")
def test_who_dies_before_it_is_served_takes_nothing(
    manager: WaiterManager, census: Any, start: Start
) -> None:
    """Its request is there when the server sees that the connection is over."""
    q, lock, sleeper = manager.Queue(), manager.Lock(), manager.Sleeper()
    spinning = threading.Thread(target=manager.Spinner().spin, args=(1.0,), daemon=True)
    pairs = []
    for i in range(10):
        orders, theirs = multiprocessing.Pipe()
        what = [(q, "get"), (lock, "acquire")][i % 2]
        worker = start(f"doomed {i}", call_when_told, theirs, sleeper, *what, parks=False)
        assert orders.recv() == "connected"
        pairs.append((worker, orders))
    # The threads of the server contend, so that now this and now that comes first.
    spinning.start()
    for _, orders in pairs:
        orders.send("go")
    for _, orders in pairs:
        assert orders.recv() == "going"
    for worker, _ in pairs:
        worker.kill()
    spinning.join(DEADLINE)
    poll(lambda: not waiting(census), "nobody waits")
    assert lock.acquire(True, DEADLINE) is True
    q.put("for the living")
    assert q.get(timeout=DEADLINE) == "for the living"
