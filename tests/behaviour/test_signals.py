"""A signal that another thread takes: its handler runs soon in a main thread that waits."""

from __future__ import annotations

import contextlib
import multiprocessing
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
    process_gone,
    sockets_to,
    state_of,
    stopped,
)

from fastmgr import SyncManager, basemanager, oneway
from fastmgr.link import sockets

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
def taken_by_another_thread(
    wake: Callable[[], object] = int, error: BaseException | None = None
) -> Iterator[None]:
    """Expect that a handler runs in the block, though another thread takes the signal.

    Where it raises `error`, that comes out of the block as it is.  `wake` is called, much later, to
    end the wait in which no handler ran.
    """
    over = threading.Event()
    handled = []

    def handle(number: int, frame: FrameType | None) -> None:
        handled.append(not over.is_set())
        raise error or Handled

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
        if error is None:
            with contextlib.suppress(Handled):
                thread.start()
                yield
        else:
            with pytest.raises(type(error)) as raised:
                thread.start()
                yield
            assert raised.value is error
        assert handled == [True]
    finally:
        over.set()
        thread.join(DEADLINE)
        signal.signal(signal.SIGUSR1, before)


class Overdue(TimeoutError):
    """As programs raise it in their alarms' handlers."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(what)
        self.code = code


def overdue() -> Overdue:
    return Overdue("mine", 3)


@pytest.fixture
def alone() -> Iterator[ProbeManager]:
    """A manager whose objects are held by the main thread's one connection."""
    with ProbeManager() as manager:
        yield manager


@pytest.mark.parametrize("mailed", [False, True])
@pytest.mark.parametrize("error", [OSError("a"), TimeoutError("b"), EOFError("c"), overdue()])
def test_a_handlers_error_is_not_the_connections(
    alone: ProbeManager, error: BaseException, mailed: bool
) -> None:
    kept, items = alone.dict(a=1), alone.Queue()
    for _ in range(100 if mailed else 1):
        kept["a"] += 1
    with taken_by_another_thread(lambda: items.put(0), error):
        items.get()
    assert kept["a"] > 1
    items.put(1)
    assert items.get(timeout=DEADLINE) == 1


@pytest.mark.parametrize("serializer", ["pickle", "xmlrpclib"])
def test_a_handlers_error_is_no_lost_connection_of_the_stdlibs_dialect(
    serializer: str,
) -> None:
    with ProbeManager(serializer=serializer) as manager:
        kept, items = manager.list([1]), manager.Queue()
        with taken_by_another_thread(lambda: items.put(0), overdue()):
            items.get()
        begun = time.monotonic()
        with stopped(manager._process.pid), taken_by_another_thread(error=overdue()):
            kept.append("x" * 10_000_000)
        assert time.monotonic() - begun < sockets.HANDSHAKE_TIMEOUT, "it waits for the server"
        assert len(kept) in (1, 2)


def test_a_condition_interrupted_over_a_second_connection_has_its_lock_again(
    alone: ProbeManager,
) -> None:
    condition, called, over = alone.Condition(), threading.Event(), threading.Event()
    condition.acquire()
    with contextlib.ExitStack() as stack:
        mine = [stack.enter_context(sock.dup()) for sock in sockets_to(alone.address)]

        def keep_the_session() -> None:
            condition.locked()
            called.set()
            over.wait(DEADLINE)

        other = threading.Thread(target=keep_the_session)
        other.start()
        assert called.wait(DEADLINE)
        for sock in mine:
            sock.shutdown(socket.SHUT_RDWR)
    try:
        with taken_by_another_thread(error=overdue()):
            condition.wait(LIMIT)
        condition.release()
    finally:
        over.set()
        other.join(DEADLINE)


