"""Conditions over a lock that is shared."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.places import Client
from support.valkeys import ValkeyCensus
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
    with pytest.raises(fastmgr.RemoteError, match="no proxy"):
        manager.Condition("lock")
