"""A call that is interrupted when its reply has come, and nobody has read it, takes nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    ProbeManager,
    in_thread,
    poll,
    readable,
    settle,
    sockets_to,
    state_of,
    stopped,
)
from support.signals import Interrupt

import fastmgr
from fastmgr.client.sessions import ClientSession
from fastmgr.managers import ListProxy, Token

Act = Callable[[], object]


class Shelf:
    """A user's class whose methods return shared objects."""

    def __init__(self) -> None:
        self.kept: list[int] = []

    def make(self) -> list[int]:
        return []

    def get(self) -> list[int]:
        return self.kept


class InterruptManager(ProbeManager):
    """With what these tests have in the server."""


InterruptManager.register("Shelf", Shelf, method_to_typeid={"make": "list", "get": "list"})


@pytest.fixture(params=["one connection", "two", "pinned", "polled"])
def manager(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[InterruptManager]:
    """What is to be interrupted goes over this process's one connection, or another is open."""
    address = None
    if request.param == "polled":  # by TCP, to a server that has no epoll
        address = ("127.0.0.1", 0)
        monkeypatch.setenv("FASTMGR_POLLER", "poll")
    with InterruptManager(address) as manager, ThreadPoolExecutor(1) as other:
        shelf = manager.Shelf()
        if request.param == "two":
            other.submit(shelf.get).result(DEADLINE)
        if request.param == "pinned":
            shelf.get()
        yield manager


def asleep() -> bool:
    stat = Path(f"/proc/self/task/{os.getpid()}/stat")
    return not stat.exists() or state_of(stat) == "S"


def await_sleep() -> None:
    """Wait until the main thread has been seen asleep several times in a row."""
    row = 0

    def waits() -> bool:
        nonlocal row
        row = row + 1 if asleep() else 0
        return row > 5

    poll(waits, "the main thread waits")


def await_waiter(manager: Any) -> None:
    """Wait until a call waits in the server; the main thread may sleep for another reason."""
    with fastmgr.Monitor(manager.address, authkey=bytes(manager._authkey)) as monitor:
        poll(
            lambda: any(shared.waiters for shared in monitor.report().objects),
            "the call waits in the server",
        )


@contextlib.contextmanager
def interrupted(manager: Any, act: Act, stands_still: bool = False) -> Iterator[None]:
    """Interrupt the block's call once `act`, called when it waits, has brought its reply."""
    main = threading.get_ident()
    done = threading.Event()

    def replied() -> bool:
        return any(readable([sock], 0) for sock in sockets_to(manager.address))

    def handle(*_: object) -> None:
        if not done.is_set():
            done.set()
            act()
            poll(replied, "the reply has come")
            raise Interrupt

    def interrupt() -> None:
        if not stands_still:
            await_waiter(manager)
        await_sleep()
        signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=interrupt)
    try:
        with pytest.raises(Interrupt):
            thread.start()
            yield
    finally:
        thread.join(DEADLINE)
        signal.signal(signal.SIGUSR1, before)


@contextlib.contextmanager
def served_late(manager: Any, act: Act = int) -> Iterator[None]:
    """Interrupt the block's call, which need not wait: its server stands still until then."""
    pid = manager._process.pid

    def go_on() -> None:
        os.kill(pid, signal.SIGCONT)
        act()

    with stopped(pid), interrupted(manager, go_on, True):
        yield


class Holder:
    """A thread of this process that holds something until it is told otherwise."""

    def __init__(self, thing: Any) -> None:
        self.pool = ThreadPoolExecutor(1)
        self.thing = thing
        assert self.pool.submit(thing.acquire).result(DEADLINE)

    def let_go(self) -> None:
        self.pool.submit(self.thing.release).result(DEADLINE)
        self.pool.shutdown()


def is_free(thing: Any) -> bool:
    """Whether another thread can have it this moment."""

    def take() -> bool:
        taken: bool = thing.acquire(False)
        if taken:
            thing.release()
        return taken

    free: bool = in_thread(take)
    return free


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_what_was_handed_over_is_given_back(manager: InterruptManager, kind: str) -> None:
    thing = getattr(manager, kind)()
    holder = Holder(thing)
    with interrupted(manager, holder.let_go):
        thing.acquire()
    if kind in ("RLock", "Condition"):
        with pytest.raises(RuntimeError, match="un-acquired"):
            thing.release()
    assert is_free(thing)
    assert thing.acquire()  # and once only
    assert not is_free(thing)


