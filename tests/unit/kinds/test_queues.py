"""Queues: first come, first served, whatever the items and whoever waits."""

from __future__ import annotations

import gc
import queue
from collections.abc import Callable
from typing import Any

import pytest
from support import in_thread, poll
from support.places import (
    HUGE,
    NAN,
    Last,
    Managed,
    Opaque,
    ParkManager,
    Pinned,
    Place,
    outcome,
    stock,
)

import fastmgr
from fastmgr.kinds import queues, waits

pytestmark = pytest.mark.timeout(60)


def test_the_names_of_a_queue(park_manager: ParkManager) -> None:
    expected = [*fastmgr.managers.public_methods(queue.Queue()), "get_many", "put_many"]
    assert sorted(fastmgr.managers.public_methods(queues.Queue())) == sorted(expected)
    proxy = park_manager.Queue()
    assert sorted(proxy._exposed_) == sorted(expected)
    assert sorted(park_manager.JoinableQueue()._exposed_) == sorted(expected)


@pytest.mark.parametrize("maxsize", [2.5, 2.0, 0.5, -0.5, float("inf"), NAN])
def test_size_of_a_queue_that_is_no_integer(maxsize: float) -> None:
    ours, theirs = queues.Queue(maxsize), queue.Queue(maxsize)  # type: ignore[arg-type]
    for _ in range(4):
        assert outcome(ours.put, None, False)[0] == outcome(theirs.put, None, False)[0]
        assert ours.full() == theirs.full()


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