@pytest.mark.parametrize("error", [overdue(), EOFError("mine"), TypeError("mine")])
def test_a_handlers_error_while_a_condition_takes_its_lock_again(
    alone: ProbeManager, error: BaseException
) -> None:
    condition, taken, over = alone.Condition(), threading.Event(), threading.Event()

    def hold() -> None:
        with condition:
            taken.set()
            over.wait(DEADLINE)

    def handle(number: int, frame: FrameType | None) -> None:
        over.set()
        raise error

    def interrupt() -> None:
        poll(main_thread_sleeps, "the main thread waits")
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)  # type: ignore[arg-type]

    before = signal.signal(signal.SIGUSR1, handle)
    threads = [threading.Thread(target=hold), threading.Thread(target=interrupt)]
    threads[0].start()
    try:
        assert taken.wait(DEADLINE)
        threads[1].start()
        with pytest.raises(type(error)) as raised:
            condition._own_again()
    finally:
        over.set()
        for thread in threads:
            thread.join(DEADLINE)
        signal.signal(signal.SIGUSR1, before)
    assert raised.value is error
    condition.release()  # it was taken all the same


def test_a_handlers_error_in_a_pipeline(alone: ProbeManager) -> None:
    kept, items = alone.list([1]), alone.Queue()
    pipe = alone.pipeline()
    pipe(items).get()
    with taken_by_another_thread(lambda: items.put(0), overdue()):
        pipe.execute()
    with stopped(alone._process.pid), taken_by_another_thread(error=overdue()):
        for _ in range(100):
            pipe(kept).append("x" * 50_000)
        pipe.execute()
    assert kept[0] == 1


@pytest.mark.parametrize("one_way", [False, True])
def test_a_handlers_error_while_a_request_is_sent(alone: ProbeManager, one_way: bool) -> None:
    kept = alone.list([1])
    target = oneway(kept) if one_way else kept
    with stopped(alone._process.pid), taken_by_another_thread(error=overdue()):
        target.append(b"x" * 10_000_000)
    assert kept[:] == [1]


def test_a_handlers_error_while_memory_is_mapped(alone: ProbeManager) -> None:
    counter = alone.Counter(1)
    with stopped(alone._process.pid), taken_by_another_thread(error=overdue()):
        counter.incr()
    assert counter.get() == 1


def test_a_handlers_error_while_a_thread_connects() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = silent.getsockname()
        with taken_by_another_thread(error=overdue()):
            SyncManager(address, KEY).connect()
        accepted, _ = silent.accept()
        with accepted:
            accepted.sendall(b"HT")
            with taken_by_another_thread(error=overdue()):
                SyncManager(address, KEY).connect()


def test_a_handlers_error_while_a_server_starts(tmp_path: Any) -> None:
    note = tmp_path / "note"
    note.touch()
    manager = SyncManager()
    try:
        with taken_by_another_thread(note.unlink, EOFError("mine")):
            manager.start(wait_for_the_end, (str(note),))
    finally:
        manager._process.kill()
        manager.join()


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
    with sockets.Listener(path, 0), contextlib.ExitStack() as stack:
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
    monkeypatch.setattr(basemanager, "ANSWER_TIMEOUT", 3 * LIMIT)
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


def interrupt(what: str) -> int | None:
    """Have a handler raise while the main thread starts or shuts down a manager."""
    manager = SyncManager()
    if what == "start":
        with taken_by_another_thread():
            manager.start(stand_still)
    else:
        manager.start()
        os.kill(manager._process.pid, signal.SIGSTOP)  # for good: what it is told to do waits
        with taken_by_another_thread():
            manager.shutdown()
    pid: int | None = manager._process.pid
    return pid


def stand_still() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


@pytest.mark.parametrize("what", ["start", "shutdown"])
def test_interrupted_program_leaves_no_server_and_ends(what: str) -> None:
    """Its end waits for its processes, and a server that nobody shuts down does not end."""
    with Script(interrupt, what) as script:
        server = script.line()
        script.finish()
        poll(lambda: process_gone(server), "the server has ended")


def interrupt_a_fork() -> int:
    """A handler raises when the process is there and `start` has not heard of it yet."""
    pids: list[int] = []
    fork = os.fork

    def fork_and_raise() -> int:
        pids.append(fork())
        if pids[-1]:
            raise Handled
        return 0

    os.fork = fork_and_raise
    with contextlib.suppress(Handled):
        SyncManager(ctx=multiprocessing.get_context("fork")).start()
    os.fork = fork
    assert os.waitpid(pids[0], 0) == (pids[0], 1 << 8)
    return pids[0]


def test_a_server_that_nobody_knows_of_ends() -> None:
    with Script(interrupt_a_fork) as script:
        assert process_gone(script.line())


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
