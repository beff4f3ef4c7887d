"""Fences: what a holder changes that has lost its lock without knowing is refused."""

from __future__ import annotations

from typing import Any

import pytest
from support import in_thread, poll
from support.valkeys import Server

import fastmgr

pytestmark = pytest.mark.timeout(60)


def test_the_fence_grows_with_each_grant(manager: Any) -> None:
    lock = manager.Lock()
    seen = []
    for _ in range(3):
        with lock:
            seen.append(lock.fence)
    assert seen == sorted(set(seen))
    with pytest.raises(RuntimeError, match="held"):
        _ = lock.fence
    condition = manager.Condition()
    with condition:
        before = condition.fence
        condition.wait(0.01)
        assert condition.fence > before


def test_a_holder_that_is_late_changes_nothing(server: Server, manager: Any) -> None:
    """redis-py 415: it wrote over what its successor had written."""
    lock, other, d = manager.Lock(), manager.Lock(), manager.dict(k="first")
    counter, values, q = manager.Counter(), manager.list([1]), manager.Queue()
    lock.acquire()
    late = lock.fenced()
    # The process is not seen any more, and another takes the lock; the holder does not know.
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")

    def succeed() -> None:
        poll(lambda: lock.acquire(False), "the lock is handed on")
        with lock.fenced():
            d["k"] = "second"
            counter.incr()
            values.append(2)
            q.put("item")
        lock.release()

    with late:
        assert d["k"] == "first"  # reading is no change
        poll(lambda: manager._session.life._lost, "the session has lost what it held")
        in_thread(succeed)
        for change in (
            lambda: d.__setitem__("k", "late"),
            lambda: d.pop("k"),
            counter.incr,
            lambda: values.append(3),
            lambda: q.put("late"),
        ):
            with pytest.raises(fastmgr.StaleFence, match="later holder"):
                change()
        d2 = manager.dict(a=1)  # what nobody has changed under the lock may be changed
        d2["a"] = 2
    assert (d["k"], counter.get(), list(values), q.get()) == ("second", 1, [1, 2], "item")
    d["k"] = "without a fence"
    with other, other.fenced():
        d["k"] = "by another lock"
    with pytest.raises(fastmgr.LockLost):
        lock.release()


def test_a_pipeline_in_a_fenced_block(manager: Any) -> None:
    lock, d = manager.Lock(), manager.dict()
    with lock, lock.fenced() as fence:
        with manager.pipeline() as pipe:
            pipe(d)["a"] = 1
            pipe(d).incr("n")
        assert fence == lock.fence
    assert d.copy() == {"a": 1, "n": 1}
