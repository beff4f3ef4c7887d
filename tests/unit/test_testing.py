"""The fixtures that pytest has of us, and what they say that a test has left behind."""

from __future__ import annotations

import os
import threading

import pytest
from support import DEADLINE, ProbeManager

from fastmgr.testing import left_behind

pytest_plugins = ["pytester"]

USES = """
import multiprocessing, threading, time
from multiprocessing import managers as stock
import fastmgr, pytest

class Mine(fastmgr.SyncManager):
    pass

def hold(manager):
    shared = manager.dict()
    time.sleep(1000)

def test_passes(fastmgr_manager):
    global ended
    ended = fastmgr_manager
    with fastmgr_manager.Lock():
        assert fastmgr_manager.dict(a=1)["a"] == 1

def test_manager_is_shut_down():
    assert "shut down" in repr(ended)

def test_lock(fastmgr_manager):
    kept.append(fastmgr_manager.Lock())
    kept[0].acquire()

def test_failing_test_says_no_more(fastmgr_manager):
    kept.append(fastmgr_manager.Lock())
    kept[-1].acquire()
    assert not "this"

def test_process(fastmgr_manager_factory):
    manager = fastmgr_manager_factory(Mine, authkey=b"k")
    assert type(manager) is Mine
    child = multiprocessing.get_context("fork").Process(target=hold, args=(manager,), daemon=True)
    child.start()
    while manager._number_of_objects() == 0:
        pass
    kept.append(child)

def test_unchecked(fastmgr_manager_factory):
    kept.append(fastmgr_manager_factory(check=False).Lock())
    kept[-1].acquire()

def test_ended_by_the_test_itself(fastmgr_manager_factory):
    fastmgr_manager_factory().shutdown()

def test_installed(fastmgr_installed):
    assert fastmgr.installed() and multiprocessing.managers is fastmgr_installed
    with multiprocessing.Manager() as manager:
        assert type(manager) is fastmgr.SyncManager

def test_installed_no_longer():
    assert not fastmgr.installed() and multiprocessing.managers is stock

kept = []
"""

UNUSED = """
import sys

def test_nothing_is_loaded():
    assert "_fastmgr_pytest" in sys.modules
    assert not [name for name in sys.modules if name.split(".")[0] == "fastmgr"]
"""


def test_fixtures(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(USES)
    done = pytester.runpytest_subprocess("-W", "error", timeout=4 * DEADLINE)
    done.assert_outcomes(passed=8, failed=1, errors=2)
    done.stdout.fnmatch_lines_random(
        [
            "*test_lock has left behind: a Lock is still held by process *",
            "*test_process has left behind: process * (ForkProcess-*) is still connected",
        ]
    )


def test_pytest_loads_nothing_of_ours_where_no_test_asks(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(UNUSED)
    pytester.runpytest_subprocess("-W", "error", timeout=4 * DEADLINE).assert_outcomes(passed=1)


def test_plugin_can_be_left_out(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(fastmgr_manager): pass")
    done = pytester.runpytest_subprocess("-p", "no:fastmgr", timeout=4 * DEADLINE)
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines(["*fixture 'fastmgr_manager' not found*"])


def test_fixtures_are_listed_with_what_they_are(pytester: pytest.Pytester) -> None:
    listed = pytester.runpytest_subprocess("--fixtures", timeout=4 * DEADLINE).stdout
    listed.fnmatch_lines(["fastmgr_manager --*", "    A started fastmgr.SyncManager*"])


@pytest.mark.parametrize("typeid", ["Lock", "RLock", "Condition"])
def test_held_locks_are_left_behind(own_manager: ProbeManager, typeid: str) -> None:
    locks = [getattr(own_manager, typeid)() for _ in range(2)]
    held = f"a {typeid} is still held by process {os.getpid()}"
    with locks[0]:
        assert left_behind(own_manager, 0) == [held]
        with locks[1]:
            assert left_behind(own_manager, 0) == [held, held]
    assert left_behind(own_manager) == []


def test_permits_of_a_semaphore_may_be_left(own_manager: ProbeManager) -> None:
    permits = own_manager.Semaphore(1)
    assert permits.acquire()
    assert left_behind(own_manager, 0) == []


def test_a_lock_that_is_released_in_time_is_not_left_behind(own_manager: ProbeManager) -> None:
    lock = own_manager.Lock()
    lock.acquire()
    timer = threading.Timer(0.1, lock.release)
    timer.start()
    assert left_behind(own_manager, DEADLINE) == []
    timer.join()
