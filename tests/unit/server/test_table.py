"""The reference table: one object, one ident, one count; and idents that mean one object ever."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import random
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any, ClassVar

import pytest
from support import DEADLINE, KEY, FastPeer, ProbeManager, poll, settle
from support.frames import OP_INCREF, OP_RELEASE, OP_RETURN, OP_TRACEBACK
from support.servers import TableServer, hooked, told

from fastmgr import managers
from fastmgr.link.introduction import SESSION_ID_SIZE
from fastmgr.server.server import Server
from fastmgr.server.table import Entry, Table, key_of


class Thing:
    """Something that can be watched as it goes."""


@pytest.fixture
def table() -> Table:
    return Table()


def share(table: Table, obj: object, **attributes: object) -> Entry:
    given = {"exposed": {"append"}, "method_to_typeid": None, "known": False} | attributes
    return table.add(obj, given["exposed"], given["method_to_typeid"], bool(given["known"]))


@pytest.fixture
def gc_disabled() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


# Idents


@pytest.mark.parametrize(
    ("ident", "key"),
    [
        ("ff", 255),
        ("7fffffff00000001", 0x7FFFFFFF00000001),
        (255, 255),
        ("0", 0),
        # None of these is how a handle is spelled, so they are other objects' names.
        ("FF", "FF"),
        ("0ff", "0ff"),
        ("0xff", "0xff"),
        (" ff", " ff"),
        ("f_f", "f_f"),
        ("", ""),
        ("name", "name"),
        ("\u0661", "\u0661"),
        (None, None),
    ],
)
def test_key_of(ident: object, key: object) -> None:
    assert key_of(ident) == key
    assert type(key_of(ident)) is type(key)


def test_ident_is_the_handle_in_hex(table: Table) -> None:
    entry = share(table, [])
    assert entry.ident == f"{entry.key:x}"
    assert key_of(entry.ident) == entry.key
    assert table.lookup(entry.ident) is entry
    assert table.lookup(entry.key) is entry


def test_handles_are_never_used_again(table: Table) -> None:
    seen = set()
    for _ in range(500):
        entry = share(table, Thing())  # its address is used again at once
        assert entry.key not in seen
        seen.add(entry.key)
        assert table.release(entry.key) is entry
        with pytest.raises(KeyError):
            table.lookup(entry.ident)
    assert not table.entries


def test_handle_of_another_table_means_nothing() -> None:
    tables = [Table() for _ in range(8)]
    handles = [share(table, []).key for table in tables]
    assert len(set(handles)) == 8
    assert all(0 < handle < 2**63 for handle in handles)
    with pytest.raises(KeyError):
        tables[0].lookup(handles[1])


def test_object_that_comes_back_gets_a_new_ident(table: Table) -> None:
    obj = Thing()
    first = share(table, obj).ident
    table.release(first)
    assert share(table, obj).ident != first


# Counting


def test_one_object_has_one_ident_and_one_count(table: Table) -> None:
    obj: list[int] = []
    first = share(table, obj, exposed={"a"})
    second = share(table, obj, exposed={"b"}, method_to_typeid={"b": "list"})
    assert second is first
    assert first.refcount == 2
    assert first.exposed == {"b"}
    assert first.method_to_typeid == {"b": "list"}
    assert len(table.entries) == 1
    assert share(table, []) is not first  # equal is not the same
    assert table.release(first.ident) is None
    assert table.release(first.ident) is first


def test_an_entry_is_known_while_everybody_says_so(table: Table) -> None:
    obj: list[int] = []
    assert share(table, obj, known=True).known
    assert share(table, obj, known=True).known
    assert not share(table, obj, known=False).known
    assert not share(table, obj, known=True).known
    assert not share(table, Thing(), known=True).known  # a class that nobody knows


def test_subclasses_of_known_types_are_not_known(table: Table) -> None:
    class Row(list):  # type: ignore[type-arg]
        pass

    assert not share(table, Row(), known=True).known


@pytest.mark.parametrize(
    ("obj", "pins"),
    [
        ([], False),
        (threading.Lock(), False),
        (threading.Event(), False),
        (threading.RLock(), True),
        (threading.Condition(), True),
        (Thing(), True),
    ],
)
def test_what_a_thread_may_own_pins(table: Table, obj: object, pins: bool) -> None:
    assert share(table, obj).pins is pins


def test_counts(table: Table) -> None:
    entry = share(table, [])
    table.retain(entry.ident)
    table.retain(entry.key, 5)
    assert entry.refcount == 7
    assert table.release(entry.key, 6) is None
    assert entry.refcount == 1
    assert table.release(entry.ident) is entry
    for gone in (table.retain, table.release, table.lookup, table.stash, table.remove):
        with pytest.raises(KeyError):
            gone(entry.ident)


def test_more_cannot_be_returned_than_was_taken(table: Table) -> None:
    entry = share(table, [])
    with pytest.raises(AssertionError, match=rf"{entry.ident}.*refcount 1"):
        table.release(entry.ident, 2)
    assert entry.refcount == 1
    assert table.lookup(entry.ident) is entry


@pytest.mark.parametrize("ident", ["never", "123", 123, None])
def test_unknown_idents(table: Table, ident: object) -> None:
    for use in (table.retain, table.release, table.lookup, table.stash, table.remove):
        with pytest.raises(KeyError):
            use(ident)


def test_released_object_is_the_callers_to_drop(table: Table) -> None:
    obj = Thing()
    gone = weakref.ref(obj)
    ident = share(table, obj).ident
    del obj
    entry = table.release(ident)
    assert entry is not None
    assert gone() is entry.obj
    del entry
    assert gone() is None


def test_counts_are_exact_with_threads(table: Table) -> None:
    obj: list[int] = []
    anchor = share(table, obj)
    barrier = threading.Barrier(8)

    def work() -> None:
        barrier.wait()
        for _ in range(500):
            entry = share(table, obj)
            table.retain(entry.key, 2)
            table.release(entry.ident, 3)
            other = share(table, [])
            table.release(other.key)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert anchor.refcount == 1
    assert list(table.entries) == [anchor.key]


# Idents that users chose


def test_place_and_remove(table: Table) -> None:
    obj = Thing()
    entry = table.place("mine", obj, {"x"}, {"x": "list"})
    assert (entry.ident, entry.key, entry.obj, entry.refcount) == ("mine", "mine", obj, 0)
    assert (entry.exposed, entry.method_to_typeid) == ({"x"}, {"x": "list"})
    assert not entry.known
    table.retain("mine", 2)
    assert table.release("mine") is None
    assert table.remove("mine") is entry
    with pytest.raises(KeyError):
        table.lookup("mine")


def test_place_over_an_entry_keeps_the_count(table: Table) -> None:
    table.place("mine", Thing(), (), None)
    table.retain("mine", 3)
    replacement = Thing()
    assert table.place("mine", replacement, (), None).refcount == 3
    assert table.lookup("mine").obj is replacement
    assert len(table.entries) == 1


def test_placed_object_is_shared_by_its_ident(table: Table) -> None:
    obj = Thing()
    placed = table.place("mine", obj, (), None)
    assert share(table, obj) is placed


def test_place_by_address_as_the_stdlib_does(table: Table) -> None:
    obj = Thing()
    ident = f"{id(obj):x}"
    entry = table.place(ident, obj, (), None)
    assert (entry.ident, entry.key) == (ident, id(obj))
    assert table.lookup(ident) is entry


# What proxies in the server hold


def test_stashed_entry_lives_as_long_as_its_holder(table: Table) -> None:
    obj = Thing()
    gone = weakref.ref(obj)
    ident = share(table, obj).ident
    del obj
    holder: Entry | None = table.stash(ident)
    assert table.release(ident) is holder
    assert table.lookup(ident) is holder  # no client holds it, but it can be used
    assert not table.entries
    holder = None
    assert gone() is None
    assert not table.local
    with pytest.raises(KeyError):
        table.lookup(ident)


def test_stashed_entry_can_be_held_by_clients_again(table: Table) -> None:
    ident = share(table, Thing()).ident
    holder: Entry | None = table.stash(ident)
    table.release(ident)
    assert table.release(ident) is None  # nothing is counted, nothing happens
    table.retain(ident, 2)
    assert table.lookup(ident).refcount == 2
    holder = None
    assert table.release(ident) is None
    assert table.release(ident) is not None
    with pytest.raises(KeyError):
        table.lookup(ident)
    del holder


def test_sharing_a_stashed_object_again_keeps_its_ident(table: Table) -> None:
    obj = Thing()
    ident = share(table, obj).ident
    holder = table.stash(ident)
    table.release(ident)
    assert share(table, obj) is holder
    assert holder.ident == ident
    assert holder.refcount == 1
    assert list(table.entries) == [holder.key]


def test_cycles_are_collected(table: Table, gc_disabled: None) -> None:
    """A list that holds itself, by the entry that a proxy in it holds."""
    obj: list[object] = [thing := Thing()]
    gone = weakref.ref(thing)
    del thing
    ident = share(table, obj).ident
    obj.append(table.stash(ident))
    del obj
    table.release(ident)
    assert table.lookup(ident).obj[0] is gone()
    gc.collect()
    assert gone() is None
    with pytest.raises(KeyError):
        table.lookup(ident)


def test_no_session_without_a_client(table: Table) -> None:
    share(table, [])
    assert table.sessions == {}


class TableManager(ProbeManager):
    _Server = TableServer


def held_up(moment: int, what: Any, another: Any, handle: int) -> list[Entry]:
    """Share one, and the other at that moment among those where the table runs Python code."""
    table = Table()
    # No variable of this frame: CPython 3.10 resets those after each call of a profile function.
    moments = itertools.count(-moment)
    entries: list[Entry] = []

    def share_another(*_event: object) -> None:
        if next(moments) == 0:
            entries.append(table.add(another, ("a",), None, False, handle))

    sys.setprofile(share_another)
    try:
        entries.append(table.add(what, ("a",), None, False, handle))
    finally:
        sys.setprofile(None)
    return entries


def shared_at_once(what: Any, another: Any, handle: int = 0) -> Iterator[list[Entry]]:
    for moment in itertools.count():
        entries = held_up(moment, what, another, handle)
        if len(entries) < 2:
            assert moment > 2, "it was not held up"
            return
        yield entries


@pytest.mark.parametrize("handle", [0, 1 << 62 | 5])
def test_two_objects_that_are_shared_at_once_have_two_handles(handle: int) -> None:
    for entry, another in shared_at_once(Thing(), Thing(), handle):
        assert another.key != entry.key


@pytest.mark.parametrize("handle", [0, 1 << 62 | 5])
def test_one_object_that_is_shared_at_once_has_one_handle(handle: int) -> None:
    thing = Thing()
    for entry, another in shared_at_once(thing, thing, handle):
        assert another is entry
        assert entry.refcount == 2


@pytest.fixture(scope="module")
def table_manager() -> Iterator[TableManager]:
    with TableManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def peer(table_manager: TableManager) -> Iterator[FastPeer]:
    with FastPeer(table_manager.address) as peer:
        yield peer
    settle(table_manager, 0)


def release(peer: FastPeer, handle: int) -> None:
    peer.handles(OP_RELEASE, handle, 1)


def assert_gone(peer: FastPeer, handle: int) -> None:
    reply = peer.method(handle, "__len__")
    assert reply.op == OP_TRACEBACK
    assert f"KeyError: '{handle:x}: no such object" in reply.payload


def test_released_handles_are_never_served(peer: FastPeer) -> None:
    """Many at a time, so that they are many in each place of the cache."""
    rng = random.Random(2)
    living: dict[int, int] = {}
    dead: list[int] = []
    for i in range(1500):
        if not living or rng.random() < 0.55:
            size = i % 7
            living[peer.create("list", [None] * size)] = size
        else:
            handle = rng.choice(list(living))
            assert peer.method(handle, "__len__").payload == living.pop(handle)
            release(peer, handle)
            assert_gone(peer, handle)
            dead.append(handle)
        handle, size = rng.choice([*living.items(), (0, 0)])
        if handle:
            assert peer.method(handle, "__len__").payload == size
        if dead:
            assert_gone(peer, rng.choice(dead))
    assert peer.control("number_of_objects").payload == len(living)
    for handle in dead:
        assert_gone(peer, handle)
    for handle, size in living.items():
        assert peer.method(handle, "__len__").payload == size


def test_created_and_dropped_again_and_again(table_manager: TableManager) -> None:
    seen = set()
    for i in range(300):
        shared = table_manager.list([i])
        assert shared[0] == i
        ident = shared._token.id
        assert ident not in seen
        seen.add(ident)
        stale = managers.BaseProxy(shared._token, "pickle", authkey=KEY, incref=False)
        del shared
        with pytest.raises(managers.RemoteError, match=f"KeyError: '{ident}: no such object"):
            stale._callmethod("__len__")
    settle(table_manager, 0)


def test_handles_that_are_like_others(peer: FastPeer) -> None:
    """In the place where they are looked for first, or in all but the epoch."""
    handle = peer.create("list", [1, 2])
    for other in (handle + 64, handle - 64, handle ^ (1 << 40), handle & 63, handle & 0xFFFFFFFF):
        assert peer.method(handle, "__len__").payload == 2
        assert_gone(peer, other)
        assert_gone(peer, other)
        assert peer.method(handle, "__len__").payload == 2
    assert_gone(peer, 0)


def test_released_by_another_connection(peer: FastPeer, table_manager: TableManager) -> None:
    with FastPeer(table_manager.address) as other:
        handle = other.create("list", [1])
        assert peer.method(handle, "__len__").payload == 1
        assert other.method(handle, "__len__").payload == 1
        release(other, handle)
        assert other.control("dummy").op == OP_RETURN  # it has been served
        assert_gone(peer, handle)
        another = other.create("list", [1])
        assert peer.method(another, "__len__").payload == 1
    poll(lambda: peer.method(another, "__len__").op == OP_TRACEBACK, "its session has ended")
    assert_gone(peer, another)


def test_entries_that_are_replaced(peer: FastPeer) -> None:
    handle = peer.create("list", [1])
    ident = f"{handle:x}"
    for size in (2, 0, 5, 3):
        for _ in range(3):
            peer.method(handle, "__len__")
        told(peer, "put", ident, [None] * size)
        assert peer.method(handle, "__len__").payload == size
        reply = peer.method(handle, "copy")
        assert (reply.op, "not in exposed" in reply.payload) == (OP_TRACEBACK, True)
    release(peer, handle)
    assert_gone(peer, handle)


def test_entries_that_are_taken_out(peer: FastPeer) -> None:
    handle = peer.create("list", [1])
    ident = f"{handle:x}"
    assert peer.method(handle, "__len__").payload == 1
    told(peer, "take_out", ident)
    assert_gone(peer, handle)
    told(peer, "put", ident, [1, 2])
    assert peer.method(handle, "__len__").payload == 2
    told(peer, "take_out", ident)
    assert_gone(peer, handle)


def test_what_is_exposed_is_replaced(peer: FastPeer) -> None:
    handle = peer.create("list", [1])
    ident = f"{handle:x}"
    assert peer.method(handle, "copy").payload == [1]
    told(peer, "again", ident, ["__len__"])
    assert peer.method(handle, "copy").op == OP_TRACEBACK
    assert peer.method(handle, "__len__").payload == 1
    told(peer, "again", ident, ["copy"])
    assert peer.method(handle, "copy").payload == [1]
    assert peer.control("number_of_objects").payload == 1
    for _ in range(2):  # what was counted without a session
        told(peer, "decref", ident)
    release(peer, handle)
    assert_gone(peer, handle)


def test_what_only_the_server_holds(peer: FastPeer) -> None:
    """It is found, though no client holds it; until the server lets go of it."""
    handle = peer.create("list", [1])
    ident = f"{handle:x}"
    assert peer.method(handle, "__len__").payload == 1
    told(peer, "stash", ident)
    release(peer, handle)
    for _ in range(2):
        assert peer.method(handle, "__len__").payload == 1
    told(peer, "incref", ident)
    assert peer.method(handle, "pop").payload == 1
    told(peer, "forget")
    assert peer.method(handle, "__len__").payload == 0
    told(peer, "decref", ident)
    assert_gone(peer, handle)
    other = peer.create("list", [1])
    told(peer, "stash", f"{other:x}")
    release(peer, other)
    assert peer.method(other, "__len__").payload == 1
    told(peer, "forget")
    assert_gone(peer, other)


def test_with_many_threads(table_manager: TableManager) -> None:
    """Each creates and drops, and finds its own and nothing else's."""
    wrong: list[Any] = []

    def client(name: int) -> None:
        try:
            for i in range(150):
                shared = table_manager.list([name, i])
                if shared[:] != [name, i]:
                    wrong.append((name, i))
                stale = managers.BaseProxy(shared._token, "pickle", authkey=KEY, incref=False)
                del shared
                with contextlib.suppress(managers.RemoteError):
                    wrong.append(stale._callmethod("__len__"))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=client, args=(name,)) for name in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    settle(table_manager, 0)


