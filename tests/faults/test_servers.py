"""How servers end: with nobody left, stopped, or forked by what they run."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing import shared_memory
from types import FrameType
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    Script,
    call_in_subprocess,
    connected,
    hide_server,
    in_thread,
    poll,
    process_gone,
    say,
)

from fastmgr.client.sessions import retire_sessions
from fastmgr.kinds import waits as _waits
from fastmgr.managers import Server, SharedMemoryManager

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning"),
]


class Forker:
    """Forks in a method; both of the processes go on."""

    def fork(self) -> tuple[int, int]:
        pid = os.fork()
        return pid, os.getpid()

    def fork_and_exit(self) -> tuple[int, int]:
        pid = os.fork()
        if pid == 0:
            sys.exit("the copy exits")
        return pid, os.getpid()

    def pid(self) -> int:
        return os.getpid()


class ServingClients(Server):
    def serve_client(self, conn: Any) -> None:
        super().serve_client(conn)


class Accepting(Server):
    def accepter(self) -> None:
        super().accepter()


class Manager(ProbeManager):
    pass


Manager.register("Forker", Forker)


class ServingClientsManager(Manager):
    _Server = ServingClients


class AcceptingManager(Manager):
    _Server = Accepting


KINDS = [Manager, ServingClientsManager, AcceptingManager]


class Impatient(Server):
    grace = 0.5
    family_grace = 10.0


class ImpatientManager(Manager):
    _Server = Impatient


# A server whose starter is dead


def become_a_daemon(shared: bool) -> None:
    """Start a manager, and go on in a grandchild: first idle, then using it, then by itself."""
    manager = ImpatientManager(authkey=KEY)
    manager.start()
    values = manager.dict(n=0) if shared else None
    server = manager._process.pid
    for _ in range(2):
        if os.fork():
            os._exit(0)
    if values is None:
        values = manager.dict(n=0)
    say(server)
    sys.stdin.readline()
    end = time.monotonic() + 4 * Impatient.grace
    while time.monotonic() < end:
        values.incr("n")
        time.sleep(0.02)
    say(values["n"] > 0)
    sys.stdin.readline()
    os._exit(0)


@pytest.mark.parametrize("shared", [True, False])
def test_a_program_that_becomes_a_daemon_keeps_its_manager(shared: bool) -> None:
    with Script(become_a_daemon, shared) as script:
        server = script.line()
        assert script.process.wait(DEADLINE) == 0  # the one that has started it
        script.tell()
        assert script.line() is True
        assert not process_gone(server)
        script.tell()
        poll(lambda: process_gone(server), "the server ends with its last client")


def start_and_say() -> None:
    manager = ImpatientManager(authkey=KEY)
    manager.start()
    say([manager._process.pid, manager.address])
    sys.stdin.read()


def test_a_server_outlives_its_starter_as_long_as_it_has_clients() -> None:
    with Script(start_and_say) as script:
        server, address = script.line()
        manager = connected(address)
        values = manager.list([1])
        os.kill(script.pid, signal.SIGKILL)
        script.process.wait(DEADLINE)
        end = time.monotonic() + 4 * Impatient.grace
        while time.monotonic() < end:
            assert values[0] == 1
            time.sleep(0.02)
        retire_sessions(address)
        poll(lambda: process_gone(server), "the server ends")
        assert not os.path.exists(address)


def test_a_server_of_a_killed_program_ends() -> None:
    with Script(start_and_say) as script:
        server, address = script.line()
        os.kill(script.pid, signal.SIGKILL)
        poll(lambda: process_gone(server), "the server ends")
        assert not os.path.exists(address)


def fork_and_end(address: Any) -> None:
    """The parent is gone before the child has made a call; its objects are the child's."""
    manager = connected(address)
    values = manager.list(["parent"])
    if os.fork():
        os._exit(0)
    say("forked")
    sys.stdin.readline()
    values.append("child")
    say(values[:])


def test_what_the_child_of_a_fork_has_outlives_the_parent() -> None:
    with ProbeManager(authkey=KEY) as manager, Script(fork_and_end, manager.address) as script:
        assert script.line() == "forked"
        assert script.process.wait(DEADLINE) == 0
        probe = manager.Probe()  # type: ignore[attr-defined]
        # This process's and the child's: the server has taken back what the parent had.
        poll(lambda: probe.sessions() == 2, "the parent's session has ended")
        script.tell()
        assert script.line() == ["parent", "child"]


# A server that is stopped


@contextlib.contextmanager
def served_here(kind: Any) -> Iterator[tuple[Any, Callable[[], None]]]:
    """A server in a thread of this process, and what stops it."""
    server = kind(authkey=KEY).get_server()

    def serve() -> None:
        with contextlib.suppress(SystemExit):
            server.serve_forever()

    def stop() -> None:
        server.stop_event.set()
        thread.join(DEADLINE)
        assert not thread.is_alive()

    streams = sys.stdout, sys.stderr  # which a server that ends resets
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    hide_server(server)
    try:
        yield server, stop
    finally:
        stop()
        sys.stdout, sys.stderr = streams
        retire_sessions(server.address)


