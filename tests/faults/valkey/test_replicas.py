"""A single server that becomes a replica of another: its clients go to the primary."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.places import Client
from support.valkeys import SLOW_KINDS, Server, free_port, server

import fastmgr
from fastmgr import RemoteError

pytestmark = pytest.mark.timeout(120)


@pytest.fixture(params=SLOW_KINDS)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[Server, Server]]:
    """A primary, which the address names, and its replica."""
    options = {"repl_diskless_sync_delay": 0}
    with (
        server(request.param, port=free_port(), **options) as first,
        server(request.param, port=free_port(), **options) as second,
    ):
        follow(second, first)
        yield first, second


def follow(replica: Server, primary: Server) -> None:
    replica.ask("REPLICAOF", "127.0.0.1", primary.port)
    poll(lambda: b"master_link_status:up" in replica.ask("INFO", "replication"), "the replica")


def offset(one: Server) -> str:
    """How far into the stream of replication a server is."""
    (found,) = re.findall(r"master_repl_offset:(\d+)", one.ask("INFO", "replication").decode())
    return str(found)


def switch(primary: Server, replica: Server) -> None:
    """Have the two change their places, as an operator does it: no write is lost."""
    primary.ask("CLIENT", "PAUSE", 60000, "WRITE")
    # `WAIT` is of the changes of its own connection, which has made none.
    poll(lambda: offset(replica) == offset(primary), "the replica has all that was written")
    replica.ask("REPLICAOF", "NO", "ONE")
    primary.ask("REPLICAOF", "127.0.0.1", replica.port)
    primary.ask("CLIENT", "UNPAUSE")


def manager_at(one: Server) -> Any:
    manager = fastmgr.SyncManager(address=one.url(ns="pair"))
    manager.connect()
    return manager


def test_a_primary_that_was_demoted(pair: tuple[Server, Server]) -> None:
    """Calls, waiting, locks and one-way calls go on at the primary; nothing is made twice."""
    first, second = pair
    manager = manager_at(first)
    numbers, queue, lock = manager.dict(n=0), manager.Queue(), manager.Lock()
    lock.acquire()
    getter = Client(queue.get)
    poll(lambda: first.ask("LLEN", f"{{pair:{queue._id}}}:g") == b":1\r\n", "the getter waits")
    before = manager._session.id
    counters = [Client(lambda: [numbers.incr("n") for _ in range(500)]) for _ in range(3)]
    for target in (second, first):
        switch(*pair) if target is second else switch(second, first)
        fastmgr.oneway(numbers).incr("n")
        seen = "PUBSUB", "NUMSUB", f"fm:s:{before.decode()}"
        poll(lambda at=target, seen=seen: b":1" in at.ask(*seen), "it is seen")  # type: ignore[misc]
        follow(first if target is second else second, target)
    for counter in counters:
        counter.result()
    assert numbers["n"] == 1502
    queue.put("item")
    assert getter.result() == "item"
    lock.release()
    assert manager._session.id == before


def test_the_address_of_a_replica(pair: tuple[Server, Server]) -> None:
    """Its primary is used, and if that cannot be reached the error says so."""
    first, second = pair
    manager = manager_at(second)
    numbers = manager.dict(n=0)
    assert numbers.incr("n") == 1
    assert manager_at(first)._number_of_objects() == 1
    manager._session.close()
    first.kill()
    with pytest.raises(RemoteError, match="is a replica, and its primary cannot be reached"):
        manager_at(second).dict()


def test_a_primary_that_is_killed(pair: tuple[Server, Server]) -> None:
    """What waits goes on when the replica has been promoted, and whose the lock was keeps it."""
    first, second = pair
    manager = manager_at(second)
    queue, lock, numbers = manager.Queue(), manager.Lock(), manager.dict(n=0)
    lock.acquire()
    numbers.incr("n")
    assert manager.wait_for_replicas(timeout=DEADLINE) == 1
    getter = Client(queue.get)
    poll(lambda: second.ask("LLEN", f"{{pair:{queue._id}}}:g") == b":1\r\n", "the getter waits")
    first.kill()
    with pytest.raises((RemoteError, ConnectionError)):  # nobody is the primary
        numbers.incr("n")
    with pytest.raises(RemoteError, match=r"primary cannot be reached; nothing was changed"):
        numbers.incr("n")
    second.ask("REPLICAOF", "NO", "ONE")
    assert not in_thread(lock.acquire, True, 0.1)
    lock.release()
    queue.put("item")
    assert getter.result() == "item"
    assert numbers.incr("n") == 2
    manager._session.close()


def test_waiting_for_replicas_of_another_primary(pair: tuple[Server, Server]) -> None:
    """The one that the thread has changed may have had more than the one that is there now."""
    first, second = pair
    manager = manager_at(second)
    numbers = manager.dict(n=0)
    assert manager.wait_for_replicas(timeout=DEADLINE) == 1
    switch(first, second)
    follow(first, second)
    numbers.incr("n")
    with pytest.raises(fastmgr.ConnectionLost, match="nobody knows whether replicas have"):
        manager.wait_for_replicas(timeout=DEADLINE)
    numbers.incr("n")
    assert manager.wait_for_replicas(timeout=DEADLINE) == 1
    second.ask("CLIENT", "KILL", "TYPE", "normal")
    numbers.copy()
    with pytest.raises(fastmgr.ConnectionLost, match="nobody knows whether replicas have"):
        manager.wait_for_replicas(timeout=DEADLINE)
    manager._session.close()


def test_a_primary_that_is_demoted_while_a_thread_waits_for_replicas(
    pair: tuple[Server, Server],
) -> None:
    first, second = pair
    manager = manager_at(first)
    assert second.process is not None
    os.kill(second.process.pid, signal.SIGSTOP)
    numbers = manager.dict(n=0)

    def wait() -> int:
        numbers.incr("n")
        return int(manager.wait_for_replicas(timeout=DEADLINE))

    waiter = Client(wait)
    poll(lambda: b"blocked_clients:1" in first.ask("INFO", "clients"), "it waits")
    first.ask("REPLICAOF", "127.0.0.1", second.port)
    with pytest.raises(fastmgr.ConnectionLost, match="nobody knows whether replicas have"):
        waiter.result()
    first.ask("REPLICAOF", "NO", "ONE")
    manager._session.close()
