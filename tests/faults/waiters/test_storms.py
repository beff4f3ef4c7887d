"""Many clients that wait, and are killed in the middle of it."""

from __future__ import annotations

import random
import resource
import sys
import threading
import time
from typing import Any

import pytest
from support import DEADLINE, KEY, Address, Script, in_thread, poll, say
from support.waiters import Start, WaiterManager, Worker, manager_at, waiting

pytestmark = pytest.mark.timeout(60)


def lock_and_count(lock: Any, rlock: Any, semaphore: Any, q: Any, counters: Any, seed: int) -> None:
    """Never ends by itself.  Both counters are one, but for a moment, under the lock."""
    chance = random.Random(seed)
    while True:
        what = chance.randrange(4)
        if what == 0:
            with lock:
                counters["begun"] += 1
                counters["ended"] = counters["begun"]
        elif what == 1:
            with rlock, rlock, rlock:
                pass
        elif what == 2:
            with semaphore:
                pass
        else:
            q.put(seed)
            q.get()


def test_a_storm_of_kills(manager: WaiterManager, census: Any, start: Start) -> None:
    chance = random.Random(11)
    lock, rlock, semaphore = manager.Lock(), manager.RLock(), manager.BoundedSemaphore(2)
    q, counters = manager.Queue(2), manager.dict(begun=0, ended=0)
    shared = (lock, rlock, semaphore, q, counters)

    def one(seed: int) -> Worker:
        return start(f"worker {seed}", lock_and_count, *shared, seed, parks=False)

    workers = [one(seed) for seed in range(4)]
    for round_number in range(30):
        # A number of calls, so that it is at no particular point of its own.
        goal = counters["begun"] + chance.randrange(1, 5)
        poll(lambda goal=goal: revive(q) and counters["begun"] >= goal, "they go on")
        workers.pop(chance.randrange(4)).kill()
        with lock:
            # Whoever was killed in between has begun one that is not ended.
            assert counters["begun"] - counters["ended"] in (0, 1)
            counters["ended"] = counters["begun"]
        workers.append(one(4 + round_number))
    for worker in workers:
        worker.kill()
    poll(lambda: not waiting(census), "nobody waits any more")
    for obj, times in ((lock, 1), (rlock, 1), (semaphore, 2)):
        for _ in range(times):
            assert obj.acquire(True, DEADLINE) is True
        assert in_thread(obj.acquire, False) is False
    while not q.empty():
        q.get()
    for i in range(4):
        q.put(i) if i < 2 else None
    assert q.full() and [q.get(), q.get()] == [0, 1]


def revive(q: Any) -> bool:
    """Those killed between put and get leave items; were it full of these, all would wait."""
    if q.full():
        q.get()
    elif q.empty():
        q.put("spare")
    return True


def wait_in_crowd(address: Address, kind: str, first: int, count: int) -> None:
    """Be `count` clients that wait; the order in which they were served is on the board."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
    threading.stack_size(256 * 1024)
    say("ready")
    sys.stdin.readline()
    manager = manager_at(address)
    board = manager.the_board()
    obj, census = board["obj"], manager.Census()
    served: list[Any] = [None] * count

    def client(number: int) -> None:
        if kind == "Queue":
            served[number] = obj.get()
        else:
            obj.acquire()
            board["order"].append(first + number)
            obj.release()

    threads = []
    for number in range(count):
        threads.append(threading.Thread(target=client, args=(number,), name=f"{first + number}"))
        threads[-1].start()
        # One after the other, or there is no order that they could be woken in.
        end = time.monotonic() + DEADLINE
        while census.crowd() != first + number + 1:
            assert time.monotonic() < end
    say("parked")
    for thread in threads:
        thread.join()
    say(served)


def raise_limit() -> None:
    """As many descriptors as the system lets us have: in the server."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


@pytest.mark.parametrize("kind", ["Lock", "Queue"])
def test_a_thousand_clients_wait_and_cost_no_thread(kind: str) -> None:
    manager = WaiterManager(authkey=KEY)
    manager.start(initializer=raise_limit)
    crowd, share = 1000, 250
    with manager:
        obj, order, probe, board = (
            getattr(manager, kind)(),
            manager.list(),
            manager.Probe(),
            manager.the_board(),
        )
        board["obj"], board["order"] = obj, order
        if kind == "Lock":
            obj.acquire()
        threads = probe.threads()
        scripts = []
        try:
            for first in range(0, crowd, share):
                scripts.append(Script(wait_in_crowd, manager.address, kind, first, share))
            for script in scripts:
                assert script.line() == "ready"
            for script in scripts:
                script.tell("wait")
                assert script.line(60) == "parked"
            # Each script has one thread, which looks after its clients.
            assert probe.threads() <= threads + len(scripts)
            if kind == "Lock":
                obj.release()
            for i in range(crowd if kind == "Queue" else 0):
                obj.put(i)
            served = [item for script in scripts for item in script.line(60)]
            assert (order[:] if kind == "Lock" else served) == list(range(crowd))
        finally:
            for script in scripts:
                script.__exit__()