def test_the_next_in_the_queue_has_it(manager: InterruptManager) -> None:
    lock = manager.Lock()
    lock.acquire()
    taken = []

    def act() -> None:
        lock.release()
        taken.append(second.submit(lock.acquire))

    with ThreadPoolExecutor(1) as second:
        with interrupted(manager, act):
            lock.acquire()
        assert taken[0].result(DEADLINE)


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_what_was_free_is_free_again(manager: InterruptManager, kind: str) -> None:
    thing = getattr(manager, kind)()
    with served_late(manager):
        thing._callmethod("acquire")
    assert is_free(thing)


def test_an_owner_has_its_rlock_as_often_as_before(manager: InterruptManager) -> None:
    lock = manager.RLock()
    lock.acquire()
    lock.acquire()
    with served_late(manager):
        lock._callmethod("acquire")
    lock.release()
    assert not is_free(lock)
    lock.release()
    assert is_free(lock)


@pytest.mark.parametrize("kind", ["Queue", "JoinableQueue"])
@pytest.mark.parametrize("item", ["first", None, False, [1], frozenset([2])])
def test_an_item_is_the_first_again(manager: InterruptManager, kind: str, item: object) -> None:
    q = getattr(manager, kind)()

    def put() -> None:
        q.put(item)
        q.put("second")

    with interrupted(manager, put):
        q.get()
    with served_late(manager):
        q.get(False)
    with served_late(manager):
        q.get_nowait()
    assert q.qsize() == 2
    assert (q.get(), q.get()) == (item, "second")
    if kind == "JoinableQueue":
        q.task_done()
        q.task_done()
        q.join()


def test_a_full_queue_gets_no_fuller(manager: InterruptManager) -> None:
    q = manager.Queue(1)
    q.put(1)
    with ThreadPoolExecutor(1) as second:
        second.submit(q.put, 2)
        with served_late(manager, lambda: poll(q.full, "the second is put in place of the first")):
            q.get()
        third = second.submit(q.put, 3)
        assert q.get() == 1
        # On a busy machine the second thread may have got no further before.
        poll(lambda: q.qsize() == 1, "the second is there")
        assert [q.get(), q.get()] == [2, 3]
        third.result(DEADLINE)


def test_who_waits_gets_the_item(manager: InterruptManager) -> None:
    q = manager.Queue()
    got = []

    def put() -> None:
        q.put("item")
        got.append(second.submit(q.get))

    with ThreadPoolExecutor(1) as second:
        with interrupted(manager, put):
            q.get()
        assert got[0].result(DEADLINE) == "item"


def test_a_notification_goes_to_another(manager: InterruptManager) -> None:
    condition = manager.Condition()
    waits = threading.Event()
    told: list[Any] = []

    def wait() -> bool:
        with condition:
            waits.set()
            return bool(condition.wait(DEADLINE))

    def notify() -> None:
        with condition:
            condition.notify()

    def act() -> None:
        told.append(second.submit(wait))
        assert waits.wait(DEADLINE)  # or nearly: the lock is its until it does
        in_thread(notify)

    with ThreadPoolExecutor(1) as second:
        with condition:
            with interrupted(manager, act):
                condition.wait()
            assert not is_free(condition)  # it is this thread's, as ever after a wait
        assert told[0].result(DEADLINE)
        assert is_free(condition)


@pytest.mark.parametrize("what", ["created", "returned", "returned again", "pickled"])
def test_no_object_is_left(manager: InterruptManager, what: str) -> None:
    shelf = manager.Shelf()
    kept = shelf.get() if what == "returned again" else None
    before = manager._number_of_objects()
    with served_late(manager):
        if what == "created":
            manager.list([1])
        elif what == "pickled":
            manager.list([frozenset()])
        elif what == "returned":
            shelf.make()
        else:
            shelf.get()
    assert manager._number_of_objects() == before
    del kept
    settle(manager, before - (what == "returned again"))


