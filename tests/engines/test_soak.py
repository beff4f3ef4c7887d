"""Queues while processes that put and get are killed: no item is lost, and none is doubled."""

from __future__ import annotations

import collections
import contextlib
import multiprocessing
import os
import queue
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, poll, valkeys
from support.valkeys import Server, ValkeyCensus

from fastmgr.engines.valkey.life import sweep

#: Items of one `put_many`, and the most of one `get_many`.
SEVERAL = 4
KILLS = int(os.environ.get("FASTMGR_KILLS", "40"))
SEED = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))

pytestmark = pytest.mark.timeout(120 + KILLS)

FORK: Any = multiprocessing.get_context("fork")


def produce(name: str, q: Any, begun: Any, done: Any, stop: Any) -> None:
    """Put numbered items, each announced before and confirmed after; by turns one and several."""
    while not stop.is_set():
        q.put((name, begun.incr(name)))
        done.incr(name)
        last = begun.incr(name, SEVERAL)
        q.put_many([(name, number) for number in range(last - SEVERAL + 1, last + 1)])
        done.incr(name, SEVERAL)


def consume(name: str, q: Any, got: Any, asked: Any, stop: Any) -> None:
    """Note each item that has been got, between an announcement and a confirmation."""
    most = 1
    while not stop.is_set():
        most = SEVERAL + 1 - most
        asked.incr(name, most)
        for item in q.get_many(most) if most > 1 else [q.get()]:
            if item is not None:
                got.incr(item)
        asked.incr(name, -most)


@pytest.fixture(params=valkeys.SLOW_KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    """One that keeps nothing, and so is faster."""
    with valkeys.server(request.param) as server:
        yield server


def test_items_while_clients_are_killed(manager: Any, census: ValkeyCensus) -> None:
    """What is missing was in the hands of a getter when it was killed: what its last call took."""
    print(f"FASTMGR_SEED={SEED} FASTMGR_KILLS={KILLS}")
    chance = random.Random(SEED)
    q, stop = manager.Queue(3), manager.Event()
    begun, done, got, asked = (manager.dict() for _ in range(4))
    processes: dict[str, Any] = {}
    getters_killed = 0

    def start(kind: str, number: int) -> None:
        name = f"{kind} {number}"
        books = (begun, done) if kind == "producer" else (got, asked)
        function = produce if kind == "producer" else consume
        processes[name] = FORK.Process(target=function, args=(name, q, *books, stop), name=name)
        processes[name].start()

    for number in range(3):
        start("producer", number)
        start("consumer", number)
    for number in range(KILLS):
        time.sleep(chance.expovariate(30))  # any moment will do
        name = chance.choice(list(processes))
        doomed = processes.pop(name)
        os.kill(doomed.pid, signal.SIGKILL)
        doomed.join(DEADLINE)
        getters_killed += name.startswith("consumer")
        start(name.split()[0], number + 3)
    stop.set()
    producers = [name for name in processes if name.startswith("producer")]
    poll(lambda: drained(q, got, processes, producers), "the producers have ended")
    poll(lambda: sent_home(q, got, processes), "the consumers have ended")
    assert [process.exitcode for process in processes.values()] == [0] * 6
    while not q.empty():
        note(q.get(timeout=DEADLINE), got)
    sweep(manager._session)
    while not q.empty():  # what the dead had been given and had not taken
        note(q.get(timeout=DEADLINE), got)
    times = collections.Counter(got.copy())
    assert set(times.values()) == {1}, "an item was delivered twice"
    missing = 0
    for name, count in begun.items():
        there = {number for number in range(1, count + 1) if (name, number) in times}
        # Those of the last call may not have been put; all others were.
        missing += len(set(range(1, done.get(name, 0) + 1)) - there)
    assert missing <= SEVERAL * getters_killed
    in_hand = sum(asked.values())
    assert missing <= in_hand, "an item was lost that no getter had"
    print(f"{sum(times.values())} items, {missing} in the hands of {getters_killed} getters")
    assert census.waiters() == []


def note(item: Any, got: Any) -> None:
    if item is not None:
        got.incr(tuple(item))


def drained(q: Any, got: Any, processes: dict[str, Any], names: list[str]) -> bool:
    """Whether processes have ended; those that wait for room are given it."""
    if all(processes[name].exitcode is not None for name in names):
        return True
    if q.full():
        note(q.get(timeout=DEADLINE), got)
    return False


def sent_home(q: Any, got: Any, processes: dict[str, Any]) -> bool:
    """Whether all have ended; those that wait for an item are given one that says so."""
    if drained(q, got, processes, list(processes)):
        return True
    with contextlib.suppress(queue.Full):
        q.put(None, False)
    return False
