"""A server that signals end: in order, in time, at once; and what becomes of its log."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, poll, process_gone
from support.services import COMMAND, service

import fastmgr

MANAGER = """
import atexit, os, signal, threading, time
import fastmgr

class Slow:
    def work(self, path, seconds):
        open(path, "w").close()
        end = time.monotonic() + seconds
        while os.path.exists(path) and time.monotonic() < end:
            time.sleep(0.01)
        return "done"

    def child(self):
        pid = os.fork()
        if pid == 0:
            while True:
                signal.pause()
        return pid

    def leave_a_thread(self):
        threading.Thread(target=time.sleep, args=(100,), daemon=False).start()

class SlowManager(fastmgr.SyncManager):
    pass

SlowManager.register("Slow", Slow)
atexit.register(print, "finalizers have run", flush=True)
"""


class SlowManager(fastmgr.SyncManager):
    """That of a client."""


SlowManager.register("Slow")


@pytest.fixture
def words(tmp_path: Path) -> tuple[str, ...]:
    """What `fastmgr serve` is told."""
    (tmp_path / "slow.py").write_text(MANAGER)
    return "--address", str(tmp_path / "socket"), "--manager", "slow:SlowManager"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor() as pool:
        yield pool


def connected(folder: Path) -> Any:
    return SlowManager.from_address(str(folder / "socket"), authkey=b"")


def begin(folder: Path, pool: ThreadPoolExecutor, seconds: float = 100.0) -> Future[str]:
    """Begin a call that ends when the file `under way` goes, or after so long."""
    slow, path = connected(folder).Slow(), folder / "under way"
    call = pool.submit(slow.work, str(path), seconds)
    poll(path.exists, "the call is under way")
    return call


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_server_in_order(
    words: tuple[str, ...], tmp_path: Path, pool: ThreadPoolExecutor, number: int,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    with service(*words, "--grace", str(DEADLINE), cwd=tmp_path) as served:
        call = begin(tmp_path, pool)
        served.process.send_signal(number)
        assert served.reported()[0] == "STOPPING=1"
        poll(lambda: not (tmp_path / "socket").exists(), "it listens no more")
        (tmp_path / "under way").unlink()
        assert call.result(DEADLINE) == "done"
        assert served.ends() == 0
        served.logged(f"{signal.Signals(number).name}: the server stops")
        served.logged("the server has ended")
    assert "finalizers have run" in capfd.readouterr().out


def test_call_that_does_not_end_is_cut_off(
    words: tuple[str, ...], tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with service(*words, "--grace", "0.2", cwd=tmp_path) as served:
        call = begin(tmp_path, pool)
        served.process.terminate()
        with pytest.raises((EOFError, OSError)):
            call.result(DEADLINE)
        assert served.ends() == 0


def test_thread_of_users_does_not_keep_the_process(words: tuple[str, ...], tmp_path: Path) -> None:
    with service(*words, "--grace", "0.5", cwd=tmp_path) as served:
        connected(tmp_path).Slow().leave_a_thread()
        served.process.terminate()
        assert served.ends() == 0
        served.logged("has not ended within 0.5 s")


def test_second_signal_ends_the_server_at_once(
    words: tuple[str, ...], tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    with service(*words, "--grace", "1000", cwd=tmp_path) as served:
        call = begin(tmp_path, pool)
        served.process.terminate()
        assert served.reported()[0] == "STOPPING=1"
        served.process.send_signal(signal.SIGINT)
        assert served.ends() == 128 + signal.SIGINT
        with pytest.raises((EOFError, OSError)):
            call.result(DEADLINE)


def test_shutdown_by_a_client(words: tuple[str, ...], tmp_path: Path) -> None:
    with service(*words, cwd=tmp_path) as served:
        manager = connected(tmp_path)
        manager._session.control("shutdown")
        assert served.reported()[0] == "STOPPING=1"
        assert served.ends() == 0
        served.logged("a client has asked for it")


def test_signal_to_a_child_is_not_the_servers(words: tuple[str, ...], tmp_path: Path) -> None:
    """As a `Pool` terminates its workers, which the server has forked."""
    with service(*words, cwd=tmp_path) as served:
        slow = connected(tmp_path).Slow()
        pid = slow.child()
        os.kill(pid, signal.SIGINT)  # Ctrl-C is the server's
        os.kill(pid, signal.SIGTERM)
        poll(lambda: process_gone(pid), "the child has ended")
        served.process.send_signal(signal.SIGHUP)
        served.logged("SIGHUP")
        assert "SIGTERM" not in served.said()
        connected(tmp_path).Slow()


def test_log_file_that_is_rotated(tmp_path: Path) -> None:
    log, old = tmp_path / "log", tmp_path / "log.1"
    path = str(tmp_path / "socket")
    with service("--address", path, "--log-file", str(log), "--log-format", "text") as served:
        log.rename(old)
        served.process.send_signal(signal.SIGHUP)
        poll(log.exists, "the file is there again")
        served.process.terminate()
        assert served.ends() == 0
    first, rest = old.read_text(), log.read_text()
    assert f"INFO fastmgr {fastmgr.__version__} serves fastmgr:SyncManager at {path}" in first
    assert "SIGHUP" in rest and "the server has ended" in rest and "serves" not in rest


def test_log_whose_folder_goes_away(tmp_path: Path) -> None:
    """The server serves on, and the log goes to standard error until there is a file again."""
    folder, path = tmp_path / "logs", str(tmp_path / "socket")
    folder.mkdir()
    with service("--address", path, "--log-file", str(folder / "log")) as served:
        shutil.rmtree(folder)
        served.process.send_signal(signal.SIGHUP)
        assert "No such file" in served.logged("SIGHUP: the log cannot be opened")["message"]
        with pytest.raises(AuthenticationError):
            fastmgr.SyncManager.from_address(path, authkey=b"wrong")
        served.logged("connection refused")
        assert fastmgr.SyncManager.from_address(path, authkey=b"").list([1])[0] == 1
        folder.mkdir()
        served.process.terminate()
        assert served.ends() == 0
    assert "the server has ended" in (folder / "log").read_text()


def test_standard_streams_that_are_closed(tmp_path: Path) -> None:
    """No socket, and not the signals' pipe, gets the number of one: what is printed is lost."""
    command = ["sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *COMMAND, "serve"]
    path = str(tmp_path / "socket")
    with service("--address", path, command=command) as served:
        assert fastmgr.SyncManager.from_address(path, authkey=b"").list([1])[0] == 1
        if sys.platform == "linux":
            fds = f"/proc/{served.process.pid}/fd"
            assert [os.readlink(f"{fds}/{fd}") for fd in range(3)] == ["/dev/null"] * 3
        served.process.terminate()
        assert served.ends() == 0


def test_hangup_of_a_terminal_does_not_end_the_server(
    words: tuple[str, ...], tmp_path: Path
) -> None:
    with service(*words, cwd=tmp_path) as served:
        served.process.send_signal(signal.SIGHUP)
        served.logged("SIGHUP")
        connected(tmp_path).Slow()


def test_signs_of_life(tmp_path: Path) -> None:
    """They come from the loop, which is what clients wait for."""
    words = "--address", str(tmp_path / "socket")
    with service(*words, env={"WATCHDOG_USEC": "3000000"}) as served:
        assert [served.reported() for _ in range(2)] == [["WATCHDOG=1"], ["WATCHDOG=1"]]


def test_signals_while_many_call(words: tuple[str, ...], tmp_path: Path) -> None:
    """Whoever is cut off is told so: nobody waits for ever, and the server ends in order."""
    failures: list[BaseException] = []

    def call() -> None:
        try:
            d = connected(tmp_path).dict(n=0)
            while True:
                d["n"] += 1
        except (EOFError, OSError) as error:
            failures.append(error)

    with service(*words, cwd=tmp_path) as served:
        threads = [threading.Thread(target=call, daemon=True) for _ in range(4)]
        for thread in threads:
            thread.start()
        poll(lambda: connected(tmp_path)._number_of_objects() >= 4, "all of them call")
        served.process.terminate()
        assert served.ends() == 0
        for thread in threads:
            thread.join(DEADLINE)
        assert len(failures) == 4
