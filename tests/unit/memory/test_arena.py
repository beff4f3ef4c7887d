"""The server's arena: what it costs, what it gives back, and who else meets it."""

from __future__ import annotations

import gc
import os
import resource
import threading
from typing import Any

import pytest
from support import KEY, ProbeManager, call_in_subprocess, in_thread, mapped, rss_bytes, settle
from support.memory import LARGE, PAGE, SEGMENT_SIZE, filled, held, on_linux

from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counters
from fastmgr.memory.arena import Arena, settle as settle_in

pytestmark = pytest.mark.timeout(90)


@on_linux
@pytest.mark.parametrize("size", [LARGE, LARGE + 1, SEGMENT_SIZE, 3 * SEGMENT_SIZE + 1])
def test_memory_of_large_arrays_goes_with_them(own_manager: ProbeManager, size: int) -> None:
    server = own_manager._process.pid
    own_manager.Counter().incr()
    kept = own_manager.Array("B", b"k" * size)
    assert kept[0] == ord("k")
    gc.collect()
    before = (len(mapped()), len(mapped(server)), held(server), held(), filled(server))
    arrays = [own_manager.Array("B", bytes(size)) for _ in range(9)]
    for number, array in enumerate(arrays):
        memoryview(array)[:] = bytes([number]) * size
    assert [(array[0], array[-1]) for array in arrays] == [(i, i) for i in range(9)]
    assert filled(server) >= before[4] + 9 * size
    # All of them lie in the segment that is there.
    assert (len(mapped()), len(mapped(server)), held(server), held()) == before[:4]
    del array, arrays[::2]
    settle(own_manager, 5)
    assert filled(server) <= before[4] + 4 * (size + PAGE)
    again = [own_manager.Counters(size // 8) for _ in range(5)]
    assert [set(counters.snapshot()) for counters in again] == [{0}] * 5
    assert [(array[0], array[-1]) for array in arrays] == [(i, i) for i in (1, 3, 5, 7)]
    arrays.clear()
    again.clear()
    settle(own_manager, 1)
    assert kept[0] == kept[-1] == ord("k")
    after = (len(mapped()), len(mapped(server)), held(server), held(), filled(server))
    assert after == before


def limit_descriptors(limit: int) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))


def use_large_objects_with_few_descriptors() -> Any:
    """In a fresh interpreter, for a server that is forked has whatever its parent has open."""
    manager = ProbeManager(authkey=KEY)
    manager.start(limit_descriptors, (32,))
    with manager:
        # No two of them fit a segment of the usual size.
        counters = [manager.Counters(9_000_000) for _ in range(100)]
        first = [row.incr(-1, number) for number, row in enumerate(counters)]
        descriptors = held(manager._process.pid)
        return first, descriptors, [in_thread(row.incr, -1) for row in counters]


@on_linux
def test_large_objects_leave_descriptors_for_those_who_connect() -> None:
    first, descriptors, then = call_in_subprocess(use_large_objects_with_few_descriptors)
    assert first == [*range(100)]
    assert descriptors < 24
    assert then == [*range(1, 101)]


@on_linux
def test_zeros_are_not_copied(own_manager: ProbeManager) -> None:
    server = own_manager._process.pid
    own_manager.Counter().incr()
    before = rss_bytes(server)
    counters = own_manager.Counters(10**8)
    assert counters.incr(-1) == 1
    assert rss_bytes(server) < before + 100 * SEGMENT_SIZE


def write_while_arrays_move() -> list[int]:
    """For a fresh interpreter: how many writes are not in the cells, array by array."""
    arena = Arena()
    arena.open()
    lost = []
    for _ in range(10):
        array = Array("q", bytes(8 * SEGMENT_SIZE))
        begun, moved, written = threading.Event(), threading.Event(), [0]

        def write(array: Any = array, moved: Any = moved, begun: Any = begun, n: Any = written):
            while not moved.is_set() and n[0] < len(array):
                array[n[0]] = 1
                n[0] += 1
                begun.set()

        thread = threading.Thread(target=write)
        thread.start()
        other = threading.Thread(target=settle_in, args=(array, arena))
        begun.wait()
        other.start()
        assert settle_in(array, arena)
        moved.set()
        thread.join()
        other.join()
        lost.append(written[0] - array.count(1))
    arena.close()
    return lost


