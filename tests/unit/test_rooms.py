"""The rooms of the package: arrows run one way, and a client does without the server."""

from __future__ import annotations

import multiprocessing
import pickle
import runpy
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager, Script, call_in_subprocess

import fastmgr

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def rooms() -> dict[str, Any]:
    return runpy.run_path(str(DOCS / "rooms.py"))


def test_no_import_runs_back(rooms: dict[str, Any]) -> None:
    assert not rooms["backward"]()


def test_the_search_finds_imports_of_every_kind(rooms: dict[str, Any]) -> None:
    found = {(one.importer, one.imported) for one in rooms["imports"]()}
    assert {
        ("managers", "server.server"),  # in a function
        ("client.cells", "client.session"),  # a cimport
        ("link.stream", "memory.arena"),  # in a .pxd, too
        ("_core", "kinds.numbers"),  # a module by its package
    } <= found
    assert ("managers", "server.sharedmemory") not in found  # only for type checkers


def test_the_drawing_is_of_today(rooms: dict[str, Any]) -> None:
    """`make graph` draws it."""
    assert (DOCS / "rooms.svg").read_text() == rooms["draw"]()


def use_a_manager(address: Any) -> list[str]:
    manager = ProbeManager(address, KEY)
    manager.connect()
    assert manager.list([1])[0] == 1
    manager.Counter().incr()
    return [name for name in sys.modules if name.startswith(("fastmgr.server", "fastmgr._core"))]


def modules_of_what_only_a_server_needs() -> list[str]:
    from fastmgr.server import server, sharedmemory

    found = (server.Server, server.all_methods, server.public_methods)
    return [one.__module__ for one in (*found, sharedmemory.SharedMemoryServer)]


def test_users_see_names_that_they_can_import() -> None:
    """Whoever asks first, and in whichever room the thing lives."""
    assert set(call_in_subprocess(modules_of_what_only_a_server_needs)) == {"fastmgr.managers"}
    for name in fastmgr.__all__:
        thing = getattr(fastmgr, name)
        if isinstance(thing, (type, types.FunctionType)) and thing is not fastmgr.Value:
            assert thing.__module__.count(".") <= 1
    assert repr(fastmgr.OnewayError) == "<class 'fastmgr.OnewayError'>"
    assert pickle.loads(pickle.dumps(fastmgr.OnewayError)) is fastmgr.OnewayError


def start_a_manager(method: str) -> list[str]:
    with ProbeManager(authkey=KEY, ctx=multiprocessing.get_context(method)):
        return [name for name in sys.modules if name.startswith("fastmgr.server")]


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_who_forks_no_server_loads_none(method: str) -> None:
    with Script(start_a_manager, method) as script:
        assert script.line() == []


def test_a_client_loads_no_server() -> None:
    with ProbeManager(authkey=KEY) as manager, Script(use_a_manager, manager.address) as script:
        assert script.line() == []
