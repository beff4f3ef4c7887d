"""Locks and conditions: whose they are, and who is next."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from support import DEADLINE, KEY, FastPeer, ProbeManager, in_thread
from support.frames import OP_CALL, OP_INCREF
from support.places import Client, Managed, ParkManager, Pinned, Place, outcome, stock

from fastmgr.wire import codec

pytestmark = pytest.mark.timeout(60)


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
