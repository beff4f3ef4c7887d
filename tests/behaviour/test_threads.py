"""Many threads, and collections at any moment: references are counted exactly."""

from __future__ import annotations

import gc
import pickle
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, KEY, FastPeer, ProbeManager, in_thread, poll, settle, together
from support.managers import references
from support.processes import in_child

from fastmgr import SyncManager
from fastmgr.managers import dispatch

pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

THREADS = 12


@pytest.fixture
def busy_collector() -> Iterator[None]:
    """Collections all the time, in a thread that makes no calls and in those that do."""
    stop = threading.Event()

    def collect() -> None:
        while not stop.wait(0.001):
            gc.collect()

    thresholds = gc.get_threshold()
    interval = sys.getswitchinterval()
    gc.set_threshold(20, 2, 2)
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=collect)
    thread.start()
    yield
    stop.set()
    thread.join(DEADLINE)
    gc.set_threshold(*thresholds)
    sys.setswitchinterval(interval)


# Threads


def test_many_threads_with_many_proxies(manager: ProbeManager) -> None:
    shared = manager.dict()
    lock = manager.Lock()
    total = manager.Value("i", 0)

    def work(i: int) -> None:
        mine = [manager.list([i]) for _ in range(5)]
        for j in range(20):
            mine[j % 5].append(j)
            with lock:
                total.value += 1
            shared[i, j] = mine[j % 5][-1]
        assert [proxy[0] for proxy in mine] == [i] * 5

    together(THREADS, work)
    assert total.value == THREADS * 20
    assert shared.copy() == {(i, j): j for i in range(THREADS) for j in range(20)}
    settle(manager, 3)
    assert references(manager) == {proxy._id: 1 for proxy in (shared, lock, total)}


def test_replies_reach_the_thread_that_asked(manager: ProbeManager) -> None:
    sleeper = manager.Sleeper()

    def work(i: int) -> None:
        for j in range(100):
            assert sleeper.echo((i, j)) == (i, j)

    together(THREADS, work)


def test_every_thread_has_a_connection_of_its_own(manager: ProbeManager) -> None:
    """And so no call waits for another thread's."""
    event = manager.Event()
    done: list[bool] = []

    def work(i: int) -> None:
        if i == 0:
            event.set()
        else:
            done.append(event.wait(DEADLINE))

    together(THREADS, work)
    assert done == [True] * (THREADS - 1)


def test_references_outlive_the_thread_that_took_them(manager: ProbeManager) -> None:
    shared: list[Any] = []
    in_thread(lambda: shared.append(manager.list([1])))
    gc.collect()
    assert shared[0][:] == [1]
    assert references(manager) == {shared[0]._id: 1}


def test_process_holds_references_with_no_thread_that_calls(manager: ProbeManager) -> None:
    """The only thread that called is gone, but not its connection."""

    def child() -> Any:  # with a session that has no connection yet
        kept: list[Any] = []
        in_thread(lambda: kept.append(manager.list([1])))
        gc.collect()
        # Not in the name of this session.
        with manager._Client(manager.address, authkey=manager._authkey) as conn:
            count = dispatch(conn, None, "number_of_objects")
        in_thread(lambda: kept[0].append(2))
        return count, in_thread(lambda: kept[0][:])

    assert in_child(child) == (0, repr((1, [1, 2])))
    settle(manager, 0)


def test_proxies_dropped_in_other_threads(manager: ProbeManager) -> None:
    shared = [manager.list([i]) for i in range(100)]

    def drop(i: int) -> None:
        while True:
            try:
                proxy = shared.pop()
            except IndexError:
                return
            assert len(proxy) == 1
            del proxy

    together(THREADS, drop)
    settle(manager, 0)


def test_copies_in_many_threads_count_once(manager: ProbeManager) -> None:
    origin = manager.list()
    data = pickle.dumps(origin)

    def work(i: int) -> None:
        for j in range(20):
            copies = [pickle.loads(data) for _ in range(3)]
            copies[0].append((i, j))
            del copies

    together(THREADS, work)
    assert len(origin) == THREADS * 20
    assert references(manager) == {origin._id: 1}
    del origin
    settle(manager, 0)


# Finalizers


def test_finalizers_at_any_moment(manager: ProbeManager, busy_collector: None) -> None:
    keep = manager.dict()

    def work(i: int) -> None:
        for j in range(25):
            # Proxies in cycles go whenever the collector finds them, also within calls.
            node: list[Any] = [manager.list([j]), manager.dict()]
            node.append(node)
            node[0].append(node[1])
            keep[i] = j
            assert node[0][0] == j
            assert keep[i] == j
            del node

    together(6, work)
    gc.collect()
    settle(manager, 1)
    assert references(manager) == {keep._id: 1}


def test_proxy_dropped_while_another_is_being_sent(manager: ProbeManager) -> None:
    """Pickling an argument runs code, which may drop proxies or call others."""
    shared = manager.list()
    other = manager.dict()
    doomed = [manager.list([i]) for i in range(5)]

    class Nasty:
        def __reduce__(self) -> Any:
            doomed.pop()
            gc.collect()
            other["pickled"] = len(doomed)
            return int, (5,)

    for _ in range(5):
        shared.append(Nasty())
    assert shared[:] == [5] * 5
    assert other["pickled"] == 0
    settle(manager, 2)


class Retaken:
    """Unpickling it takes an object of `outer` anew, and fails."""

    outer: Any
    taken: Any = None

    def __reduce__(self) -> Any:
        return Retaken.take, ()

    @staticmethod
    def take() -> None:
        Retaken.taken = Retaken.outer[0]
        raise LookupError("read no further")


def test_releases_are_sent_once_though_the_reply_cannot_be_read() -> None:
    """Sent once more, they would return the references that unpickling has taken meanwhile."""
    with SyncManager(authkey=KEY) as manager, FastPeer(manager.address) as other:
        proxies: list[Any] = []
        made = threading.Event()

        def wait() -> None:
            inner, barrier = manager.list([7]), manager.Barrier(2)
            proxies[:] = inner, manager.list([inner]), manager.list(), barrier
            proxies[2].append(Retaken())
            made.set()
            del inner
            barrier.wait()

        thread = threading.Thread(target=wait)
        thread.start()
        assert made.wait(DEADLINE)
        inner, Retaken.outer, unreadable, barrier = proxies
        proxies.clear()

        def waits() -> bool:
            handle = int(barrier._id, 16)
            return other.method(handle, "__getattribute__", "n_waiting").payload == 1

        poll(waits, "the only connection is taken by a call")
        del inner  # its release is due
        with pytest.raises(LookupError, match="no further"):
            unreadable.pop()
        Retaken.outer.clear()
        assert Retaken.taken[:] == [7]
        barrier.wait()
        thread.join()
        del Retaken.outer, Retaken.taken
