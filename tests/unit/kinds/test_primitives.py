"""The rows of the primitives, and which primitives are ours and which `threading`'s."""

from __future__ import annotations

import queue
import threading
from typing import Any

import pytest

from fastmgr.kinds import events, locks, primitives, rows
from fastmgr.kinds.waits import Primitive

rows.fill_tables()

HELD: list[Any] = [threading.Lock, threading.RLock, threading.Semaphore, threading.Condition]


def test_a_condition_over_a_lock_that_is_given_is_threadings() -> None:
    lock = threading.Lock()
    assert type(primitives.Condition()) is locks.Condition
    given = primitives.Condition(lock)
    assert type(given) is threading.Condition
    with given:
        assert lock.locked()


def test_a_barrier_with_an_action_is_threadings() -> None:
    ours = primitives.Barrier(2, timeout=0.0)
    assert type(ours) is events.Barrier
    with pytest.raises(threading.BrokenBarrierError):
        ours.wait()
    called: list[int] = []
    given = primitives.Barrier(1, lambda: called.append(1))
    assert type(given) is threading.Barrier
    assert (given.wait(), called) == (0, [1])


@pytest.mark.parametrize("make", HELD)
def test_whether_a_primitive_of_threading_is_held(make: Any) -> None:
    primitive = make()
    assert primitives.is_locked(primitive) is False
    with primitive:
        assert primitives.is_locked(primitive) is True
    assert primitives.is_locked(primitive) is False


def test_a_condition_is_held_if_its_lock_is() -> None:
    lock = threading.Lock()
    with lock:
        assert primitives.is_locked(threading.Condition(lock))


@pytest.mark.parametrize("make", [threading.Event, queue.Queue, object])
def test_what_cannot_be_held_has_no_such_state(make: Any) -> None:
    with pytest.raises(AttributeError):
        primitives.is_locked(make())


def test_the_loop_makes_and_parks_all_of_ours_and_none_of_threadings() -> None:
    ours = {kind for kind in rows.BY_TYPE if issubclass(kind, Primitive)}
    assert ours == rows.PARKING
    assert {one.make for one in map(rows.BY_TYPE.__getitem__, ours)} <= rows.MADE_ON_LOOP
    for kind in (type(threading.Lock()), threading.Semaphore, threading.Event, queue.Queue):
        assert kind in rows.ANY_THREAD
        assert kind not in rows.PARKING | rows.RUN_ON_LOOP
    # Of these a thread is the owner.
    assert not {type(threading.RLock()), threading.Condition} & rows.ANY_THREAD
