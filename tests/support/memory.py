"""The memory that processes share, as its files and descriptors show it."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys

import pytest

from support.managers import ProbeManager

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

# As in the .pxd files of memory.
LOCK, RLOCK, SEMAPHORE, EVENT, COUNTER, COUNTERS, VALUE, ARRAY = range(1, 9)
LINE, PAGE, SEGMENT_SIZE, LARGE = 64, 4096, 1 << 20, 1 << 18


def held(pid: int | str = "self") -> int:
    """How many descriptors of pieces of an arena a process has."""
    count = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            count += "memfd:fastmgr" in os.readlink(f"/proc/{pid}/fd/{name}")
    return count


def filled(pid: int) -> int:
    """The bytes of memory in the segments that a process has descriptors of."""
    total = 0
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        with contextlib.suppress(FileNotFoundError):
            if "memfd:fastmgr" in os.readlink(path):
                total += os.stat(path).st_blocks * 512
    return total


class Leaver:
    """A user's class whose method ends its connection."""

    def leave(self, name: str) -> None:
        server = multiprocessing.current_process()._manager_server  # type: ignore[attr-defined]
        for conn in list(server._engine.loop.conns.values()):
            if conn.name == name:
                conn.close()


class ArenaManager(ProbeManager):
    """With what ends connections."""


ArenaManager.register("Leaver", Leaver)
