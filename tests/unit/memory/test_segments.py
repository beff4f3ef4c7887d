"""Segments: how they are passed on, and that they stay as large as they are."""

from __future__ import annotations

import gc
import mmap
import os
from pathlib import Path
from typing import Any

import pytest
from model.compiled import compiled
from support import TESTS
from support.frames import OP_ATTACH
from support.memory import PAGE, on_linux
from support.peers import PassedPeer

from fastmgr.memory.arena import Arena, Cell
from fastmgr.memory.segments import map_segment

pytestmark = pytest.mark.timeout(90)

rings: Any = compiled("rings", TESTS / "support")


def test_segments_that_do_not_exist(peer: PassedPeer) -> None:
    for number in (1000, 2**31, 2**63, 2**64 - 1):
        assert peer.attach(number) == (None, None)
    peer.send(OP_ATTACH, b"with a body", 1000)
    assert peer.recv().payload is None
    assert peer.locate(peer.create("Counter"))


@on_linux
def test_a_segment_cannot_change_its_size(peer: PassedPeer) -> None:
    _, number, *_ = peer.locate(peer.create("Counter"))
    for segment in (0, number):
        _, fd = peer.attach(segment)
        assert fd is not None
        try:
            for size in (0, os.fstat(fd).st_size * 2):
                with pytest.raises(PermissionError):
                    os.ftruncate(fd, size)
        finally:
            os.close(fd)


@on_linux
def test_only_what_stays_as_large_is_mapped(tmp_path: Path) -> None:
    fd = os.memfd_create("a test's", os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, 2 * PAGE)
    with pytest.raises(OSError, match="segment 3"):
        map_segment(3, os.dup(fd), 0, PAGE, False)  # not sealed
    assert memoryview(map_segment(3, os.dup(fd), 0, PAGE, True)).nbytes == PAGE
    for offset, size in [(0, 3 * PAGE), (2 * PAGE, PAGE), (2**64 - PAGE, 2 * PAGE)]:
        with pytest.raises(OSError, match="segment 4"):
            map_segment(4, os.dup(fd), offset, size, True)
    os.close(fd)
    with pytest.raises(OSError):
        map_segment(5, fd, 0, PAGE, False)


@pytest.mark.parametrize("start", [0, 8, PAGE])
@pytest.mark.parametrize("size", [0, 8, PAGE, PAGE + 8, 3 * PAGE])
def test_only_what_nobody_uses_is_cleared(start: int, size: int) -> None:
    """A cell ends where the system's pages need not end: these may be larger than ours."""
    with mmap.mmap(-1, 8 * PAGE) as memory:
        memory[:] = b"\xff" * len(memory)
        rings.clear(memory, start, size)
        assert memory[:] == (b"\xff" * start + bytes(size)).ljust(len(memory), b"\xff")


def test_segments_count_up_and_go() -> None:
    arena = Arena()
    first, second = arena.new(PAGE), arena.new(2 * PAGE)
    assert second.number == first.number + 1
    assert (memoryview(second).nbytes, second.offset, second.is_file) == (2 * PAGE, 0, False)
    assert set(arena.segments) == {first.number, second.number}
    view = memoryview(second)
    del second
    gc.collect()
    view[0] = 1  # it goes when nobody looks at it
    view.release()
    assert set(arena.segments) == {first.number}


def test_what_memory_cannot_hold_is_refused() -> None:
    with pytest.raises(MemoryError):
        Cell(2**62)
    with pytest.raises(OSError):
        Arena().new(2**63)
