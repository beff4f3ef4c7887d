"""What a Valkey server's settings do not allow: the error names the setting or the right."""

from __future__ import annotations

import os
import queue
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError
from typing import Any

import pytest
from support import poll
from support.valkeys import KINDS, Server, server

import fastmgr
from fastmgr import ConnectionLost, OnewayError, PipelineError, RemoteError
from fastmgr.engines.valkey import address

LARGE = b"x" * (4 << 20)
RIGHTS = (
    "resetkeys ~{shop:* ~{shop}:* resetchannels &fm:s:* +@all -@admin -@dangerous +info +config|get"
)


@pytest.fixture(params=KINDS)
def running(request: pytest.FixtureRequest) -> Iterator[Server]:
    with server(request.param, enable_protected_configs="yes") as one:
        yield one


@pytest.fixture
def manager(running: Server) -> Iterator[Any]:
    found = fastmgr.SyncManager(address=running.url(ns="shop"))
    found.connect()
    yield found
    found._session.close()


# -- sizes ------------------------------------------------------------------------------


def test_value_that_is_too_large(running: Server, manager: Any) -> None:
    """It was not stored, and the calls around it have been made, or the error says which."""
    shared, items = manager.dict(n=0), manager.Queue()
    running.ask("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    calls: list[Callable[[], Any]] = [
        lambda: shared.__setitem__("k", LARGE), lambda: shared.update(k=LARGE),
        lambda: items.put(LARGE), lambda: fastmgr.oneway(shared).__setitem__("k", LARGE),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ConnectionLost, match=r"proto-max-bulk-len\); the call was") as caught:
            call()
        assert caught.value.applied is False
    pipe = manager.pipeline()
    pipe(shared).incr("n")
    pipe(shared).__setitem__("k", LARGE)
    pipe(shared).incr("n")
    with pytest.raises(PipelineError, match=r"proto-max-bulk-len\); 1 of 3 calls") as cut:
        pipe.execute()
    assert (cut.value.results, cut.value.unknown) == ([1], range(1, 3))
    assert (dict(shared), items.qsize()) == ({"n": 1}, 0)


def test_value_that_is_too_large_after_calls_that_nobody_waits_for(
    running: Server, manager: Any
) -> None:
    """Each failure is told once, and of the call that it was."""
    shared = manager.dict(n=0, text="")
    running.ask("CONFIG", "SET", "proto-max-bulk-len", "1mb")
    posted = fastmgr.oneway(shared)
    posted.incr("n")
    posted.incr("text")
    with pytest.raises(ConnectionLost, match="proto-max-bulk-len"):
        shared["k"] = LARGE
    with pytest.raises(OnewayError) as caught:
        shared.incr("n")
    assert caught.value.failed == 1 and isinstance(caught.value.__cause__, TypeError)
    assert shared["n"] == 2


def test_request_that_is_too_large(running: Server, manager: Any) -> None:
    shared = manager.dict(n=0)
    running.ask("CONFIG", "SET", "client-query-buffer-limit", "1mb")
    with pytest.raises(ConnectionLost, match=r"4,194,\d+ bytes .* client-query-buffer") as caught:
        shared["k"] = LARGE
    # The server closes the connection within the request, or when it has all of it.
    assert not caught.value.applied
    assert dict(shared) == {"n": 0}


def test_reply_that_is_too_large(running: Server, manager: Any) -> None:
    shared = manager.dict(k=LARGE, n=0)
    running.ask("CONFIG", "SET", "client-output-buffer-limit", "normal 1mb 0 0")
    for read in (lambda: shared["k"], shared.copy):
        with pytest.raises(ConnectionLost, match=r"only reads.*client-output-buffer-limit"):
            read()
    assert shared["n"] == 0


# -- memory -------------------------------------------------------------------------------


