"""Waits that a signal interrupts take nothing, and pass on what was theirs."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from multiprocessing import managers as stdlib
from typing import Any

import pytest
from support import DEADLINE, KEY, count_behind_an_acquire, in_thread
from support.places import Client, Managed, Pinned, Place, outcome

import fastmgr
from fastmgr.kinds import locks, queues, semaphores

pytestmark = pytest.mark.timeout(60)


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


@pytest.fixture(params=["threads", "manager", "pinned", "polling", "on_valkey", "on_redis"])
def interruptible(request: pytest.FixtureRequest) -> Iterator[Place]:
    """Not the stdlib's clients: their connection is of no use after an interrupt."""
    if request.param == "threads":
        yield Place()
        return
    if request.param.startswith("on_"):
        yield request.getfixturevalue(request.param)
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
    with interrupted(place):
        q.get_many(2)
    with interrupted(place):
        q.put_many("abc")
    assert q.get_many(9) == ["a"]  # it was put before the interrupt
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
