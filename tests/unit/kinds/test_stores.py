"""Where the items of a queue are: in a ring, before it and behind it; they keep their order."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest
from fastmgr.kinds.queues import Queue
from support import ProbeManager, call_in_subprocess, locally
from support.places import with_ring

from fastmgr.memory.arena import Arena, settle

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


def settle_without_memory() -> list[Any]:
    arena, q = Arena(), Queue()
    arena.open()
    q.put_nowait(1)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (100 << 20), used + (100 << 20)))
    try:
        return [settle(q, arena), q.get_nowait()]
    finally:
        arena.close()


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="looks into /proc")
def test_a_queue_for_whose_ring_there_is_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays where it is; asking for its ring ended the connection of who asked."""
    monkeypatch.setenv("FASTMGR_RING_SIZE", str(1 << 30))
    assert call_in_subprocess(settle_without_memory) == [False, 1]
