"""Shared memory that a client makes and its manager's server unlinks."""

from __future__ import annotations

from collections.abc import Iterable
from multiprocessing import shared_memory
from typing import Any

__all__ = ["new_segment", "new_sequence"]


def new_segment(size: int) -> tuple[Any, shared_memory.SharedMemory]:
    """Return a new segment, and itself as what is to be tracked."""
    segment = shared_memory.SharedMemory(None, create=True, size=size)
    return segment, segment


def new_sequence(sequence: Iterable[Any]) -> tuple[Any, shared_memory.SharedMemory]:
    """Return a new shareable list, and the segment that is to be tracked."""
    made: shared_memory.ShareableList[Any] = shared_memory.ShareableList(sequence)
    return made, made.shm