def test_lock_taken_while_the_dead_ones_are_sorted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a client's other thread takes meanwhile is handed on when the client is killed."""
    session = os.urandom(SESSION_ID_SIZE)
    dead, asked, taken = set[int](), list[int](), list[bool]()
    get = weakref.WeakValueDictionary.get
    with hooked(Server) as manager, FastPeer(manager.address) as heir:
        lock = heir.create("Lock")
        with FastPeer(manager.address, session) as one, FastPeer(manager.address, session) as other:
            other.handles(OP_INCREF, lock)
            other.recv()

            def take_meanwhile(local: Any, key: Any, default: Any = None) -> Any:
                if key in dead and not asked:
                    asked.append(key)
                    taken.append(other.method(lock, "acquire").payload)
                return get(local, key, default)

            monkeypatch.setattr(weakref.WeakValueDictionary, "get", take_meanwhile)
            one.method(one.create("Sleeper"), "echo", 0)  # from now on it has a thread
            while not taken:
                handle = one.create("Lock")
                assert one.method(handle, "acquire").payload is True
                dead.add(handle)
                one.handles(OP_RELEASE, handle, 1)
                assert len(dead) < 2000
        assert taken == [True]
        assert heir.method(lock, "acquire", True, DEADLINE).payload is True


class AddingServer(TableServer):
    public: ClassVar[list[str]] = [*TableServer.public, "add_first"]

    def add_first(self, c: Any) -> None:
        self.table.add(self.stashed[0].obj, {"__len__"}, None, False)


class AddingManager(TableManager):
    _Server = AddingServer


def test_adding_over_an_entry_that_was_replaced() -> None:
    """`Table.add` replaces an entry without `forget_recent`: freed memory is used."""
    with AddingManager(authkey=KEY) as manager, FastPeer(manager.address) as peer:
        handle = peer.create("list", [1])
        told(peer, "stash", f"{handle:x}")
        told(peer, "put", f"{handle:x}", [1, 2])
        assert peer.method(handle, "__len__").payload == 2
        told(peer, "add_first")
        for _ in range(20):
            peer.create("list", [1] * 50)
            assert peer.method(handle, "__len__").payload == 1
