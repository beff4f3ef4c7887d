"""Calls whose time is over (`fastmgr.timeout`): nothing is held, lost or there twice."""

from __future__ import annotations

import contextlib
import itertools
import math
import queue
import random
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import managers as stock
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, connected, in_thread, poll, together, valkeys

import fastmgr
from fastmgr.client.limits import dial_limit

pytestmark = pytest.mark.timeout(120)

CHANCE = random.Random(33)


@pytest.fixture(scope="module", params=["fast", "unshared", "stock", *valkeys.PLACES])
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A client of a server that is of either dialect, or on an engine."""
    if request.param in valkeys.PLACES:
        with valkeys.manager(request.param, ns="timeouts") as there:
            yield there
        return
    kind: Any = stock.SyncManager if request.param == "stock" else ProbeManager
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "unshared":
            patch.setenv("FASTMGR_ARENA", "off")
        with kind(authkey=KEY) as server:
            yield connected(server.address)


def late(call: Callable[..., Any], *args: Any) -> None:
    """Make a call that has to wait, for too short a time."""
    begun = time.monotonic()
    with pytest.raises(fastmgr.CallTimeout), fastmgr.timeout(0.05):
        call(*args)
    assert time.monotonic() - begun < DEADLINE / 3


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
def test_what_was_waited_for_too_long_is_free(manager: Any, kind: str) -> None:
    lock = getattr(manager, kind)()
    with lock:
        in_thread(late, lock.acquire)
        in_thread(late, lock.acquire, True, 60.0)
    assert in_thread(lock.acquire, False)


def test_item_that_came_too_late_is_there(manager: Any) -> None:
    items = manager.Queue(1)
    late(items.get)
    late(items.get, True, 60.0)
    items.put(1)
    late(items.put, 2)
    assert items.get(timeout=DEADLINE) == 1
    with pytest.raises(queue.Empty):
        items.get_nowait()


def test_events_conditions_and_barriers(manager: Any) -> None:
    late(manager.Event().wait)
    condition, barrier = manager.Condition(), manager.Barrier(2)
    with condition:
        late(condition.wait)
        condition.notify_all()  # a thread that does not own it could not
    assert in_thread(condition.acquire, False)
    late(barrier.wait)
    poll(lambda: barrier.n_waiting == 0, "nobody waits at the barrier")


def test_own_time_of_a_call_that_is_over_first(manager: Any) -> None:
    with fastmgr.timeout(DEADLINE), pytest.raises(queue.Empty):
        manager.Queue().get(timeout=0.01)
    lock = manager.Lock()
    with fastmgr.timeout(DEADLINE), lock:
        assert not in_thread(lock.acquire, True, 0.01)


def test_pipeline_of_which_calls_were_made(manager: Any) -> None:
    """It is not to be made again, though of the call that was late it is known that it was not."""
    values, items = manager.list(), manager.Queue()
    pipe = manager.pipeline()
    pipe(values).append(1)
    pipe(items).get()
    with pytest.raises(fastmgr.CallTimeout) as raised, fastmgr.timeout(0.5):
        pipe.execute()
    assert raised.value.applied is None
    assert values[:] == [1]


@pytest.mark.parametrize("seconds", [math.inf, 1e300, 10**400], ids=["inf", "float", "int"])
def test_block_that_never_ends(manager: Any, seconds: float) -> None:
    items, lock = manager.Queue(), manager.Lock()
    with fastmgr.timeout(seconds), lock:
        with pytest.raises(queue.Empty):
            items.get(timeout=0.05)
        assert not lock.acquire(timeout=0.05)
    with fastmgr.timeout(DEADLINE), fastmgr.timeout(seconds):
        assert dial_limit(1000.0) <= DEADLINE


def test_hammered_queue(manager: Any) -> None:
    """Each item reaches one consumer, also where consumers' calls end at random moments."""
    items, consumers, each = manager.Queue(), 3, 100
    seeds = [CHANCE.random() for _ in range(consumers)]
    got: list[list[int]] = [[] for _ in range(consumers)]
    done = threading.Event()

    def work(number: int) -> None:
        if number == consumers:
            for item in range(each):
                items.put(item)
            done.set()
            return
        chance = random.Random(seeds[number])
        while not (done.is_set() and sum(map(len, got)) >= each // 2):
            with contextlib.suppress(fastmgr.CallTimeout):
                with fastmgr.timeout(chance.random() * 0.01):
                    item = items.get()
                got[number].append(item)

    together(consumers + 1, work, timeout=60)
    rest: list[int] = []

    def drain() -> bool:
        while True:
            try:
                rest.append(items.get_nowait())
            except queue.Empty:
                return len(rest) + sum(map(len, got)) >= each

    poll(drain, "all items are somewhere")
    assert sorted(itertools.chain(rest, *got)) == list(range(each))


@pytest.mark.parametrize("kind", ["Lock", "Semaphore", "RLock"])
def test_hammered_lock(manager: Any, kind: str) -> None:
    lock, counts, threads = getattr(manager, kind)(), manager.dict(n=0), 3
    seeds = [CHANCE.random() for _ in range(threads)]
    taken = [0] * threads

    def work(number: int) -> None:
        chance = random.Random(seeds[number])
        for _ in range(60):
            try:
                with fastmgr.timeout(chance.random() * 0.01):
                    lock.acquire()
            except fastmgr.CallTimeout:
                continue
            counts["n"] = counts["n"] + 1
            taken[number] += 1
            lock.release()

    together(threads, work, timeout=60)
    assert counts["n"] == sum(taken)
    poll(lambda: in_thread(lock.acquire, False), "nobody holds it")
