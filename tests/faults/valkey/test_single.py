"""What goes wrong with one Valkey server, and what then holds: a test for each failure."""

from __future__ import annotations

import contextlib
import select
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.hashes import LIBRARY, hash_of
from support.valkeys import KINDS, SLOW_KINDS, Cutter, Server, free_port, server
from support.waiting import DEADLINE, poll

from fastmgr import OnewayError, RemoteError, SyncManager, oneway
from fastmgr.engines.valkey.errors import ConnectionLost, PipelineError

pytestmark = pytest.mark.usefixtures("hashes")


@pytest.fixture
def manager(running: Server) -> Iterator[SyncManager]:
    found = SyncManager.from_address(running.url())
    found._session.run(["FLUSHALL"])
    yield found
    found._session.close()


@pytest.fixture
def cutter(running: Server, tmp_path: Path) -> Iterator[Cutter]:
    running.ask("FLUSHALL")
    one = Cutter(running, str(tmp_path / "socket"))
    yield one
    one.close()


@pytest.fixture
def behind(cutter: Cutter) -> Iterator[Any]:
    """A hash whose connections the cutter can cut."""
    manager = SyncManager.from_address(f"valkey+unix://{cutter.path}")
    proxy = hash_of(manager)
    proxy.set("n", 0)
    yield proxy
    manager._session.close()


# -- a connection that is cut -----------------------------------------------------------


def test_reply_cut_of_a_call_that_changes_something(
    cutter: Cutter, behind: Any, manager: SyncManager
) -> None:
    """The call is applied once, and the error says that it may have been."""
    direct = hash_of(SyncManager.from_address(cutter.server.url()))
    cutter.cut_after(0)
    with pytest.raises(ConnectionLost, match="it may have been applied") as caught:
        behind.add("n", 1)
    assert caught.value.applied is None
    assert isinstance(caught.value, ConnectionError)
    assert direct.get("n") == "1"
    assert behind.add("n", 1) == 2


def test_reply_cut_of_a_call_that_reads(cutter: Cutter, behind: Any) -> None:
    """The call is made again, over another connection."""
    session = behind._session_of()
    before = session.connection()
    cutter.cut_after(0)
    assert session.run(["HLEN", session.key_of("Hash-1")], True) == 1
    assert session.connection() is not before


def test_reply_cut_of_a_call_that_nobody_waits_for(cutter: Cutter, behind: Any) -> None:
    cutter.cut_after(2)
    posted = oneway(behind)
    for _ in range(5):
        posted.add("n", 1)
    with pytest.raises(OnewayError, match="may have been applied") as caught:
        poll(lambda: behind.get("n") == "never", "the failure is told")
    assert isinstance(caught.value.__cause__, ConnectionLost)
    assert caught.value.failed == 3
    assert behind.get("n") == "5"


def test_connection_lost_between_two_calls_that_nobody_waits_for(
    cutter: Cutter, behind: Any
) -> None:
    """The second is made over another connection; the next call tells of the first."""
    posted = oneway(behind)
    cutter.cut_after(0)
    posted.add("n", 1)
    session = behind._session_of()
    poll(lambda: has_something_to_read(session.connection()), "the connection is cut")
    posted.add("n", 1)
    with pytest.raises(OnewayError, match="may have been applied") as caught:
        behind.add("n", 1)
    assert (caught.value.failed, caught.value.result) == (1, 3)


def has_something_to_read(connection: Any) -> bool:
    """Whether something has come, if only the end."""
    return bool(select.select([connection.fileno()], [], [], 0)[0])


def test_pipeline_cut(cutter: Cutter, behind: Any, manager: SyncManager) -> None:
    """The error has the results that came, and says which calls may have been made."""
    pipe = behind._manager.pipeline()
    one = pipe(behind)
    for _ in range(1000):
        one.add("n", 1)
    cutter.cut_after(500)
    with pytest.raises(PipelineError, match="500 of 1000 calls") as caught:
        pipe.execute()
    assert caught.value.results == list(range(1, 501))
    assert caught.value.unknown == range(500, 1000)
    assert 500 <= int(behind.get("n")) <= 1000
    total = int(behind.get("n"))
    assert behind.add("n", 1) == total + 1


