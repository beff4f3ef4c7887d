"""Managers that the unit tests share, and the helpers of all suites within reach."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

if str(Path(__file__).parents[1]) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parents[1]))

from support import DEADLINE, SANITIZED, ProbeManager, settle


def let_threads_end() -> None:
    """Wait until threads that have ended, to Python, are gone altogether.

    They still give memory back, without the GIL.  AddressSanitizer's allocator knows nothing of
    forks: a child that begins while its lock is held waits for it for ever.
    """
    end = time.monotonic() + DEADLINE
    while len(os.listdir("/proc/self/task")) > threading.active_count() and time.monotonic() < end:
        time.sleep(0.001)


if SANITIZED:
    os.register_at_fork(before=let_threads_end)


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[ProbeManager]:
    """A manager for the tests of one module."""
    with ProbeManager() as manager:
        yield manager


@pytest.fixture
def manager(shared_manager: ProbeManager) -> ProbeManager:
    """The module's manager with nothing left in it by the tests before."""
    if shared_manager._number_of_objects():  # collecting garbage takes longer than most tests
        settle(shared_manager, 0)
    return shared_manager
