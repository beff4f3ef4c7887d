"""A signal that another thread takes: its handler runs soon in a main thread that waits."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    Script,
    poll,
    state_of,
    stopped,
)

from fastmgr import SyncManager, managers
from fastmgr.dialects import transport

LIMIT = 20.0  # by when who has heard of no signal is woken in another way


class Handled(BaseException):
    """What the handler raises."""


def main_thread_sleeps() -> bool:
    """Seen asleep several times in a row."""
    stat = Path(f"/proc/self/task/{os.getpid()}/stat")
    for _ in range(6):
        if stat.exists() and state_of(stat) != "S":
            return False
        time.sleep(0.02)
    return True


@contextlib.contextmanager
def taken_by_another_thread(wake: Callable[[], object] = int) -> Iterator[None]:
    """Expect that a handler runs in the block, though another thread takes the signal.

    `wake` is called, much later, to end the wait in which no handler ran.
    """
    over = threading.Event()
    handled = []

    def handle(number: int, frame: FrameType | None) -> None:
        handled.append(not over.is_set())
        raise Handled

    def take() -> None:
        poll(lambda: over.is_set() or main_thread_sleeps(), "the main thread waits")
        if not over.is_set():
            signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
            if not over.wait(LIMIT):
                over.set()
                wake()

    before = signal.signal(signal.SIGUSR1, handle)
    thread = threading.Thread(target=take)
    try:
        with contextlib.suppress(Handled):
            thread.start()
            yield
        assert handled == [True]
    finally:
        over.set()
        thread.join(DEADLINE)
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("serializer", ["pickle", "xmlrpclib"])
@pytest.mark.parametrize("arena", [True, False])
def test_a_call_that_waits(serializer: str, arena: bool) -> None:
    with ProbeManager(serializer=serializer, arena=arena) as manager:
        event = manager.Event()
        with taken_by_another_thread(event.set):
            event.wait()
        event.set()
        assert event.wait()


def test_a_call_of_a_users_class(manager: ProbeManager) -> None:
    with taken_by_another_thread():
        manager.Sleeper().slow(LIMIT + 5, None)
    assert manager.Sleeper().echo(1) == 1


def test_a_pipeline(manager: ProbeManager) -> None:
    event = manager.Event()
    pipe = manager.pipeline()
    pipe(event).wait()
    with taken_by_another_thread(event.set):
        pipe.execute()


def test_a_request_that_the_server_does_not_read() -> None:
    with ProbeManager() as manager:
        values = manager.list()
        with stopped(manager._process.pid), taken_by_another_thread(manager._process.kill):
            values.append(b"x" * 10_000_000)


def test_a_pipeline_that_the_server_does_not_read() -> None:
    with ProbeManager() as manager:
        pipe = manager.pipeline()
        values = pipe(manager.list())
        for _ in range(100):
            values.append("x" * 50_000)
        with stopped(manager._process.pid), taken_by_another_thread(manager._process.kill):
            pipe.execute()


def test_connecting_to_a_silent_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, taken_by_another_thread():
        SyncManager(silent.getsockname(), KEY).connect()


def test_connecting_to_a_server_that_accepts_no_more(tmp_path: Any) -> None:
    path = str(tmp_path / "socket")
    with transport.Listener(path, 0), contextlib.ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(path)
        with taken_by_another_thread():
            SyncManager(path, KEY).connect()


def wait_for_the_end(path: str) -> None:
    while os.path.exists(path):
        time.sleep(0.05)


def test_starting_with_an_initializer_that_takes_long(tmp_path: Any) -> None:
    note = tmp_path / "note"
    note.touch()
    manager = SyncManager()
    try:
        with taken_by_another_thread(note.unlink):
            manager.start(wait_for_the_end, (str(note),))
    finally:
        manager._process.kill()
        manager.join()


@pytest.mark.parametrize("timeout", [None, 3 * LIMIT])
def test_waiting_for_the_servers_end(timeout: float | None) -> None:
    with SyncManager() as manager, taken_by_another_thread(manager._process.kill):
        manager.join(timeout)


def test_shutting_down_a_server_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers, "ANSWER_TIMEOUT", 3 * LIMIT)
    manager = SyncManager()
    manager.start()
    server = manager._process
    try:
        with stopped(server.pid), taken_by_another_thread(server.kill):
            manager.shutdown()
    finally:
        server.kill()
        server.join()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(manager.address)


def serve() -> str:
    """Serve in the main thread; a signal is taken by another."""
    server = SyncManager(authkey=KEY).get_server()
    try:
        with taken_by_another_thread(server.stop_event.set), contextlib.suppress(SystemExit):
            server.serve_forever()
    except BaseException as error:
        return repr(error)
    return "handled"


def test_serving() -> None:
    with Script(serve) as script:
        assert script.line() == "handled"
