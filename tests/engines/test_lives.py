"""Whether a session lives: lost connections, servers that restart, processes that stand still."""

from __future__ import annotations

import os
import signal
import threading
import time
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.places import Client
from support.valkeys import Cutter, Server, ValkeyCensus
from support.waiters import Start, call, sleep_at, take_and_give

import fastmgr
from fastmgr.engines.valkey import dialing, life
from fastmgr.engines.valkey.errors import LockLost
from fastmgr.engines.valkey.waiting import Wait

pytestmark = pytest.mark.timeout(90)


def cut_lives(server: Server, manager: Any) -> None:
    """Close the connections by which sessions are seen; return when this process has another."""
    before = manager._session.life._connection
    server.ask("CLIENT", "KILL", "TYPE", "pubsub")

    def is_seen_again() -> bool:
        now = manager._session.life._connection
        return now is not None and now is not before and now.usable

    poll(is_seen_again, "the session is seen again")


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "Condition"])
def test_who_is_not_seen_any_more_loses_the_lock_and_learns_it(
    server: Server, manager: Any, kind: str, start: Start
) -> None:
    """It does not subscribe again in silence (portalocker 137)."""
    lock = getattr(manager, kind)()
    session, before = manager._session, manager._session.id
    lock.acquire()
    cut_lives(server, manager)
    assert session.id != before
    heir = start("heir", call, lock, "acquire", parks=False)
    assert heir.said() is True
    with pytest.raises(LockLost):
        lock.release()
    assert lock.acquire(False) is False  # it has been told once
    heir.kill()
    assert lock.acquire(True, DEADLINE) is True
    lock.release()


def test_who_waits_and_is_not_seen_goes_on_waiting(server: Server, manager: Any) -> None:
    lock, condition, event, q = (
        manager.Lock(),
        manager.Condition(),
        manager.Event(),
        manager.Queue(1),
    )
    lock.acquire()
    q.put("full")
    census = ValkeyCensus(manager._session)
    clients = [
        Client(call, lock, "acquire"),
        Client(sleep_at, condition),
        Client(call, event, "wait"),
        Client(call, q, "put", "more"),
    ]
    poll(lambda: census.parked() == 4, "all wait")
    cut_lives(server, manager)
    with pytest.raises(LockLost):
        lock.release()
    assert clients[0].result() is True  # the dead session's lock was handed on
    assert clients[1].result() is True  # it looks for itself
    event.set()
    assert clients[2].result() is True
    assert q.get() == "full"
    assert clients[3].result() is None
    assert q.get() == "more" and q.empty()


def wait_for_all(lock: Any, condition: Any, event: Any, q: Any) -> list[Client]:
    return [
        Client(call, lock, "acquire"),
        Client(sleep_at, condition),
        Client(call, event, "wait"),
        Client(call, q, "get"),
    ]


def test_four_wait_while_the_server_restarts(server: Server, manager: Any) -> None:
    """All of them go on (celery 9054, 8030, 8091), and the holder still holds."""
    lock, condition, event, q = (
        manager.Lock(),
        manager.Condition(),
        manager.Event(),
        manager.Queue(),
    )
    lock.acquire()
    census = ValkeyCensus(manager._session)
    clients = wait_for_all(lock, condition, event, q)
    poll(lambda: census.parked() == 4, "all wait")
    server.kill()
    server.start()
    poll(lambda: in_thread(census.parked) == 4, "the records are there again")
    event.set()
    with condition:
        condition.notify()
    q.put("item")
    assert [client.result() for client in clients[1:]] == [True, True, "item"]
    assert clients[0].outcome is None
    lock.release()
    assert clients[0].result() is True


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore", "Condition"])
def test_a_release_waits_for_a_server_that_is_away(server: Server, manager: Any, kind: str) -> None:
    """Else the block of a `with` could end, and its lock would be held as long as the process."""
    lock = getattr(manager, kind)()
    with lock:
        server.kill()
        starter = threading.Timer(0.2, server.start)
        starter.start()
    starter.join(DEADLINE)
    assert Client(call, lock, "acquire", False).result() is True


@pytest.mark.parametrize("kind", ["Lock", "RLock", "BoundedSemaphore"])
def test_a_release_of_which_the_reply_is_lost_is_one_release(server: Server, kind: str) -> None:
    cutter = Cutter(server, server.path + "-cut")
    try:
        manager = fastmgr.SyncManager(address=f"valkey+unix://{cutter.path}?ns=lives")
        manager.connect()
        lock = getattr(manager, kind)()
        for _ in range(3):
            assert lock.acquire(False)
            cutter.cut_after(0)
            lock.release()
        with pytest.raises((RuntimeError, ValueError)):
            lock.release()
    finally:
        cutter.close()


