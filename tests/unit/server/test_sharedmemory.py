"""Segments of shared memory, which go with their manager."""

from __future__ import annotations

from multiprocessing import shared_memory

import pytest

from fastmgr.managers import SharedMemoryManager, dispatch


def segment_exists(name: str) -> bool:
    try:
        segment = shared_memory.SharedMemory(name)
    except FileNotFoundError:
        return False
    segment.close()
    return True


def test_shared_memory_goes_with_its_manager() -> None:
    with SharedMemoryManager() as manager:
        segment = manager.SharedMemory(100)
        segment.buf[:5] = b"hello"
        other = manager.ShareableList([1, "two", None])
        assert list(other) == [1, "two", None]
        names = [segment.name, other.shm.name]
        with manager._Client(manager.address, authkey=manager._authkey) as conn:
            listed = dispatch(conn, None, "list_segments")
        assert [name.lstrip("/") for name in listed] == [name.lstrip("/") for name in names]
        assert all(map(segment_exists, names))
        segment.close()
        other.shm.close()
    assert not any(map(segment_exists, names))


def test_release_of_a_segment() -> None:
    with SharedMemoryManager() as manager:
        segment = manager.SharedMemory(10)
        name = segment.name
        segment.close()
        with manager._Client(manager.address, authkey=manager._authkey) as conn:
            dispatch(conn, None, "release_segment", (name,))
        assert not segment_exists(name)
        with manager._Client(manager.address, authkey=manager._authkey) as conn:
            assert dispatch(conn, None, "list_segments") == []


def test_shared_memory_errors() -> None:
    with pytest.raises(ValueError, match="None"):
        SharedMemoryManager().SharedMemory(9)
    with SharedMemoryManager() as manager, pytest.raises(ValueError, match="positive"):
        manager.SharedMemory(-1)
