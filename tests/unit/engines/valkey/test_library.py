"""The library of functions: how a server gets it, and what of its state lives how long."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import valkeys
from support.valkeys import Cutter, Server

import fastmgr
from fastmgr.engines.valkey import library

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(params=valkeys.KINDS)
def server(request: pytest.FixtureRequest) -> Iterator[Server]:
    with valkeys.server(request.param, appendonly="yes") as server:
        yield server


@pytest.fixture
def session(server: Server) -> Any:
    manager = fastmgr.SyncManager(address=server.url(ns="library"))
    manager.connect()
    return manager._session


def hello(session: Any, name: bytes = b"a" * 16) -> bytes:
    return bytes(session.run([b"FCALL", b"fm1_hello", 0, name]))


def test_the_first_who_calls_brings_the_library(session: Any) -> None:
    assert hello(session) == hello(session)
    session.run([b"FUNCTION", b"FLUSH"])
    hello(session)
    library.load(session)  # another client was first


def test_another_text_of_the_version_is_replaced(session: Any) -> None:
    other = (
        f"#!lua name={library.NAME}\n"
        "redis.register_function('fm1_another', function() return 1 end)"
    )
    session.run([b"FUNCTION", b"LOAD", other])
    hello(session)
    assert session.run([b"FCALL", b"fm1_dead", 0]) == []


class Renaming(Cutter):
    """Has requests call the functions of the next version."""

    def pass_requests(self, client: socket.socket, to_server: socket.socket) -> None:
        while data := client.recv(65536):
            to_server.sendall(data.replace(b"fm1_", b"fm2_"))


@pytest.fixture
def next_version(server: Server, tmp_path: Path) -> Iterator[Renaming]:
    one = Renaming(server, str(tmp_path / "socket"))
    yield one
    one.close()


PROGRAM = """
import sys, fastmgr
from fastmgr.engines.valkey import library
library.VERSION = int(sys.argv[2])
library.NAME = f"fastmgr{library.VERSION}"
with fastmgr.SyncManager(address=sys.argv[1]) as manager:
    root = manager.Value("O", None, name="root")
    with manager.Lock():
        root.value = manager.dict(a=1)
    print(root.value.incr("a"), library.NAME)
"""


def use(path: str, ns: str, version: int) -> str:
    """Use objects in a process whose library has a version."""
    command = [sys.executable, "-c", PROGRAM, f"valkey+unix://{path}?ns={ns}", str(version)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.stdout or done.stderr


@pytest.mark.parametrize("order", [(1, 2), (2, 1)])
def test_two_versions_use_one_server(
    server: Server, next_version: Renaming, order: tuple[int, int]
) -> None:
    """Each in a namespace of its own: another version may keep objects in another way."""
    paths = {1: server.path, 2: next_version.path}
    for version in (*order, order[0]):
        assert use(paths[version], f"v{version}", version) == f"2 fastmgr{version}\n"
    for version, other in (order, order[::-1]):
        said = use(paths[other], f"v{version}", other)
        assert f"of version {version} of the functions" in said
        assert f"this fastmgr has version {other}: choose another namespace" in said


def test_what_the_functions_remember_ends_with_the_server(server: Server, session: Any) -> None:
    """By this a session knows whether the server has judged it meanwhile."""
    before = hello(session)
    dead, unknown = b"a" * 16, b"b" * 16
    judge = [b"FCALL", b"fm1_dead", 0, dead, unknown]
    assert session.run(judge) == [dead]  # it was seen here, and is not there any more
    server.kill()
    server.start()
    assert session.run(judge, True) == []  # nobody has been seen here yet
    assert hello(session) != before


def test_no_function_without_an_object(session: Any) -> None:
    with pytest.raises(fastmgr.RemoteError, match="is gone"):
        session.function(b"lock_acquire", b"{library:Lock-0}", b"a" * 16 + b"/1/1", b"1", b"L")
