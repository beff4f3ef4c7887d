"""What a service reports, and sockets that are passed to it."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import DEADLINE
from support.services import service

import fastmgr
from fastmgr.cli.systemd import passed_listener, report, wants_signs_of_life


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[socket.socket]:
    """A socket that systemd would have opened."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "socket"))
        os.chmod(tmp_path / "socket", 0o600)
        sock.listen()
        yield sock


@pytest.mark.parametrize("name", ["{folder}/notify", "@fastmgr {pid}"])
def test_reports(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = name.format(folder=tmp_path, pid=os.getpid())
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.settimeout(DEADLINE)
        try:
            sock.bind(name.replace("@", "\0"))
        except OSError:
            pytest.skip("abstract sockets are Linux's")
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        report("READY=1", "STATUS=serves")
        assert sock.recv(100) == b"READY=1\nSTATUS=serves"


@pytest.mark.parametrize("name", [None, "", "relative", "/no/such/socket"])
def test_nobody_wants_reports(name: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    if name is not None:
        monkeypatch.setenv("NOTIFY_SOCKET", name)
    report("READY=1")


def test_who_wants_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    for wanted, usec, pid in [
        (False, None, None), (True, "1000", None), (True, "1000", str(os.getpid())),
        (False, "1000", "1"), (False, "often", None),
    ]:  # fmt: skip
        for name, value in (("WATCHDOG_USEC", usec), ("WATCHDOG_PID", pid)):
            monkeypatch.delenv(name, raising=False)
            if value is not None:
                monkeypatch.setenv(name, value)
        assert wants_signs_of_life() is wanted


def test_server_on_a_passed_socket(listening: socket.socket) -> None:
    path = listening.getsockname()
    for number in (1, 2):  # the socket outlives the first server
        with service(passes=listening) as served:
            assert served.logged("serves")["address"] == path
            manager = fastmgr.SyncManager.from_address(path, authkey=b"")
            assert manager.list([number])[0] == number
            served.process.terminate()
            assert served.ends() == 0
            assert stat.S_ISSOCK(os.stat(path).st_mode)


def test_clients_wait_while_the_server_is_restarted(listening: socket.socket) -> None:
    with socket.socket(socket.AF_UNIX) as early:
        early.settimeout(DEADLINE)
        early.connect(listening.getsockname())
        with service(passes=listening):
            assert b"#CHALLENGE#" in early.recv(100)


def refusal(sock: socket.socket, *words: str, passed: str = "1") -> str:
    with service(*words, passes=sock, env={"PASSED": passed}, ready=False) as served:
        assert served.ends() == 2
        served.reader.join(DEADLINE)
        return served.said()


def test_sockets_that_are_refused(listening: socket.socket, tmp_path: Path) -> None:
    assert "2 sockets were passed" in refusal(listening, passed="2")
    assert "leave one of the two" in refusal(listening, "--address", "127.0.0.1:0")
    assert "SocketMode=" in refusal(listening, "--mode", "600")
    os.chmod(tmp_path / "socket", 0o666)
    assert "a key is needed" in refusal(listening)
    with socket.socket(socket.AF_UNIX) as silent:
        assert "Accept=no" in refusal(silent)
    with socket.socket(socket.AF_INET) as public:
        public.bind(("0.0.0.0", 0))
        public.listen()
        assert "from other hosts" in refusal(public)
    with open(tmp_path / "file", "w") as file:
        assert "no socket" in refusal(file)  # type: ignore[arg-type]
    if socket.has_ipv6:
        with socket.socket(socket.AF_INET6) as newer:
            assert "IPv6" in refusal(newer)


def test_sockets_of_another_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    assert passed_listener() is None
    assert "LISTEN_FDS" not in os.environ
