"""The reference table: one object, one ident, one count; and idents that mean one object ever."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Iterator

import pytest

from fastmgr._table import Entry, Table, key_of


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
    assert table.session_count == 0