def test_a_permit_of_which_the_grant_is_lost_with_the_server_is_given_back(
    server: Server, manager: Any
) -> None:
    """What the server has noted it knows when it is there again."""
    semaphore = manager.Semaphore(1)
    session, key = manager._session, manager._session.key_of(semaphore._id)
    wait = Wait(session, key, b"semaphore")
    assert wait.ask(b"semaphore_acquire", b"1") == [1]
    server.kill()
    server.start()
    wait.withdraw()
    assert semaphore.acquire(True, DEADLINE)


def test_a_restarted_server_judges_nobody_at_once(
    server: Server, manager: Any, start: Start, census: ValkeyCensus
) -> None:
    """But when the time has passed in which sessions could be seen again."""
    lock, other = manager.Lock(), manager.Lock()
    doomed = start("doomed", call, other, "acquire", parks=False)
    assert doomed.said() is True
    lock.acquire()
    server.kill()
    doomed.kill()
    server.start()
    begun = time.monotonic()
    assert in_thread(lock.acquire, True, 0.5) is False
    assert other.acquire(True, DEADLINE) is True
    assert time.monotonic() - begun > life.GRACE * 0.8
    lock.release()


def test_a_server_that_comes_back_empty(server: Server, manager: Any) -> None:
    lock = manager.Lock()
    lock.acquire()
    client = Client(call, lock, "acquire")
    census = ValkeyCensus(manager._session)
    poll(lambda: census.parked() == 1, "it waits")
    server.kill()
    server.options["appendonly"] = "no"
    server.start()
    with pytest.raises(fastmgr.managers.RemoteError, match="gone"):
        client.result()
    with pytest.raises(fastmgr.managers.RemoteError, match="gone"):
        lock.release()


def test_a_holder_that_stands_still_keeps_its_lock(manager: Any, start: Start) -> None:
    """There is no lease that could run out (python-redis-lock 85, PR 35)."""
    lock = manager.Lock()
    holder = start("holder", call, lock, "acquire", parks=False)
    assert holder.said() is True
    os.kill(holder.process.pid or 0, signal.SIGSTOP)
    assert lock.acquire(True, 2) is False
    holder.kill()
    assert lock.acquire(True, DEADLINE) is True


def test_a_server_that_stands_still_holds_up_nobody_beyond_the_timeout(
    server: Server, manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a dropped connection (modelq 16, rq 1933)."""
    monkeypatch.setattr(dialing.dial, "__defaults__", (None, 1.0))
    hurried = fastmgr.SyncManager.from_address(server.url(ns="lives", timeout="1"))
    lock, q = hurried.Lock(), hurried.Queue()
    lock.acquire()
    census = ValkeyCensus(manager._session)
    clients = [Client(call, lock, "acquire", True, 1), Client(call, q, "get", True, 1)]
    poll(lambda: census.parked() == 2, "they wait")
    assert server.process is not None
    os.kill(server.process.pid, signal.SIGSTOP)
    try:
        for client in clients:
            with pytest.raises(OSError):
                client.result()
    finally:
        os.kill(server.process.pid, signal.SIGCONT)
    # What they wanted is taken back when the server is there again.
    poll(lambda: census.parked() == 0, "nobody waits")
    q.put("item")
    assert q.get(True, DEADLINE) == "item"
    lock.release()
    assert lock.acquire(True, DEADLINE) is True


def test_the_dead_are_passed_over_in_order(manager: Any, start: Start) -> None:
    """Of three that wait the one in the middle dies, and then the holder (redbeat 212)."""
    lock = manager.Lock()
    holder = start("holder", call, lock, "acquire", parks=False)
    assert holder.said() is True
    first, middle, last = (
        start(name, call, lock, "acquire", parks=True) for name in ("first", "middle", "last")
    )
    middle.kill()
    holder.kill()
    assert first.said() is True
    first.kill()
    assert last.said() is True


def test_another_process_sees_that_a_lock_is_held(manager: Any, start: Start) -> None:
    """As any instance does (pottery 701)."""
    lock = manager.Lock()
    lock.acquire()
    assert start("other", call, lock, "locked", parks=False).said() is True
    lock.release()
    assert start("another", call, lock, "locked", parks=False).said() is False


def test_an_exit_in_order_keeps_a_lock_held(manager: Any, start: Start) -> None:
    lock = manager.Lock()
    holder = start("holder", call, lock, "acquire", parks=False)
    assert holder.said() is True
    holder.end()
    assert lock.acquire(True, 0.5) is False
    lock.release()
    assert lock.acquire(False) is True


def test_nothing_expires(server: Server, manager: Any, census: ValkeyCensus) -> None:
    """However long an object is not used (lithops PR 614)."""
    lock, q = manager.Lock(), manager.Queue()
    lock.acquire()
    q.put(1)
    waiter = threading.Thread(target=take_and_give, args=(lock,))
    waiter.start()
    poll(lambda: census.parked() == 1, "it waits")
    ours = [key for key in census.all_keys() if not key.endswith(b"}:swept")]
    assert ours and {manager._session.run([b"PTTL", key]) for key in ours} == {-1}
    lock.release()
    waiter.join(DEADLINE)
