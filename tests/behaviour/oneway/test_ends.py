"""Processes, servers and peers that end while one-way calls are under way."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, FastPeer, Script, poll, settle
from support.frames import HEADER, ONEWAY, OP_CALL
from support.oneway import OnewayManager, cause_of, failure_of

from fastmgr import managers, oneway
from fastmgr.wire import codec

CALLS_AT_THE_END = 100  # what the sockets hold while nothing is served


def post_and_end(address: str, typeid: str, ident: str, method: str, how: str) -> None:
    """In a process of its own: one-way calls, and then its end."""
    token = managers.Token(typeid, address, ident)
    proxy = managers.AutoProxy(token, "pickle", authkey=KEY)
    if typeid == "Journal":
        oneway(proxy).await_gate()
    call = getattr(oneway(proxy), method)
    for i in range(CALLS_AT_THE_END):
        call(i)
    if how == "exits at once":
        os._exit(0)
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)


ENDS = ["exits", "exits at once", "is killed"]
METHODS = {"list": "append", "Journal": "note"}


@pytest.fixture(scope="module")
def ending_manager() -> Iterator[OnewayManager]:
    with OnewayManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module", autouse=True)
def ending(ending_manager: OnewayManager) -> Iterator[dict[tuple[str, str], tuple[Any, Script]]]:
    """By type and end: an object, and the process that calls it and ends.

    They begin before all tests: one waits for its calls for seconds before it ends.
    """
    found = {}
    with contextlib.ExitStack() as scripts:
        for typeid, how in itertools.product(METHODS, ENDS):
            shared = getattr(ending_manager, typeid)()
            args = (ending_manager.address, typeid, shared._token.id, METHODS[typeid], how)
            script = scripts.enter_context(Script(post_and_end, *args))
            found[typeid, how] = shared, script
        yield found


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("typeid", METHODS)
def test_process_that_ends_with_its_calls_unserved(
    ending_manager: OnewayManager,
    ending: dict[tuple[str, str], tuple[Any, Script]],
    typeid: str,
    how: str,
) -> None:
    for _, script in ending.values():
        script.process.wait(DEADLINE)
    shared, script = ending[typeid, how]
    assert script.process.returncode == (-signal.SIGKILL if how == "is killed" else 0)
    ending_manager.Gate().open()
    read = shared._getvalue if typeid == "list" else shared.all
    poll(lambda: len(read()) == CALLS_AT_THE_END, "all calls are served")
    assert read() == list(range(CALLS_AT_THE_END))


def fork_child(items: Any) -> None:
    assert len(items) == 1  # the failure is its parent's
    oneway(items).append("child")
    oneway(items).remove("nothing")
    error = failure_of(len, items)
    assert (error.failed, error.result) == (1, 2)


def test_fork(any_manager: OnewayManager) -> None:
    items = any_manager.list()
    calls = oneway(items)
    calls.append("parent")
    calls.pop(9)
    child = multiprocessing.get_context("fork").Process(target=fork_child, args=(items,))
    child.start()
    child.join(DEADLINE)
    assert child.exitcode == 0
    error = failure_of(items._getvalue)
    assert error.failed == 1
    assert type(cause_of(error)) is IndexError
    assert error.result == ["parent", "child"]


def test_server_that_is_gone() -> None:
    manager = OnewayManager()
    manager.start()
    d = manager.dict()
    oneway(d)["a"] = 1
    assert d["a"] == 1
    manager._process.kill()
    manager._process.join()
    for _ in range(2):
        with pytest.raises((OSError, EOFError)):
            oneway(d)["b"] = 2
            len(d)  # what is sent may have gone before the end was seen
    manager.shutdown()


def note_and_end(address: str) -> None:
    manager = OnewayManager(address, KEY)
    manager.connect()
    journal = manager.TheJournal()
    for i in range(50):
        oneway(journal).note(i)


def test_process_that_ends_in_order_waits_for_its_calls(own_manager: Any) -> None:
    with Script(note_and_end, own_manager.address) as script:
        assert script.process.wait(DEADLINE) == 0
    assert len(own_manager.TheJournal().all()) == 50


def test_failures_of_a_peer_that_has_left(own_manager: OnewayManager) -> None:
    """A thread serves what the peer had sent, and nobody is left to be told of a failure."""
    journal, gate = own_manager.Journal(), own_manager.Gate()
    gate.shut()
    with FastPeer(own_manager.address) as peer:
        peer.create("list")
        objects = own_manager._number_of_objects()
        calls = b""
        for name, args, flags in [
            ("await_gate", (), 0),
            ("fail", ("on purpose",), ONEWAY),
            ("note", ("first",), 0),
            ("note", ("last",), 0),
        ]:
            body = b"".join(map(codec.dumps, (name, args, None)))
            handle = int(journal._token.id, 16)
            calls += HEADER.pack(len(body), handle, 9, 0, OP_CALL, flags) + body
        peer.sock.sendall(calls)  # at once: replies to a peer that has left cannot be sent
    settle(own_manager, objects - 1)
    gate.open()
    poll(lambda: journal.all() == ["first", "last"], "its calls are served")


class Held:
    """A value whose unpickling waits until somebody writes to a named pipe."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.read_text, (Path(self.path),)


def post_behind_what_is_held(address: str, held: str, noted: str, lock: str, path: str) -> None:
    """In a process of its own: a one-way call that takes long, many behind it, and the end."""
    proxies = [
        managers.AutoProxy(managers.Token("list", address, ident), "pickle", authkey=KEY)
        for ident in (held, noted)
    ]
    managers.AcquirerProxy(managers.Token("Lock", address, lock), "pickle", authkey=KEY).acquire()
    oneway(proxies[0]).extend([Held(path)])
    for i in range(CALLS_AT_THE_END):
        oneway(proxies[1]).append(i)
    os.kill(os.getpid(), signal.SIGKILL)


def test_calls_of_a_killed_client_that_a_worker_would_give_back(tmp_path: Path) -> None:
    """A worker gives a busy connection back after some calls, but not one whose client is gone."""
    pipe = str(tmp_path / "pipe")
    os.mkfifo(pipe)
    manager = OnewayManager(authkey=KEY)
    # On one processor nobody spins: there workers give connections back.
    manager.start(os.sched_setaffinity, (0, {min(os.sched_getaffinity(0))}))
    with manager:
        held, noted, lock = manager.list(), manager.list(), manager.Lock()
        idents = (proxy._token.id for proxy in (held, noted, lock))
        with Script(post_behind_what_is_held, manager.address, *idents, pipe) as script:
            assert script.process.wait(DEADLINE) == -signal.SIGKILL
        assert lock.acquire(timeout=DEADLINE)  # the server has seen the death
        Path(pipe).write_text("go on")
        poll(lambda: len(noted) == CALLS_AT_THE_END, "all calls are served")