def test_a_reference_that_was_asked_for_is_not_kept(manager: InterruptManager) -> None:
    """Another process's object; the server hears of the call and of its end at once."""
    pid = manager._process.pid

    def give_up() -> None:
        threading.Thread(target=go_on).start()
        raise Interrupt

    def go_on() -> None:
        await_sleep()  # it has said goodbye, and waits
        os.kill(pid, signal.SIGCONT)

    other = ClientSession(manager.address, "pickle", bytes(manager._authkey))
    ident, _, reference = other.create("list", ([1],), {}, False)
    before = manager._number_of_objects()
    with stopped(pid), interrupted(manager, give_up, True):
        ListProxy(Token("list", manager.address, ident), "pickle", authkey=manager._authkey)
    del reference
    other.close()
    settle(manager, before - 1)


def test_a_pipeline_gives_all_of_it_back(manager: InterruptManager) -> None:
    lock, permits, q, gate = manager.Lock(), manager.Semaphore(2), manager.Queue(), manager.Queue()
    owned = manager.RLock()
    owned.acquire()
    for i in range(3):
        q.put(i)
    pipe = manager.pipeline()
    pipe(q).get()
    pipe(lock).acquire()
    pipe(permits).acquire()
    pipe(q).get_many(5)
    pipe(permits).acquire()
    pipe(permits).release()
    pipe(owned).acquire()
    pipe(owned).release()
    pipe(gate).get()
    with interrupted(manager, lambda: gate.put("item")):
        pipe.execute()
    assert [q.get_nowait() for _ in range(3)] == [0, 1, 2]
    assert gate.get_nowait() == "item"
    assert is_free(lock)
    assert [permits.acquire(False) for _ in range(3)] == [True, True, False]
    assert not is_free(owned)
    owned.release()
    assert is_free(owned)


def test_what_was_taken_before_stays_taken(manager: InterruptManager) -> None:
    lock, permits, q, gate = manager.Lock(), manager.Semaphore(2), manager.Queue(), manager.Queue()
    q.put(1)
    assert lock._callmethod("acquire")
    assert permits._callmethod("acquire")
    assert q.get() == 1
    with interrupted(manager, lambda: gate.put("item")):
        gate.get()
    assert q.empty()
    assert not is_free(lock)
    assert [permits.acquire(False) for _ in range(2)] == [True, False]


def test_a_pipeline_gives_back_only_what_it_still_has(manager: InterruptManager) -> None:
    permits, other, gate = manager.Semaphore(3), manager.Semaphore(1), manager.Queue()
    pipe = manager.pipeline(errors="return")
    for _ in range(3):
        pipe(permits).acquire()
    pipe(permits).release(1)
    pipe(permits).release(0)  # which fails
    pipe(other).acquire()
    pipe(other).acquire(False)  # which gets none
    pipe(other).release()
    pipe(gate).get()
    with interrupted(manager, lambda: gate.put("item")):
        pipe.execute()
    assert [permits.acquire(False) for _ in range(4)] == [True, True, True, False]
    assert [other.acquire(False) for _ in range(2)] == [True, False]


def test_a_pipeline_gives_back_items_that_it_has_not_done(manager: InterruptManager) -> None:
    q, gate = manager.JoinableQueue(), manager.Queue()
    q.put_many("abcd")
    pipe = manager.pipeline()
    pipe(q).get_many(3)
    pipe(q).task_done()
    pipe(gate).get()
    with interrupted(manager, lambda: gate.put("item")):
        pipe.execute()
    assert q.get_many(5) == ["a", "b", "d"]
    for _ in range(3):
        q.task_done()
    q.join()


def test_a_pipeline_that_was_cut_off_gives_all_of_it_back(manager: InterruptManager) -> None:
    """It is interrupted while the server waits, and takes no more of what is sent."""
    lock, owned, q, gate = manager.Lock(), manager.RLock(), manager.Queue(), manager.Queue()
    values = manager.list()
    q.put("first")
    pipe = manager.pipeline()
    for taken in (lock, owned):
        pipe(taken).acquire()
    pipe(q).get()
    pipe(gate).get()
    for _ in range(200):
        pipe(values).append("x" * 50_000)

    def give_up() -> None:
        raise Interrupt

    with interrupted(manager, give_up):
        pipe.execute()
    for taken in (lock, owned):
        assert in_thread(taken.acquire, True, DEADLINE)
        assert taken.owner_died  # the calls that belonged to it were not made
    assert q.get_nowait() == "first"
    gate.put("item")
    assert gate.get_nowait() == "item"
