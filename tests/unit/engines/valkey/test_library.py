"""The library of functions: how a server gets it, and what of its state lives how long."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support import valkeys
from support.valkeys import Server

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
