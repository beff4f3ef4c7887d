"""Processes that are killed while they work on memory that they share with the server."""

from __future__ import annotations

import multiprocessing
import os
import signal
import statistics
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    SANITIZED,
    ProbeManager,
    at_rest,
    call_in_subprocess,
    in_thread,
    mapped,
    poll,
    process_gone,
    settle,
)
from support.processes import descriptors

import fastmgr

pytestmark = [
    pytest.mark.timeout(120),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]

FORK: Any = multiprocessing.get_context("fork")
#: What a call says when the server is gone.
GONE = (EOFError, ConnectionError)


@pytest.fixture
def manager(own_manager: ProbeManager) -> ProbeManager:
    return own_manager


# Hand-over


def hold(lock: Any, depth: int, pipe: Connection) -> None:
    """Take it so often, say so, and keep it until told to end or killed."""
    for _ in range(depth):
        assert lock.acquire(True, DEADLINE)
    pipe.send([lock.owner_died, len(mapped())])
    pipe.recv()


class Holder:
    """A process that holds something."""

    def __init__(self, lock: Any, depth: int = 1) -> None:
        self.pipe, theirs = FORK.Pipe()
        self.process = FORK.Process(target=hold, args=(lock, depth, theirs))
        self.process.start()
        theirs.close()
        try:
            assert self.pipe.poll(DEADLINE), "the holder does not get it"
            self.found_died, pieces = self.pipe.recv()
            assert pieces, "the holder has mapped nothing"
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.process.join(DEADLINE)
        self.pipe.close()

    def end(self) -> None:
        """In order, with what it holds."""
        self.pipe.send("end")
        self.process.join(DEADLINE)
        assert self.process.exitcode == 0
        self.pipe.close()

    def __enter__(self) -> Holder:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


KINDS: dict[str, tuple[Callable[[Any], Any], int]] = {
    "Lock": (lambda manager: manager.Lock(), 1),
    "RLock": (lambda manager: manager.RLock(), 3),
    "Semaphore": (lambda manager: manager.Semaphore(1), 1),
    "BoundedSemaphore": (lambda manager: manager.BoundedSemaphore(2), 2),
}


@pytest.fixture(params=list(KINDS))
def kind(request: pytest.FixtureRequest) -> tuple[Callable[[Any], Any], int]:
    return KINDS[request.param]


def wait_for(lock: Any, ready: Connection) -> None:
    """Say when it was had, on the clock that all processes share, and give it back."""
    ready.send("waits")
    assert lock.acquire(True, DEADLINE)
    ready.send(time.monotonic())
    lock.release()


