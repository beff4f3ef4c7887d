"""Conditions over a lock that is shared."""

from __future__ import annotations

import gc
import os
import signal
import threading
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.places import Client
from support.valkeys import Server, ValkeyCensus
from support.waiters import Start, sleep_at

import fastmgr

pytestmark = pytest.mark.timeout(60)


@pytest.mark.parametrize("kind", ["Lock", "RLock"])
def test_two_conditions_over_one_lock(manager: Any, census: ValkeyCensus, kind: str) -> None:
    lock = getattr(manager, kind)()
    full, empty = manager.Condition(lock), manager.Condition(lock)
    sleepers = [Client(sleep_at, condition) for condition in (full, empty)]
    poll(lambda: census.parked() == 2, "both sleep")
    assert lock.acquire(False) is True  # which they have given up
    full.notify()
    assert in_thread(empty.acquire, False) is False
    lock.release()
    assert sleepers[0].result() is True
    assert sleepers[1].outcome is None
    with empty:
        assert lock.locked()
        empty.notify_all()
    assert sleepers[1].result() is True
    with pytest.raises(RuntimeError, match="un-acquired"):
        full.notify()


def test_the_notification_of_a_dead_sleeper_goes_to_the_next(
    manager: Any, census: ValkeyCensus, start: Start
) -> None:
    condition = manager.Condition(manager.Lock())  # which the condition keeps
    doomed = start("doomed", sleep_at, condition, parks=True)
    last = start("last", sleep_at, condition, parks=True)
    with condition:
        condition.notify()
        doomed.kill()
    assert last.said() is True
    assert condition.acquire(True, DEADLINE)
    condition.release()


def test_a_notification_that_went_to_a_dead_connection_goes_to_the_next(
    server: Server, manager: Any, start: Start
) -> None:
    """The server hands the lock on before it sees that the sleeper's process has ended."""
    condition = manager.Condition(manager.Lock())
    doomed = start("doomed", sleep_at, condition, parks=True)
    last = start("last", sleep_at, condition, parks=True)
    condition.acquire()
    condition.notify()
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    doomed.kill()
    go_on = threading.Timer(0.3, os.kill, (server.process.pid, signal.SIGCONT))
    go_on.start()  # when the release below is waiting in the server's socket, most likely
    condition.release()
    go_on.join()
    assert last.said() is True


def test_the_lock_goes_with_the_condition(manager: Any) -> None:
    before = manager._number_of_objects()
    condition = manager.Condition(manager.Lock())
    gc.collect()
    assert manager._number_of_objects() == before + 2
    assert "Condition" in manager._debug_info()
    del condition
    gc.collect()
    assert manager._number_of_objects() == before


def test_over_what_a_condition_cannot_be(manager: Any) -> None:
    with pytest.raises(fastmgr.NotHosted, match="over a Semaphore"):
        manager.Condition(manager.Semaphore())
    with pytest.raises(fastmgr.RemoteError, match="has no attribute 'acquire'"):
        manager.Condition("lock")
