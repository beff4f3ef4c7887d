"""Where the items of a queue are: in a ring, before it and behind it; they keep their order."""

from __future__ import annotations

from typing import Any

import pytest
from support import ProbeManager, locally
from support.places import with_ring

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def manager(own_manager: ProbeManager) -> ProbeManager:
    return own_manager


def test_what_no_ring_takes_keeps_its_place(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    items: list[Any] = [1, "x" * 300_000, 2, manager.list([3]), 4, KeyError(5), b"y" * 100_000, 6]
    for item in items:
        q.put(item)
    assert q.qsize() == len(items)
    got = [q.get() for _ in items]
    assert got[3][:] == [3] and repr(got[5]) == "KeyError(5)"
    del got[3], got[4], items[3], items[4]
    assert got == items and q.empty()
    assert locally(manager, lambda: (q.put(7), q.get())) == (None, 7)


def test_more_than_a_ring_has_room_for(manager: ProbeManager) -> None:
    q = with_ring(manager.Queue())
    items = [(i, "z" * 1000) for i in range(5000)]
    for item in items:
        q.put(item)
    assert q.qsize() == 5000
    assert [q.get() for _ in range(2500)] == items[:2500]
    q.put("last")
    assert [q.get() for _ in range(2501)] == [*items[2500:], "last"]
    assert q.qsize() == 0


def test_a_queue_with_items_gets_a_ring(manager: ProbeManager) -> None:
    q = manager.JoinableQueue()
    for i in range(10):
        q.put(i)
    with_ring(q)
    assert locally(manager, lambda: [q.get() for _ in range(10)]) == list(range(10))
    for _ in range(10):
        q.task_done()
    q.join()
