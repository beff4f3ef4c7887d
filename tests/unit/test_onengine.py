"""Managers whose address is an engine's, and the fastmgr server beside it for other types."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import pytest
from support import KEY, Script, in_thread, poll, settle
from support.processes import kill, process_gone, say
from support.valkeys import program, server
from support.waiting import DEADLINE

import fastmgr
from fastmgr import BaseManager, NotHosted, RemoteError, SyncManager
from fastmgr.managers import SharedMemoryManager

ADDRESS = "valkey+embedded://"


@pytest.fixture(autouse=True)
def needs_server() -> None:
    program("valkey")


class Journal:
    """A user's class."""

    initialized = False

    def __init__(self) -> None:
        self.notes: list[Any] = []

    def note(self, text: object) -> int:
        self.notes.append(text)
        return len(self.notes)

    def last(self) -> Any:
        return self.notes[-1]

    def count_in(self, counts: Any, key: str) -> None:
        counts.incr(key)

    def pid(self) -> int:
        return os.getpid()

    def is_initialized(self) -> bool:
        return Journal.initialized


def initialize(value: bool) -> None:
    Journal.initialized = value


class Both(SyncManager):
    """The built-in types on the engine, and a user's class and pools beside it."""

    Journal: Any


Both.register("Journal", Journal, engine="local")
Both.register("Pool", engine="local")


# -- what is where -----------------------------------------------------------------------


def test_a_class_of_ones_own_beside_the_engine() -> None:
    with Both(ADDRESS) as manager:
        journal, counts = manager.Journal(), manager.dict(a=1)
        assert (journal.note("one"), journal.note("two"), journal.last()) == (1, 2, "two")
        assert counts._token.address == manager.address != journal._token.address
        assert journal.pid() != os.getpid()
        assert manager._number_of_objects() == 2
        shown = manager._debug_info()
        assert "{'a': 1}" in shown and "Journal object" in shown
        del journal
        settle(manager, 1)


class Special(Both):
    """Has parameters of its own."""

    def __init__(self) -> None:
        super().__init__(ADDRESS)


def test_a_pool_beside_the_engine() -> None:
    with Special() as manager, manager.Pool(2) as pool:
        assert pool.map(abs, [-1, 2]) == [1, 2]
        assert list(pool.imap(abs, [-3])) == [3]


def test_objects_beside_the_engine_use_those_on_it() -> None:
    with Both(ADDRESS) as manager:
        journal, counts = manager.Journal(), manager.dict()
        counts["journal"] = journal
        counts["journal"].count_in(counts, "n")
        journal.note(counts)
        assert journal.last()["n"] == 1
        counts.clear()
        del counts
        gc.collect()
        assert journal.last().keys() == []  # who has noted it holds it


class Named(Both):
    """With counters beside the engine."""


Named.register("Counter", engine="local")


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_the_server_beside_the_engine_knows_the_password(method: str) -> None:
    with server() as one:
        one.ask("ACL", "SETUSER", "default", ">se:cret")
        address = one.url().replace("://", "://:se%3Acret@")
        context = multiprocessing.get_context(method)
        with Both(address, authkey=KEY, ctx=context) as manager:
            journal, counts = manager.Journal(), manager.dict()
            journal.count_in(counts, "n")
            journal.note(counts)
            assert journal.last()["n"] == 1


def test_names_are_the_engines_and_the_servers() -> None:
    with Named(ADDRESS) as manager:
        value, counter = manager.Value("i", 7, name="value"), manager.Counter(3, name="counter")
        assert (value.value, int(counter)) == (7, 3)
        assert sorted(manager.names()) == ["counter", "value"]
        assert [manager.forget(name) for name in ("counter", "value", "value")] == [1, 1, 0]
        assert manager.names() == []


# -- what cannot be ------------------------------------------------------------------------


def test_what_is_not_hosted_says_what_to_use() -> None:
    class Without(SyncManager):
        Journal: Any

    Without.register("Journal", Journal)
    Without.register("dict", Journal)  # which is not what the engine has under this name
    with Without(ADDRESS) as manager:
        for name in ("Journal", "Pool", "dict"):
            with pytest.raises(NotHosted, match=f'cannot host a {name}: with register.*engine="l'):
                getattr(manager, name)()
        assert manager.list([1])[:] == [1]
        assert issubclass(NotHosted, RemoteError)
        with pytest.raises(ValueError, match="no initializer can run there"):
            Without(ADDRESS).start(print)
    with SharedMemoryManager(ADDRESS) as memory:
        with pytest.raises(NotHosted, match="cannot host a SharedMemory: use a manager with no"):
            memory.SharedMemory(10)
        with pytest.raises(NotHosted, match="cannot host a ShareableList: use a manager with no"):
            memory.ShareableList([1])


def test_registering() -> None:
    class Mine(BaseManager):
        thing: Any

    with pytest.raises(ValueError, match=r"engine='remote': 'local' or None is needed"):
        Mine.register("thing", list, engine="remote")  # type: ignore[arg-type]
    Mine.register("thing", list, engine="local")

    class Derived(Mine):
        pass

    Derived.register("other", engine="local")
    assert (Mine._local_types, Derived._local_types) == ({"thing"}, {"thing", "other"})
    assert BaseManager._local_types == frozenset()
    before = Mine._registry["thing"]
    Derived.register("thing", engine="local")
    assert Derived._registry["thing"] == before
    Derived.register("thing", set)
    assert Derived._registry["thing"][0] is set
    assert Derived._local_types == {"other"}
    with Mine(ctx=multiprocessing.get_context("fork")) as manager:  # where it means nothing
        assert manager._beside is None
        assert manager.thing([1]).pop() == 1


