"""Processes that share objects in objects are killed at random: nothing is left or lost."""

from __future__ import annotations

import gc
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, poll, valkeys

from fastmgr import RemoteError, SyncManager

#: Of a process that has a thread, as that which shows a server that the process lives.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")

KILLS = 12


@pytest.fixture(params=valkeys.SLOW_PLACES)
def manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    with valkeys.manager(request.param, ns="kills") as manager:
        yield manager


def juggle(address: str, shared: Any, counter: Any, seed: int) -> None:
    """Put objects into objects, and take them out, until somebody kills the process."""
    manager, chosen = SyncManager(address=address), random.Random(seed)
    manager.connect()
    while True:
        place = chosen.randrange(4)
        shared[place] = manager.list([manager.dict(n=place), (manager.Value("i", place),)])
        counter.incr()
        try:
            found = shared.get(chosen.randrange(4))
            if found is not None:
                assert found[0]["n"] == found[1][0].value
                found.append(manager.set([1]))
            if chosen.random() < 0.3:
                shared.pop(chosen.randrange(4), None)
        except RemoteError:
            pass  # others have replaced the list, and it went with their reference


def kill_jugglers(manager: Any, chosen: random.Random) -> None:
    """Have processes work, and kill one after the other; look at what they leave."""
    shared, counter = manager.dict(), manager.Counter()
    context = multiprocessing.get_context("fork")

    def start() -> Any:
        arguments = manager.address, shared, counter, chosen.randrange(2**32)
        process = context.Process(target=juggle, args=arguments)
        process.start()
        return process

    processes = [start() for _ in range(3)]
    for _ in range(KILLS):
        aim = counter.get() + 5
        poll(lambda aim=aim: counter.get() >= aim, "the processes work")
        time.sleep(chosen.random() / 100)
        victim = processes.pop(chosen.randrange(len(processes)))
        os.kill(victim.pid, signal.SIGKILL)
        victim.join(DEADLINE)
        processes.append(start())
    for process in processes:
        process.kill()
        process.join(DEADLINE)
    for found in shared.values():
        assert found[0]["n"] == found[1][0].value  # what can be reached is there


def test_nothing_is_left_of_killed_processes(manager: Any) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    kill_jugglers(manager, random.Random(seed))
    gc.collect()
    poll(lambda: manager._number_of_objects() == 0, "all objects are gone")
    keys = valkeys.ValkeyCensus(manager._session).all_keys()
    assert {key for key in keys if key.startswith(b"{kills:")} == set()