def test_pipeline_cut_among_joined_calls(cutter: Cutter, behind: Any) -> None:
    behind._session_of().run(["FUNCTION", "LOAD", "REPLACE", LIBRARY])
    pipe = behind._manager.pipeline()
    one = pipe(behind)
    one.add("n", 1)
    for _ in range(5):
        one.joined("a")
    one.add("n", 1)
    cutter.cut_after(0)
    with pytest.raises(PipelineError, match="0 of 7 calls") as caught:
        pipe.execute()
    assert (caught.value.results, caught.value.unknown) == ([], range(7))


# -- a server that ends -------------------------------------------------------------------


@pytest.mark.parametrize("fsync", [None, "everysec", "always", "no"])
@pytest.mark.parametrize("kind", KINDS)
def test_server_killed_and_started_again(kind: str, fsync: str | None) -> None:
    """What was acknowledged is kept with an append-only file, for the system has been told."""
    options = {} if fsync is None else {"appendonly": "yes", "appendfsync": fsync}
    with server(kind, **options) as one:
        manager = SyncManager.from_address(one.url())
        proxy = hash_of(manager)
        manager._session.run(["FUNCTION", "LOAD", LIBRARY])
        for i in range(200):
            assert proxy.add("n", 1) == i + 1
        assert proxy.joined("m") == 1
        one.kill()
        with pytest.raises(ConnectionError, match=r"nothing serves|lost"):
            proxy.add("n", 1)
        with pytest.raises(OSError, match="nothing serves at"):
            proxy.add("n", 1)
        one.start()
        if fsync is None:
            assert proxy.add("n", 1) == 1
        else:
            assert proxy.add("n", 1) == 201
            assert proxy.joined("m") == 2
        manager._session.close()


@pytest.mark.parametrize("keeps", [True, False])
def test_server_that_came_back_empty(keeps: bool) -> None:
    """Its objects are gone, which each use says; those that are made from then on are there."""
    with server(
        "valkey", **({"appendonly": "yes", "appendfsync": "always"} if keeps else {})
    ) as one:
        manager = SyncManager.from_address(one.url())
        shared = manager.dict(a=1)
        one.kill()
        one.start()
        if keeps:
            assert shared.incr("a") == 2
        else:
            uses: list[Callable[[], Any]] = [
                lambda: shared["a"], lambda: shared.incr("a"), lambda: shared.get("a"),
                lambda: len(shared), lambda: shared.update(a=1), lambda: "a" in shared,
            ]  # fmt: skip
            for use in uses:
                with pytest.raises(RemoteError, match="is gone"):
                    use()
            assert one.ask("EXISTS", f"{{fm:{shared._id}}}") == b":0\r\n"
        assert manager.dict(b=2).incr("b") == 3
        manager._session.close()


def test_server_killed_while_a_call_waits() -> None:
    with server() as one:
        manager = SyncManager.from_address(one.url())
        proxy = hash_of(manager, "list")
        caught: list[BaseException] = []

        def wait() -> None:
            try:
                proxy.wait(0)
            except ConnectionLost as error:
                caught.append(error)

        thread = threading.Thread(target=wait)
        thread.start()
        poll(lambda: b"blocked_clients:1" in one.ask("INFO", "clients"), "it waits")
        one.kill()
        thread.join(DEADLINE)
        assert len(caught) == 1
        manager._session.close()


@pytest.mark.parametrize("kind", SLOW_KINDS)
def test_server_that_reads_its_data(kind: str) -> None:
    """Calls wait for it, as long as the address says, and what was held is held."""
    with server(kind, loading_process_events_interval_bytes=1024) as one:
        manager = SyncManager.from_address(one.url())
        hurried = SyncManager.from_address(one.url(timeout="0.5"))
        shared, lock = manager.dict(n=0), manager.Lock()
        lock.acquire()
        other = hurried.dict(n=0)
        for number in range(600):
            manager._session.run(["SET", f"other {number}", "x" * 100])
        one.ask("SAVE")
        one.kill()
        one.options["key-load-delay"] = "3000"  # microseconds
        starter = threading.Thread(target=one.start)
        starter.start()

        def reads() -> bool:
            with contextlib.suppress(OSError):
                return one.ask("GET", "a").startswith(b"-LOADING")
            return False

        poll(reads, "it reads its data")
        with pytest.raises(RemoteError, match=r"LOADING .*reads its data; the call was not made"):
            other.incr("n")
        assert shared.incr("n") == 1
        starter.join(DEADLINE)
        lock.release()
        for session in (manager._session, hurried._session):
            session.close()


# -- a server that refuses ------------------------------------------------------------------


