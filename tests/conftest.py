"""What holds for every test, and the managers that the tests of a module share."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support import KEY, SANITIZED, ProbeManager, manager_without_arena, settle

# How long an example takes says nothing on a busy machine.  A sanitizer sees in a few what it sees.
settings.register_profile("fastmgr", deadline=None, max_examples=30 if SANITIZED else 100)
settings.load_profile("fastmgr")


def pytest_configure() -> None:
    # A shell starts what is to run in the background with SIGINT ignored, and so would be every
    # process that the tests start and interrupt.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.register_at_fork(after_in_child=lambda: signal.signal(signal.SIGTERM, signal.SIG_DFL))


def pytest_runtest_setup() -> None:
    # Who is told to end ends what the tests have started, as with Ctrl-C; but not a process forked.
    # An event loop that had a handler of its own has left none.
    signal.signal(signal.SIGTERM, signal.default_int_handler)


def pytest_collection_finish() -> None:
    # Tests collect garbage all the time: what was there before them is left out of every search.
    gc.collect()
    gc.freeze()


def pytest_fixture_setup(fixturedef: pytest.FixtureDef[object]) -> None:
    # The server of a module's tests is a fork of this process: what is garbage here would be
    # held in other servers by its copy, which is looked for by nobody.
    if fixturedef.scope == "module":
        gc.collect()


class Threads:
    """Waits, before a fork, until threads that have ended, to Python, are gone altogether.

    They still give memory back, without the GIL.  AddressSanitizer's allocator knows nothing of
    forks: a child that begins while its lock is held waits for it for ever.  So from the last look
    until the fork no other thread is let run, which might end.
    """

    #: Seconds after which a thread that Python does not know is a library's, and stays.
    PATIENCE = 2
    #: Seconds for which no other thread asks for the GIL.
    ALONE = 1.0
    libraries = 0

    def __init__(self) -> None:
        self.interval = sys.getswitchinterval()

    def let_end(self) -> None:
        end = time.monotonic() + self.PATIENCE
        while True:
            tasks = len(os.listdir("/proc/self/task"))
            sys.setswitchinterval(self.ALONE)
            unknown = tasks - threading.active_count()
            if unknown <= self.libraries or time.monotonic() > end:
                break
            sys.setswitchinterval(self.interval)
            time.sleep(0.001)
        self.libraries = unknown

    def go_on(self) -> None:
        sys.setswitchinterval(self.interval)

    def forget(self) -> None:
        self.libraries = 0
        self.go_on()


if SANITIZED:
    _threads = Threads()
    os.register_at_fork(
        before=_threads.let_end,
        after_in_parent=_threads.go_on,
        after_in_child=_threads.forget,
    )


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


@pytest.fixture
def own_manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def off_manager() -> Iterator[ProbeManager]:
    with manager_without_arena() as manager:
        yield manager