def test_who_waits_or_gives_back_goes_on_where_the_memory_is_full(
    running: Server, manager: Any
) -> None:
    """What was removed is not lost, though a proxy in it needs a reference."""
    items, nested = manager.JoinableQueue(), manager.list([manager.dict(a=1)])
    items.put("item")
    lock, permits, event = manager.Lock(), manager.Semaphore(1), manager.Event()
    barrier, numbers, row = manager.Barrier(1), manager.dict(n=0), manager.Value("q", 0, name="n")
    running.ask("CONFIG", "SET", "maxmemory", "1")
    with lock, permits:
        assert nested.pop().copy() == {"a": 1}
        assert items.get() == "item"
        items.task_done()
        items.join()
        event.set()
        assert event.wait() and barrier.wait() == 0
    with pytest.raises(RemoteError, match=r"OOM .*nothing was changed"):
        numbers.incr("n")
    del row
    assert manager.forget("n")
    assert manager._number_of_objects() == 7
    other = fastmgr.SyncManager(address=running.url(ns="shop"), authkey=b"another")
    other._session.life.begin()  # of a client that comes now
    assert running.ask("SCARD", "{shop}:sessions") == b":2\r\n"
    other._session.close()


# -- rights -------------------------------------------------------------------------------


@pytest.fixture
def user(running: Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Any]]:
    """Calls of a user who has the rights of the documentation, but for some."""
    monkeypatch.setenv(address.USERNAME, "app")
    monkeypatch.setenv(address.PASSWORD, "secret")

    def use(*without: str, more: tuple[str, ...] = ()) -> None:
        rights = [right for right in RIGHTS.split() if right not in without]
        running.ask("ACL", "SETUSER", "app", "reset", "on", ">secret", *rights, *more)
        manager = fastmgr.SyncManager(address=running.url(ns="shop"))
        try:
            manager.connect()
            use_all(manager)
        finally:
            manager._session.close()

    yield use


def use_all(manager: Any) -> None:
    shared = manager.dict(a=1)
    assert (shared["a"], shared.incr("a"), shared.pop("a")) == (1, 2, 2)
    items = manager.Queue()
    with pytest.raises(queue.Empty):
        items.get(timeout=0.01)
    with manager.Lock():
        manager.list([shared]).sort(key=str)
    manager.Value("q", 0, name="n")
    assert manager.names() == ["n"] and manager.forget("n")
    assert manager.wait_for_replicas(0, timeout=0.01) == 0
    assert manager._number_of_objects() == 2


def test_user_who_has_the_rights_that_the_page_names(user: Callable[..., Any]) -> None:
    with open(os.path.join(os.path.dirname(__file__), "../../../docs/valkey.md")) as page:
        assert RIGHTS in page.read().replace("'", "")
    user()
    user("+config|get")


MISSING = [
    (("~{shop:*",), (), r"keys ~\{<ns>:\*"),
    (("~{shop}:*",), (), r"keys ~\{<ns>:\* and ~\{<ns>\}:\*"),
    (("&fm:s:*",), (), r"channels &fm:s:\*"),
    (("+info",), (), "'info' command"),
    ((), ("-subscribe",), "'subscribe' command"),
    ((), ("-function",), "'function|load' command"),
    ((), ("-fcall",), "'fcall' command"),
    ((), ("-pubsub",), r"pubsub|each command that the library of functions calls"),
    ((), ("-hset",), r"hset|each command that the library of functions calls"),
]


@pytest.mark.parametrize(("without", "more", "named"), MISSING)
def test_user_without_a_right(
    user: Callable[..., Any], without: tuple[str, ...], more: tuple[str, ...], named: str
) -> None:
    with pytest.raises(AuthenticationError, match=rf"the server's ACL .*{named}.*valkey.md"):
        user(*without, more=more)


# -- disks --------------------------------------------------------------------------------


def test_server_that_cannot_write_to_its_disk(running: Server, manager: Any) -> None:
    shared, lock = manager.dict(n=0), manager.Lock()
    lock.acquire()
    gone = running.folder / "gone"
    gone.mkdir()
    running.ask("CONFIG", "SET", "dir", gone)
    running.ask("CONFIG", "SET", "save", "3600 1")
    gone.rmdir()
    running.ask("BGSAVE")
    failed = b"rdb_last_bgsave_status:err"
    poll(lambda: failed in running.ask("INFO", "persistence"), "the snapshot has failed")
    with pytest.raises(RemoteError, match=r"MISCONF .*cannot write its data .*was not made"):
        shared.incr("n")
    assert shared["n"] == 0
    running.ask("CONFIG", "SET", "stop-writes-on-bgsave-error", "no")
    lock.release()
    assert shared.incr("n") == 1