@pytest.fixture
def busy(running: Server) -> Iterator[None]:
    """A script runs that does not end; the server says so to all others."""
    running.ask("CONFIG", "SET", "lua-time-limit", "20")
    thread = threading.Thread(target=running.ask, args=("EVAL", "while true do end", "0"))
    thread.start()
    poll(lambda: running.ask("PING").startswith(b"-BUSY"), "the server is busy")
    yield
    poll(lambda: not running.ask("SCRIPT", "KILL").startswith(b"-BUSY"), "the script has ended")
    thread.join(DEADLINE)


def test_busy_server_is_waited_for(running: Server, manager: SyncManager) -> None:
    proxy = hash_of(manager)
    proxy.add("n", 1)
    running.ask("CONFIG", "SET", "lua-time-limit", "20")
    thread = threading.Thread(target=running.ask, args=("EVAL", "while true do end", "0"))
    thread.start()
    poll(lambda: running.ask("PING").startswith(b"-BUSY"), "the server is busy")
    ender = threading.Timer(0.1, running.ask, ("SCRIPT", "KILL"))
    ender.start()
    assert proxy.add("n", 1) == 2
    with manager.pipeline() as pipe:
        pipe(proxy).add("n", 1)
    assert pipe.results == [3]
    for one in (ender, thread):
        one.join(DEADLINE)


def test_busy_server_is_waited_for_as_long_as_the_address_says(
    running: Server, manager: SyncManager, request: pytest.FixtureRequest
) -> None:
    # Within this time the server has to say, too, that it is busy, also on a loaded machine.
    other = SyncManager.from_address(running.url(timeout="2"))
    proxy = hash_of(other)
    proxy.set("n", 1)
    request.getfixturevalue("busy")
    begun = time.monotonic()
    with pytest.raises(RemoteError, match=r"BUSY.*the call was not made.*SCRIPT KILL"):
        proxy.add("n", 1)
    assert 2 <= time.monotonic() - begun < 20, "it is 30 s where the address says nothing"
    other._session.close()


def test_memory_full(running: Server, manager: SyncManager) -> None:
    """What needs memory changes nothing; reading and removing goes on."""
    proxy = hash_of(manager)
    proxy.set("a", "x")
    session = manager._session
    session.run(["CONFIG", "SET", "maxmemory", "1"])
    try:
        with pytest.raises(RemoteError, match=r"OOM .*the server's memory is full.*nothing was"):
            proxy.set("b", "y")
        with manager.pipeline("return") as pipe:
            pipe(proxy).set("b", "y")
            pipe(proxy).get("a")
        assert "OOM" in str(pipe.results[0]) and pipe.results[1] == "x"
        with pytest.raises(KeyError):
            proxy.get("b")
        assert proxy.pop("a") == 1
    finally:
        session.run(["CONFIG", "SET", "maxmemory", "0"])


def test_replica_read_only(running: Server, manager: SyncManager) -> None:
    proxy = hash_of(manager)
    proxy.set("a", "x")
    manager._session.run(["REPLICAOF", "127.0.0.1", free_port()])
    try:
        with pytest.raises(RemoteError, match=r"READONLY .*is a replica.*its primary"):
            proxy.set("a", "y")
        manager._session.run(["CONFIG", "SET", "replica-serve-stale-data", "yes"])
        assert proxy.get("a") == "x"
    finally:
        manager._session.run(["REPLICAOF", "NO", "ONE"])


def test_foreign_key_in_the_way(running: Server, manager: SyncManager) -> None:
    """The error names the key and both types, and the key stays."""
    proxy = hash_of(manager)
    running.ask("RPUSH", "{fm:Hash-1}", "item")
    wanted = r"WRONGTYPE .*key \{fm:Hash-1\} holds a list, not a hash"
    for call in (lambda: proxy.set("a", "x"), lambda: proxy.get("a"), lambda: proxy.add("a", 1)):
        with pytest.raises(RemoteError, match=wanted):
            call()
    with manager.pipeline("return") as pipe:
        pipe(proxy).set("a", "x")
    with pytest.raises(RemoteError, match=wanted):
        raise pipe.results[0]
    manager._session.run(["FUNCTION", "LOAD", "REPLACE", LIBRARY])
    with pytest.raises(RemoteError, match=r"\{fm:Hash-1\} holds a list, not a value of a shared"):
        proxy.joined("a")
    assert running.ask("LLEN", "{fm:Hash-1}") == b":1\r\n"