# -- processes -----------------------------------------------------------------------------


def work(manager: Any, counts: Any) -> None:
    """Use a proxy that a dict has, and make an object where the manager makes them."""
    counts["notes"] = counts["journal"].note("from a child")
    counts["pid"] = manager.Journal().pid()


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_children_use_the_same_server(method: str) -> None:
    context = multiprocessing.get_context(method)
    with Both(ADDRESS, ctx=context, authkey=KEY) as manager:
        journal, counts = manager.Journal(), manager.dict()
        counts["journal"] = journal
        child = context.Process(target=work, args=(manager, counts))
        child.start()
        child.join(DEADLINE)
        assert child.exitcode == 0
        assert dict(counts.items(), journal=0) == {
            "journal": 0, "notes": 1, "pid": journal.pid()
        }  # fmt: skip
        assert journal.note("still there") == 2  # the child's end has ended nothing


def note_there(address: str) -> Any:
    counts = SyncManager.from_address(address, authkey=KEY).Value("O", None, name="shared").value
    return counts["journal"].note("from afar")


def test_a_stranger_with_the_key_uses_what_the_dict_has() -> None:
    with Both(ADDRESS, authkey=KEY) as manager:
        journal, named = manager.Journal(), manager.Value("O", None, name="shared")
        named.value = manager.dict(journal=journal)
        with Script(note_there, manager.address) as script:
            assert script.line() == 1
        assert journal.last() == "from afar"


def test_the_initializer_runs_beside_the_engine() -> None:
    manager = Both(ADDRESS)
    manager.start(initialize, (True,))
    with manager:
        assert manager.Journal().is_initialized()


def test_a_server_that_cannot_start_leaves_nothing() -> None:
    manager = Both(ADDRESS)
    with pytest.raises(EOFError, match="ended before it could serve"):
        manager.start(os._exit, (3,))
    assert not Path(manager.address.removeprefix(ADDRESS)).exists()
    with pytest.raises(AssertionError, match="not yet started"):
        manager.dict()


# -- the end -------------------------------------------------------------------------------


def test_shutdown_ends_both() -> None:
    manager = Both(ADDRESS)
    manager.start()
    pid = manager.Journal().pid()
    manager.shutdown()
    assert process_gone(pid)
    with pytest.raises(AssertionError, match="has been shut down"):
        manager.Journal()
    assert "shut down" in repr(manager)


def drop(manager: Any) -> None:
    """End a manager by dropping it."""
    del manager
    gc.collect()


@pytest.mark.parametrize("end", [lambda manager: manager.__exit__(None, None, None), drop])
def test_a_connected_manager_has_a_server_of_its_own(end: Callable[[Any], None]) -> None:
    with Both(ADDRESS) as first:
        before = set(multiprocessing.active_children())
        managers = [Both.from_address(first.address)]
        assert managers[0].dict(a=1)["a"] == 1
        assert set(multiprocessing.active_children()) == before  # not before it is needed
        journals = [managers[0].Journal()]
        pid = journals.pop().pid()
        assert pid != first.Journal().pid()
        end(managers.pop())
        poll(lambda: process_gone(pid), "the server has ended with its manager")
        assert first.Journal().note("still there") == 1


def test_a_manager_that_connects_again_has_another_server() -> None:
    with Both(ADDRESS) as first:
        manager = Both(first.address)
        pids = []
        for _ in range(2):
            manager.connect()
            with manager:
                pids.append(manager.Journal().pid())
            assert process_gone(pids[-1])
        assert pids[0] != pids[1] and first.dict(a=1)["a"] == 1


def test_threads_start_one_server() -> None:
    with Both(ADDRESS) as first:
        manager = Both.from_address(first.address)
        with ThreadPool(4) as threads:
            work = [threads.apply_async(lambda: manager.Journal().pid()) for _ in range(4)]
            assert len({one.get(DEADLINE) for one in work}) == 1


def own_both(address: str) -> None:
    manager = Both(address)
    if address == ADDRESS:
        manager.start()
    else:
        manager.connect()
    say([manager.address, manager.Journal().pid()])
    signal.pause()


@pytest.mark.parametrize("way", ["started", "connected"])
def test_nothing_is_left_of_a_killed_owner(way: str) -> None:
    with (
        Both(ADDRESS) as other,
        Script(own_both, other.address if way == "connected" else ADDRESS) as s,
    ):
        address, pid = s.line()
        kill(s.pid)
        poll(lambda: process_gone(pid), "the server beside the engine has ended")
        if way == "started":
            poll(lambda: not Path(address.removeprefix(ADDRESS)).exists(), "the engine's has, too")
        assert in_thread(lambda: other.Journal().note("still there")) == 1


def modules_of_a_manager_without_engine() -> bool:
    import sys

    with fastmgr.Manager() as manager:
        manager.dict()
    return "fastmgr.onengine" in sys.modules


def test_nothing_is_loaded_without_an_engine() -> None:
    with Script(modules_of_a_manager_without_engine) as script:
        assert script.line() is False
