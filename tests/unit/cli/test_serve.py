"""What `fastmgr serve` serves, where it listens, and what it refuses."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, poll
from support.services import refused, service

import fastmgr
from fastmgr.cli.serve import owned

KEY = b"0123456789abcdef0123456789abcdef"
MANAGER = """
import fastmgr

class Greeter:
    def greet(self, name):
        return f"hello, {name}"

class ShopManager(fastmgr.SyncManager):
    pass

ShopManager.register("Greeter", Greeter)
"""


class ShopManager(fastmgr.SyncManager):
    """That of a client."""


ShopManager.register("Greeter")


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "socket")


@pytest.fixture
def key_file(tmp_path: Path) -> str:
    path = tmp_path / "key"
    path.touch(0o600)
    path.write_bytes(KEY + b"\n")
    return str(path)


def count(address: object, key: bytes) -> int:
    """How often this was called at an address."""
    manager = fastmgr.SyncManager.from_address(address, authkey=key)
    counter = manager.Counter(name="calls")
    counter.incr()
    return int(counter.value)


def test_named_objects_are_those_of_all_clients(path: str, key_file: str) -> None:
    with service("--address", path, "--authkey-file", key_file) as served:
        fact = served.logged("serves fastmgr:SyncManager at")
        assert (fact["address"], fact["version"]) == (path, fastmgr.__version__)
        assert [count(path, KEY) for _ in range(3)] == [1, 2, 3]
        with pytest.raises(AuthenticationError):
            count(path, b"another key")
        assert served.logged("connection refused")["level"] == "info"
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
        served.process.terminate()
        assert served.ends() == 0
        assert KEY.decode() not in served.said()
    assert not os.path.exists(path)


def test_users_managers(path: str, tmp_path: Path) -> None:
    (tmp_path / "shop.py").write_text(MANAGER)
    with service("--address", path, "--manager", "shop:ShopManager", cwd=tmp_path):
        manager: Any = ShopManager.from_address(path, authkey=b"")
        assert manager.Greeter().greet("world") == "hello, world"


def test_next_server_has_what_the_arena_keeps(path: str, tmp_path: Path) -> None:
    words = "--address", path, "--arena", str(tmp_path / "arena")
    for expected in (1, 2):
        with service(*words) as served:
            assert count(path, b"") == expected
            if expected == 1:
                assert "another server" in refused("--arena", words[-1], status=1)
            served.process.terminate()
            assert served.ends() == 0


@pytest.mark.parametrize("serializer", ["pickle", "xmlrpclib"])
def test_tcp_without_a_key_is_for_this_host_alone(serializer: str) -> None:
    with service("--address", "127.0.0.1:0", "--serializer", serializer) as served:
        assert "every user of this host" in served.logged("there is no key")["message"]
        host, _, port = served.logged("serves")["address"].partition(":")
        manager = fastmgr.SyncManager((host, int(port)), b"", serializer)
        manager.connect()
        assert manager.list([1])[0] == 1
    said = refused("--address", "0.0.0.0:0")
    assert "can be reached from other hosts" in said and "--authkey-file" in said
    assert "the host is not known" in refused("--address", "no.such.host.invalid:1")


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
def test_abstract_socket() -> None:
    name = f"fastmgr test {os.getpid()}"
    with service("--address", f"@{name}") as served:
        assert served.logged("serves")["address"] == f"@{name}"
        assert count(f"\0{name}", b"") == 1


def test_mode_and_group_of_the_socket(path: str) -> None:
    group = str([*os.getgroups(), os.getgid()][0])
    with service("--address", path, "--group", group):
        about = os.stat(path)
        assert (stat.S_IMODE(about.st_mode), about.st_gid) == (0o660, int(group))
    assert "every user of this host" in refused("--address", path, "--mode", "666")
    assert "Unix socket" in refused("--address", "127.0.0.1:0", "--mode", "600")
    assert "--address" in refused("--mode", "600")


def test_nobody_else_can_open_the_socket_before_it_has_its_mode(path: str) -> None:
    with owned(path, 0o666, None), socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o666


def test_place_in_the_folder_of_the_service(tmp_path: Path) -> None:
    with service(env={"RUNTIME_DIRECTORY": f"{tmp_path}:/elsewhere"}):
        assert count(str(tmp_path / "fastmgr.sock"), b"") == 1


def test_fresh_place() -> None:
    with service() as served:
        address = served.logged("serves")["address"]
        assert count(address, b"") == 1
        served.process.terminate()
        assert served.ends() == 0
    assert not os.path.exists(os.path.dirname(address))


def test_file_of_a_killed_server_is_taken_over_but_none_of_a_living(path: str) -> None:
    with service("--address", path) as served:
        served.process.kill()
        served.ends()
        assert os.path.exists(path)
    with service("--address", path) as served:
        said = refused("--address", path, status=1)
        assert f"in use: {path!r} (process {served.process.pid} listens there)" in said
        assert count(path, b"") == 1


def test_one_of_two_that_start_at_once_serves(path: str) -> None:
    with service("--address", path) as killed:
        killed.process.kill()
        killed.ends()
    words = "--address", path
    with service(*words, ready=False) as one, service(*words, ready=False) as other:
        both = [one, other]
        poll(lambda: any(each.process.poll() is not None for each in both), "one gives up")
        loser, winner = sorted(both, key=lambda each: each.process.poll() is None)
        assert loser.ends() == 1
        assert f"process {winner.process.pid} listens there" in loser.said()
        assert winner.reported()[0] == "READY=1"
        assert count(path, b"") == 1


REFUSALS = [
    (("--address", "valkey://localhost"), "clients speak to such a server directly"),
    (("--manager", "fastmgr"), "MODULE:CLASS"),
    (("--manager", "no_such_module:X"), "there is no module 'no_such_module'"),
    (("--manager", "fastmgr:Nothing"), "BaseManager, SyncManager"),
    (("--manager", "multiprocessing.managers:SyncManager"), "derive it from fastmgr's"),
    (("--serializer", "yaml"), "'pickle', 'xmlrpclib'"),
    (("--authkey-file", "/no/such/file"), "the key cannot be read"),
    (("--mode", "99"), "octal"),
    (("--group", "no such group"), "no such group"),
    (("--grace", "-1"), "seconds"),
    (("--address", "localhost"), "localhost: HOST:PORT is needed"),
    (("--nothing",), "usage: python -m fastmgr serve"),
]


@pytest.mark.parametrize(("words", "why"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_what_cannot_be_is_refused_in_a_sentence(words: tuple[str, ...], why: str) -> None:
    said = refused(*words)
    assert why in said and "Traceback" not in said


def test_file_whose_folder_is_missing() -> None:
    assert "there is no folder /no/such: make it" in refused(
        "--address", "/no/such/socket", status=1
    )
    assert "--log-file: No such" in refused("--log-file", "/no/such/file", status=1)


def test_error_of_the_managers_module_shows_where_it_is(tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text("import no_such_module\n")
    done = subprocess.run(
        [sys.executable, "-m", "fastmgr", "serve", "--manager", "broken:Manager"],
        capture_output=True, text=True, timeout=DEADLINE, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1 and "broken.py" in done.stderr


def test_managers_module_that_ends_the_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "program.py").write_text("raise SystemExit(0)\n")
    monkeypatch.chdir(tmp_path)
    assert "program ends the program where it is" in refused("--manager", "program:Manager")