def test_a_killed_holder_is_replaced_at_once(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    """By the first of two that wait, in another process, and then by the second."""
    make, depth = kind
    lock = make(manager)
    took = []
    for _ in range(5):
        waiters: list[tuple[Any, Connection]] = []
        with Holder(lock, depth) as holder:
            try:
                for _ in range(2):
                    here, there = FORK.Pipe()
                    waiter = FORK.Process(target=wait_for, args=(lock, there))
                    waiters.append((waiter, here))
                    waiter.start()
                    there.close()
                for waiter, here in waiters:
                    assert here.poll(DEADLINE) and here.recv() == "waits"
                    poll(lambda pid=waiter.pid: at_rest(pid), "it waits")  # type: ignore[misc]
                killed = time.monotonic()
                holder.process.kill()
                had = []
                for _waiter, here in waiters:
                    assert here.poll(DEADLINE), "a waiter is forgotten"
                    had.append(here.recv())
                took.append(min(had) - killed)
                for waiter, _here in waiters:
                    waiter.join(DEADLINE)
                    assert waiter.exitcode == 0
            finally:
                for waiter, here in waiters:
                    waiter.kill()
                    waiter.join(DEADLINE)
                    here.close()
    print("hand-over, ms:", *(f"{1000 * seconds:.1f}" for seconds in sorted(took)))
    # Half a second is how long a thread sleeps that is not woken; the sanitizer ends slowly.
    assert statistics.median(took) < (0.4 if SANITIZED else 0.1)


# What the next holder is told


def test_the_next_holder_is_told_that_one_died(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    make, depth = kind
    lock = make(manager)
    assert not lock.owner_died
    for _ in range(3):
        with Holder(lock, depth) as holder:
            assert not holder.found_died
            holder.process.kill()
            assert lock.acquire(True, DEADLINE)
            assert lock.owner_died
            # It is not forgotten by who does not care.
            lock.release()
            assert lock.owner_died
        with Holder(lock, 1) as indifferent:
            assert indifferent.found_died
            indifferent.process.kill()
            assert lock.acquire(True, DEADLINE)
        assert lock.owner_died
        lock.consistent()
        assert not lock.owner_died
        lock.release()
        assert not lock.owner_died


def test_a_waiter_is_told_that_one_died(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    make, depth = kind
    lock = make(manager)

    def look(entered: threading.Event) -> Any:
        entered.set()
        assert lock.acquire(True, DEADLINE)
        try:
            return lock.owner_died
        finally:
            lock.release()

    for _ in range(3):
        entered = threading.Event()
        with Holder(lock, depth) as holder:
            timer = threading.Thread(
                target=lambda e=entered, h=holder: e.wait() and h.process.kill()
            )
            timer.start()
            assert in_thread(look, entered)
            timer.join(DEADLINE)
    lock.consistent()
    assert in_thread(look, threading.Event()) is False


def test_who_gives_back_before_the_end_leaves_no_trace(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    make, _depth = kind
    lock = make(manager)

    def take_and_give(pipe: Connection) -> None:
        for _ in range(100):
            with lock:
                pass
        pipe.send("done")
        signal.pause()

    here, there = FORK.Pipe()
    process = FORK.Process(target=take_and_give, args=(there,))
    process.start()
    try:
        assert here.poll(DEADLINE) and here.recv() == "done"
    finally:
        process.kill()
        process.join(DEADLINE)
        here.close()
        there.close()
    settle(manager, 1)
    assert lock.acquire(True, DEADLINE)
    assert not lock.owner_died


def test_who_ends_in_order_leaves_it_held(
    kind: tuple[Callable[[Any], Any], int], manager: ProbeManager
) -> None:
    """As in the stdlib: nobody knows that it is not meant to be."""
    make, depth = kind
    lock = make(manager)
    with Holder(lock, depth) as holder:
        holder.end()
    assert not lock.acquire(False)
    assert not lock.acquire(True, 0.2)
    assert not lock.owner_died


def test_a_permit_that_was_released_into_being(manager: ProbeManager) -> None:
    """It has no place of its own in shared memory; that one died with it is told all the same."""
    semaphore = manager.Semaphore(1)
    semaphore.release()
    assert semaphore.acquire()
    with Holder(semaphore) as holder:
        holder.process.kill()
        assert semaphore.acquire(True, DEADLINE)
        assert semaphore.owner_died
        semaphore.consistent()
        assert not semaphore.owner_died


def hold_beside_a_thread(lock: Any, sleeper: Any, pipe: Connection) -> None:
    """Hold it, and have a thread whose connection a worker of the server serves, until told."""
    go = threading.Event()

    def other() -> None:
        assert sleeper.echo(1) == 1
        pipe.send("connected")
        go.wait()

    thread = threading.Thread(target=other)
    thread.start()
    lock.acquire()
    pipe.send("locked")
    pipe.recv()
    go.set()
    thread.join()
    pipe.send("ended")
    pipe.recv()


def test_a_thread_that_ended_in_order_before_its_process_was_killed(manager: Any) -> None:
    """The server, which is stopped meanwhile, may hear of the two in any order."""
    server = manager._process.pid
    sleeper = manager.Sleeper()
    for _ in range(12):
        lock = manager.Lock()
        here, there = FORK.Pipe()
        process = FORK.Process(target=hold_beside_a_thread, args=(lock, sleeper, there))
        process.start()
        try:
            for _ in range(2):
                assert here.poll(DEADLINE) and here.recv() in ("connected", "locked")
            assert not lock.acquire(False)
            os.kill(server, signal.SIGSTOP)
            try:
                here.send("end the thread")
                assert here.poll(DEADLINE) and here.recv() == "ended"
            finally:
                process.kill()
                process.join(DEADLINE)
                os.kill(server, signal.SIGCONT)
            assert lock.acquire(True, 10), "it is stuck"
            assert lock.owner_died
        finally:
            here.close()
            there.close()


def lose_connections(address: str, pipe: Connection) -> None:
    """Use what is its own, close all descriptors as a process that goes to the background does."""
    manager = ProbeManager(address=address, authkey=KEY)
    manager.connect()
    counter, lock = manager.Counter(100), manager.Lock()
    assert lock.acquire() and counter.incr() == 101
    os.closerange(3, pipe.fileno())
    os.closerange(pipe.fileno() + 1, 256)
    pipe.send("closed")
    pipe.recv()
    told: list[Any] = []
    for call in (counter.incr, lock.release, counter.get):
        try:
            told.append(call())
        except (OSError, EOFError, fastmgr.RemoteError):
            told.append("an error")
    pipe.send(told)


def test_a_client_that_lost_its_connections_touches_nothing(manager: ProbeManager) -> None:
    """To the server it is dead; what was its own may be another's."""
    here, there = FORK.Pipe()
    process = FORK.Process(target=lose_connections, args=(manager.address, there))
    process.start()
    there.close()
    try:
        assert here.poll(DEADLINE) and here.recv() == "closed"
        settle(manager, 0)
        counters, locks = [manager.Counter() for _ in range(3)], [manager.Lock() for _ in range(3)]
        for counter, lock in zip(counters, locks, strict=True):
            assert counter.get() == 0
            assert lock.acquire(False)
        here.send("go on")
        assert here.poll(DEADLINE)
        told = here.recv()
        assert [counter.get() for counter in counters] == [0, 0, 0]
        assert [lock.locked() for lock in locks] == [True, True, True]
        assert told == ["an error"] * 3
    finally:
        process.kill()
        process.join(DEADLINE)
        here.close()


# Children


def use(proxies: list[Any]) -> list[int]:
    """Use all of them; how much is mapped, and how many descriptors are open, then."""
    for proxy in proxies:
        if hasattr(proxy, "incr"):
            proxy.incr()
        else:
            with proxy:
                pass
    return [len(mapped()), descriptors()]


def use_and_tell(proxies: list[Any], pipe: Connection) -> None:
    begun = [len(mapped()), descriptors()]
    pipe.send([begun, use(proxies[:1]), use(proxies)])


def children(address: str) -> dict[str, Any]:
    """What a process of any kind maps and opens: first, with one proxy, and with all it has."""
    multiprocessing.current_process().authkey = KEY
    manager = ProbeManager(address=address, authkey=KEY)
    manager.connect()
    proxies: list[Any] = []
    for _ in range(40):
        proxies += [manager.Counter(), manager.Lock(), manager.RLock(), manager.Value("i", 0)]
    told: dict[str, Any] = {
        "here": [[len(mapped()), descriptors()], use(proxies[:1]), use(proxies)]
    }
    for method in ("fork", "spawn"):
        context: Any = multiprocessing.get_context(method)
        here, there = context.Pipe()
        process = context.Process(target=use_and_tell, args=(proxies, there))
        process.start()
        there.close()
        assert here.poll(DEADLINE), f"a child by {method} says nothing"
        told[method] = here.recv()
        process.join(DEADLINE)
        here.close()
        assert process.exitcode == 0
        process.close()
    reading, writing = FORK.Pipe(duplex=False)
    pid = os.fork()
    if not pid:
        try:
            use_and_tell(proxies, writing)
        finally:
            os._exit(0)
    assert reading.poll(DEADLINE)
    told["os.fork"] = reading.recv()
    os.waitpid(pid, 0)
    reading.close()
    writing.close()
    told["after"] = use(proxies)
    told["sums"] = sorted({proxy.get() for proxy in proxies if hasattr(proxy, "get")})
    return told


def test_children_map_the_arena_once(manager: ProbeManager) -> None:
    told = call_in_subprocess(children, manager.address, timeout=60)
    after, sums = told.pop("after"), told.pop("sums")
    # Each counted once or, the first of them, twice; in four processes and once more at the end.
    assert sums == [5, 9]
    for who, (begun, with_one, with_all) in told.items():
        # What says that the server lives, and the one segment of small cells.
        assert with_one[0] == with_all[0] == 2, (who, told)
        assert with_all[1] == with_one[1], (who, told)
        # One connection.
        assert with_one[1] <= begun[1] + 1, (who, told)
    assert after == told["here"][2][:1] + after[1:]
    assert after[1] <= told["here"][2][1] + 2  # what tracks spawned processes' resources
    settle(manager, 0)


# A killed server


def test_nobody_counts_for_a_killed_server() -> None:
    """Not even a client that needs nothing but the memory, which still is there."""
    manager = ProbeManager(authkey=KEY)
    manager.start()
    counter, counters, lock = manager.Counter(), manager.Counters(3), manager.Lock()
    rlock, semaphore, value = manager.RLock(), manager.Semaphore(2), manager.Value("i", 0)
    array, event = manager.Array("i", [0] * 3), manager.Event()
    assert rlock.acquire() and semaphore.acquire()
    calls: dict[str, Callable[[], Any]] = {
        "Counter.incr": counter.incr,
        "Counter.get": counter.get,
        "Counters.incr": lambda: counters.incr(0),
        "Counters.snapshot": counters.snapshot,
        "Lock.acquire": lambda: lock.acquire(False),
        "Lock.locked": lock.locked,
        "RLock.acquire": lambda: rlock.acquire(False),
        "RLock.release": rlock.release,
        "Semaphore.acquire": lambda: semaphore.acquire(False),
        "Semaphore.release": semaphore.release,
        "Value.get": value.get,
        "Value.set": lambda: value.set(1),
        "Value.incr": value.incr,
        "Array[0]": lambda: array[0],
        "Array.incr": lambda: array.incr(0),
        "Event.is_set": event.is_set,
        "owner_died": lambda: lock.owner_died,
    }
    # All is mapped, by a process with threads as by a child of it.
    assert rlock.acquire()
    for call in calls.values():
        call()

    def all_fail() -> None:
        for name, call in calls.items():
            with pytest.raises(GONE):
                in_thread(call)
                pytest.fail(f"{name} works without a server")
            with pytest.raises(GONE):
                call()
                pytest.fail(f"{name} works without a server")

    def in_child(pipe: Connection) -> None:
        counter.incr()
        pipe.send("counted")
        pipe.recv()
        all_fail()

    here, there = FORK.Pipe()
    child = FORK.Process(target=in_child, args=(there,))
    child.start()
    try:
        assert here.poll(DEADLINE) and here.recv() == "counted"
        os.kill(manager._process.pid, signal.SIGKILL)
        poll(lambda: process_gone(manager._process.pid), "it is dead")
        all_fail()
        here.send("look")
        child.join(DEADLINE)
        assert child.exitcode == 0
    finally:
        child.kill()
        child.join(DEADLINE)
        here.close()
        there.close()
    in_thread(manager.shutdown)