class Leaving(Server):
    """It does what a server does that is stopped before a client's first call."""

    def serve_client(self, conn: Any) -> None:
        pass


class LeavingManager(ProbeManager):
    _Server = Leaving


def test_a_call_that_nobody_serves_returns_nothing() -> None:
    """The server answered the acceptance a second time, and `get` returned None."""
    with LeavingManager(authkey=KEY) as manager:
        queue = manager.Queue()
        with pytest.raises((OSError, EOFError)):
            queue.get()


def waits_in_a_call() -> bool:
    return any(type(o) is _waits.Waiter and not o.finished for o in gc.get_objects())


def connect_elsewhere(address: Any) -> str:
    try:
        connected(address).list()
    except (OSError, EOFError) as error:
        return type(error).__name__
    return "served"


@pytest.mark.parametrize("kind", KINDS)
def test_nobody_waits_for_a_server_that_is_stopped(kind: Any) -> None:
    with served_here(kind) as (server, stop):
        manager = kind(server.address, KEY)
        manager.connect()
        queue, values = manager.Queue(), manager.list()
        outcome: list[Any] = []

        def wait() -> None:
            try:
                queue.get()
            except (OSError, EOFError) as error:
                outcome.append(error)

        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        poll(waits_in_a_call, "the server has the call that waits")
        stop()
        waiting.join(DEADLINE)
        assert len(outcome) == 1
        if kind is AcceptingManager:  # its threads are its own; as in the stdlib they wait on
            [entry] = [e for e in server.table.entries.values() if hasattr(e.obj, "put")]
            entry.obj.put("nobody's")
        poll(lambda: not waits_in_a_call(), "no thread of the server waits for anything")
        for attempt in (lambda: values.append(1), lambda: in_thread(values.append, 1)):
            with pytest.raises((OSError, EOFError)):
                attempt()
        assert not os.path.exists(server.address)
        assert call_in_subprocess(connect_elsewhere, server.address) == "FileNotFoundError"


# A copy of a server


@pytest.mark.parametrize("method", ["fork", "fork_and_exit"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_copy_that_a_method_forks_is_no_server(kind: Any, method: str) -> None:
    with kind(authkey=KEY) as manager:
        forker = manager.Forker()
        others = manager.list([1])
        copy, answered = getattr(forker, method)()
        assert (answered, copy != 0) == (manager._process.pid, True)
        assert forker.pid() == manager._process.pid
        poll(lambda: process_gone(copy), "the copy has ended")
        assert forker.pid() == manager._process.pid
        assert others[0] == 1
        assert connected(manager.address).list([2])[:] == [2]
    assert not os.path.exists(manager.address)


def serve_and_fork(early: bool) -> None:
    """A signal's handler forks the server in its main thread."""
    copies: list[int] = []
    start = threading.Thread.start

    def start_and_fork(thread: threading.Thread) -> None:
        start(thread)
        if thread.name == "loop":
            signal.raise_signal(signal.SIGUSR1)

    def fork(number: int, frame: FrameType | None) -> None:
        pid = os.fork()
        if pid:
            copies.append(pid)
            say(pid)

    signal.signal(signal.SIGUSR1, fork)
    server = Manager(authkey=KEY).get_server()
    say(server.address)
    if early:
        threading.Thread.start = start_and_fork  # type: ignore[method-assign]
    with contextlib.suppress(SystemExit):
        server.serve_forever()
    os.waitpid(copies[0], 0)
    say("ended")


@pytest.mark.parametrize("early", [False, True])
def test_a_copy_of_a_servers_main_thread_serves_nobody(early: bool) -> None:
    with Script(serve_and_fork, early) as script:
        manager = connected(script.line())
        values = manager.list([1])
        if not early:
            os.kill(script.pid, signal.SIGUSR1)
        copy = script.line()
        poll(lambda: process_gone(copy), "the copy has ended")
        assert values[0] == 1
        assert os.path.exists(manager.address)
        manager._session.control("shutdown")
        assert script.line() == "ended"


def test_a_copy_removes_no_shared_memory() -> None:
    server = SharedMemoryManager(authkey=KEY).get_server()
    segment = shared_memory.SharedMemory(create=True, size=10)
    try:
        server.track_segment(None, segment.name)
        pid = os.fork()
        if pid == 0:
            try:
                server.shared_memory_context.__del__()
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        shared_memory.SharedMemory(segment.name).close()
    finally:
        server.shared_memory_context.segment_names.clear()
        segment.close()
        segment.unlink()
        server.listener.close()
