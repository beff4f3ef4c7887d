"""What a server tells of itself: exact counts, and who holds and waits."""

from __future__ import annotations

import os
import threading
from multiprocessing import managers as stock
from typing import Any

import pytest
from support import KEY, ProbeManager, poll

import fastmgr
from fastmgr.monitor import Monitor, NoReport, ObjectReport, Report


@pytest.fixture
def manager() -> Any:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def monitor(manager: Any) -> Any:
    with Monitor(manager.address, authkey=KEY) as monitor:
        yield monitor


def about(report: Report, proxy: Any) -> ObjectReport:
    (found,) = (one for one in report.objects if one.id == proxy._token.id)
    return found


def test_calls_and_errors_are_counted_exactly(manager: Any, monitor: Monitor) -> None:
    shared = manager.dict()
    for i in range(20):
        shared[i] = i
    with pytest.raises(KeyError):
        shared["none"]
    report = monitor.report()
    found = about(report, shared)
    assert (found.typeid, found.calls, found.errors, found.size) == ("dict", 21, 1, 20)
    assert found.bytes_in > 21 * 24 < found.bytes_out
    assert (report.server.calls, report.server.errors) == (21, 1)
    own = [one for one in report.clients if one.calls]
    assert [(one.pid, one.calls, one.errors, one.threads) for one in own] == [
        (os.getpid(), 21, 1, ("MainThread",))
    ]


def test_who_waits_for_what(manager: Any, monitor: Monitor) -> None:
    queue = manager.Queue()
    thread = threading.Thread(target=queue.get, name="getter")
    thread.start()
    poll(lambda: about(monitor.report(), queue).waiters == 1, "a thread waits")
    (lock,) = monitor.report().locks
    assert (lock.typeid, lock.holders) == ("Queue", ())
    (waiter,) = lock.waiters
    assert (waiter.pid, waiter.thread) == (os.getpid(), "getter")
    queue.put(1)
    thread.join()
    found = about(monitor.report(), queue)
    assert found.waiters == 0
    assert found.waited > 0


def test_the_stdlibs_server_reports_nothing() -> None:
    with (
        stock.SyncManager(authkey=KEY) as manager,
        Monitor(manager.address, authkey=KEY) as monitor,
        pytest.raises(NoReport, match="older"),
    ):
        monitor.report()


def test_an_engines_address_is_refused() -> None:
    with pytest.raises(ValueError, match="own tools"):
        fastmgr.Monitor("valkey://localhost")
