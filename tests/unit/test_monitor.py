"""What a server tells of itself: exact counts, and who holds and waits."""

from __future__ import annotations

import os
import signal
import sys
import threading
from multiprocessing import AuthenticationError, managers as stock
from typing import Any

import pytest
from support import KEY, ProbeManager, Script, connected, manager_without_arena, poll
from support.processes import say

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
    assert report.server.backlog == (0 if sys.platform == "linux" else None)
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


def add_items(address: Any, number: int) -> str:
    """Make an object and `number` calls of it, of which the last raises; stay until told."""
    shared = connected(address).dict()
    for i in range(number - 1):
        shared[i] = i
    with pytest.raises(KeyError):
        shared["none"]
    say(shared._token.id)
    return sys.stdin.readline()


def test_totals_outlive_a_client_that_is_killed(manager: Any, monitor: Monitor) -> None:
    numbers = (30, 50, 70)
    scripts = [Script(add_items, manager.address, number) for number in numbers]
    try:
        idents = [script.line() for script in scripts]
        report = monitor.report()
        calls = {one.pid: (one.calls, one.errors) for one in report.clients if one.calls}
        assert calls == {script.pid: (n, 1) for script, n in zip(scripts, numbers, strict=True)}
        assert {one.id: one.calls for one in report.objects} == dict(
            zip(idents, numbers, strict=True)
        )
        assert all(one.references == 1 for one in report.clients if one.calls)
        assert (report.server.calls, report.server.errors) == (150, 3)
        scripts[0].process.kill()
        poll(lambda: len(monitor.report().objects) == 2, "the server sees the end")
        after = monitor.report()
        assert scripts[0].pid not in {one.pid for one in after.clients}
        for total in ("calls", "errors", "bytes_in", "bytes_out"):
            assert getattr(after.server, total) == getattr(report.server, total)
    finally:
        for script in scripts:
            script.__exit__()


def hold_and_wait(address: Any) -> str:
    """Hold a lock and a permit, and wait for three more things, until the process is killed."""
    client = connected(address)
    lock, permits = client.Lock(), client.Semaphore(2)
    lock.acquire()
    permits.acquire()
    for wait in (client.Queue().get, client.Event().wait, client.Barrier(2).wait):
        threading.Thread(target=wait).start()
    say("begins")
    return sys.stdin.readline()


def test_nothing_is_left_of_clients_that_stood_still_and_were_killed(
    manager: Any, monitor: Monitor
) -> None:
    scripts = [Script(hold_and_wait, manager.address) for _ in range(3)]

    def held_and_waited_for() -> tuple[int, int]:
        locks = monitor.report().locks
        return sum(len(one.holders) for one in locks), sum(len(one.waiters) for one in locks)

    try:
        assert [script.line() for script in scripts] == ["begins"] * 3
        poll(lambda: held_and_waited_for() == (6, 9), "each holds two things and waits for three")
        for number in (signal.SIGSTOP, signal.SIGKILL):
            assert held_and_waited_for() == (6, 9)
            for script in scripts:
                script.process.send_signal(number)
        poll(lambda: monitor.report().objects == (), "the server sees their ends")
        assert held_and_waited_for() == (0, 0)
        assert [one.pid for one in monitor.report().clients] == [os.getpid()]
    finally:
        for script in scripts:
            script.__exit__()


def test_a_stock_client_is_counted(manager: Any, monitor: Monitor) -> None:
    client = stock.SyncManager(manager.address, KEY)
    client.connect()
    shared = client.dict()  # type: ignore[attr-defined]
    shared.update(a=1)
    with pytest.raises(KeyError):
        shared["none"]
    report = monitor.report()
    found = about(report, shared)
    assert (found.calls, found.errors) == (2, 1)
    assert found.bytes_in > 0 < found.bytes_out
    assert (report.server.calls, report.server.errors) == (2, 1)
    (one,) = (one for one in report.clients if one.references is None)
    assert (one.calls, one.errors, one.pid) == (2, 1, os.getpid())
    # The process is two clients.
    assert len({each.number for each in report.clients}) == len(report.clients) == 2
    del shared