def test_writes_while_an_array_moves() -> None:
    """It is copied while others go on; what they write meanwhile is not lost."""
    assert call_in_subprocess(write_while_arrays_move) == [0] * 10


def drop_in_a_forked_child() -> list[int]:
    """For a fresh interpreter: what is left in cells that a forked child has dropped."""
    arena = Arena()
    arena.open()
    rows = [Counters(size, [5] + [0] * (size - 1)) for size in (1, LARGE // 8)]
    assert all(settle_in(row, arena) for row in rows)
    child = os.fork()
    if child == 0:
        rows.clear()
        made = Counters(LARGE // 8)
        made[0] = 6
        os._exit(0)
    os.waitpid(child, 0)
    left = [row[0] for row in rows]
    arena.close()
    return left


def collect_while_room_is_found() -> list[int]:
    """For a fresh interpreter: what two new cells that are written to have of each other."""
    arena, size = Arena(), LARGE // 8
    arena.open()
    gc.disable()
    found = []
    for soon in range(95, 125):
        # Room for two lies behind room for one, and garbage has room for one before that.
        rows: list[Any] = [Counters(size) for _ in range(7)]
        gc.collect()
        garbage: list[Any] = [rows[0]]
        garbage.append(garbage)
        rows[0] = rows[2] = rows[4] = rows[5] = None
        del garbage
        spare = [[soon] for _ in range(100)]  # the interpreter keeps no list for the next
        gc.set_threshold(soon)
        gc.enable()
        one = Counters(2 * size)
        gc.disable()
        other = Counters(2 * size)
        one[0], one[size] = 1, 1
        found += [other[0], other[size]]
        del one, other, spare
        rows.clear()
    arena.close()
    return found


def test_garbage_that_is_collected_while_room_is_found() -> None:
    """The cells in it are given back in between: what is found then is nobody else's."""
    assert call_in_subprocess(collect_while_room_is_found) == [0] * 60


def test_forked_copy_of_a_server_leaves_its_cells_alone() -> None:
    assert call_in_subprocess(drop_in_a_forked_child) == [5, 5]


@on_linux
def test_a_thousand_objects_leave_nothing(own_manager: ProbeManager) -> None:
    server = own_manager._process.pid

    def use(size: int) -> None:
        counter, lock, value = own_manager.Counter(), own_manager.Lock(), own_manager.Value("i", 0)
        array = own_manager.Array("d", range(size))
        counter.incr()
        lock.acquire()
        value.incr()
        array[-1] += 1
        assert memoryview(array)[size - 1] == size

    use(3000)
    settle(own_manager, 0)
    before = (len(mapped()), len(mapped(server)), held(server), held())
    for round_ in range(250):
        use(1 + round_ * 13)
    settle(own_manager, 0)
    after = (len(mapped()), len(mapped(server)), held(server), held())
    # Cells of each size that a power of two makes fit in a few segments.
    assert after[0] <= before[0] + 2 and after[1] <= before[1] + 2 and after[2] <= before[2] + 2
    assert after[3] == before[3]
    for round_ in range(250):
        use(1 + round_ * 13)
    settle(own_manager, 0)
    assert (len(mapped()), len(mapped(server)), held(server), held()) == after


def test_an_arena_that_cannot_grow_goes_on_later() -> None:
    arena, counters = Arena(), Counters(3, [1, 2, 3])
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    try:
        for _ in range(2):
            assert not settle_in(counters, arena)
            assert counters.incr(0) > 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert settle_in(counters, arena)
    assert counters.snapshot() == [3, 2, 3]