def test_a_report_has_no_values_and_no_keys(manager: Any, monitor: Monitor) -> None:
    shared, queue = manager.dict({"secret key": "secret value"}), manager.Queue()
    value, row = manager.Value("O", "secret"), manager.Counters(["secret counter"])
    queue.put(["secret item"])
    with pytest.raises(KeyError):
        shared["secret error"]
    text = repr(monitor.report())
    assert all(repr(kind) in text for kind in ("dict", "Queue", "Value", "Counters"))
    assert "secret" not in text and KEY.decode() not in text
    assert value.value == "secret" and row["secret counter"] == 0


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"])
@pytest.mark.parametrize("arena", [True, False])
def test_who_holds_what(kind: str, arena: bool) -> None:
    with (
        ProbeManager(authkey=KEY) if arena else manager_without_arena() as manager,
        Monitor(manager.address, authkey=KEY) as monitor,
    ):
        held = getattr(manager, kind)()
        held.acquire()
        done = threading.Event()
        # A thread that has ended has no name any more.
        thread = threading.Thread(target=lambda: (held.acquire(), done.wait()), name="second")
        thread.start()
        poll(lambda: about(monitor.report(), held).waiters == 1, "a thread waits")
        (lock,) = monitor.report().locks
        (holder,), (waiter,) = lock.holders, lock.waiters
        assert (holder.pid, holder.thread) == (os.getpid(), "MainThread")
        assert (waiter.pid, waiter.thread) == (os.getpid(), "second")
        assert waiter.since is not None
        if arena and kind != "Condition":
            assert holder.since is None  # taken in shared memory
        elif "Semaphore" not in kind:
            assert holder.since is not None
            assert holder.since >= waiter.since
        held.release()
        poll(lambda: about(monitor.report(), held).waiters == 0, "it waits no more")
        (lock,) = monitor.report().locks
        done.set()
        thread.join()
        assert [(one.pid, one.thread) for one in lock.holders] == [(os.getpid(), "second")]
        assert lock.waiters == ()


def test_a_deadlock_can_be_seen(manager: Any, monitor: Monitor) -> None:
    locks = [manager.Lock() for _ in range(3)]
    ready = threading.Barrier(3)

    def take(i: int) -> None:
        with locks[i]:
            ready.wait()
            locks[(i + 1) % 3].acquire(timeout=30)

    threads = [threading.Thread(target=take, args=(i,), name=f"thread {i}") for i in range(3)]
    for thread in threads:
        thread.start()
    poll(lambda: sum(len(one.waiters) for one in monitor.report().locks) == 3, "all wait")
    edges = {
        (waiter.thread, holder.thread)
        for lock in monitor.report().locks
        for waiter in lock.waiters
        for holder in lock.holders
    }
    assert edges == {(f"thread {i}", f"thread {(i + 1) % 3}") for i in range(3)}
    for lock in locks:  # as anybody may
        lock.release()
    for thread in threads:
        thread.join()


def test_time_is_that_of_calls_and_not_of_waits(manager: Any, monitor: Monitor) -> None:
    sleeper, event = manager.Sleeper(), manager.Event()
    sleeper.slow(0.2, 1)
    event.wait(0.2)
    report = monitor.report()
    assert 0.2 <= about(report, sleeper).seconds < 10
    found = about(report, event)
    assert found.seconds < 0.2 <= found.waited


def test_refused_peers_are_counted(manager: Any, monitor: Monitor) -> None:
    before = monitor.report().server
    with pytest.raises(AuthenticationError), Monitor(manager.address, authkey=b"wrong") as other:
        other.report()
    after = monitor.report().server
    assert after.accepted > before.accepted
    assert after.refused == before.refused + 1
    assert after.connections == before.connections


def test_a_server_that_is_busy_answers(manager: Any, monitor: Monitor) -> None:
    sleeper = manager.Sleeper()
    thread = threading.Thread(target=sleeper.slow, args=(1.0, 1))
    thread.start()
    report = monitor.report()
    assert report.server.workers >= 1
    assert report.server.descriptors > 3
    assert report.server.loop_lag >= 0
    thread.join()


@pytest.mark.parametrize("wrong", [{"most": -1}, {"most": "all"}, {"by": "beauty"}])
def test_what_is_asked_for_makes_sense(wrong: Any) -> None:
    with pytest.raises(ValueError, match="is needed"):
        Monitor("/nowhere", authkey=KEY).report(**wrong)


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
