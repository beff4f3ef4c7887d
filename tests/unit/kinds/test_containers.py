"""The rows of what holds values."""

from __future__ import annotations

import array
from collections.abc import Iterator
from multiprocessing import managers as stock
from typing import Any

import pytest

from fastmgr.kinds import containers, rows
from fastmgr.wire.opaque import Opaque

rows.fill_tables()


def test_a_namespace_shows_what_the_stdlibs_shows() -> None:
    ours, theirs = containers.Namespace(b=1, _c=2), stock.Namespace(b=1, _c=2)
    ours.a = theirs.a = "x"
    assert repr(ours) == repr(theirs) == "Namespace(a='x', b=1)"
    assert vars(ours) == vars(theirs)
    with pytest.raises(TypeError):
        containers.Namespace(1)  # type: ignore[misc]


def test_an_array_without_a_cell_is_the_interpreters() -> None:
    assert containers.Array("i", range(3), lock=False) == array.array("i", range(3))


@pytest.mark.parametrize("holder", [{}, [], set()])
def test_the_loop_runs_what_the_containers_methods_return(holder: Any) -> None:
    methods = ("__iter__", "__reversed__", "values", "items")
    found = [getattr(holder, name)() for name in methods if hasattr(holder, name)]
    iterators = {type(one if isinstance(one, Iterator) else iter(one)) for one in found}
    assert iterators <= rows.RUN_ON_LOOP


class Unreadable:
    """A value that notices each look at it."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("looked")

    __hash__ = None  # type: ignore[assignment]
    __lt__ = __add__ = __iter__ = __len__ = __bool__ = __eq__


CALLS: dict[str, tuple[Any, ...]] = {
    "__contains__": ("k",), "__delitem__": (0,), "__getitem__": (0,), "__setitem__": (0, 1),
    "append": (1,), "exchange": (0, 1), "extend": ([1],), "get": (0,), "insert": (0, 1),
    "pop": (0,), "setdefault": (0, 1), "update": ({"k": 1},), "__setattr__": ("k", 1),
    "__getattribute__": ("a",), "__delattr__": ("a",),
}  # fmt: skip


@pytest.mark.parametrize("row", [containers.DICT, containers.LIST, containers.NAMESPACE])
def test_blind_methods_look_at_no_value(row: rows.Row) -> None:
    assert row.unread is not None
    assert row.unread.blind is not None
    for name in row.unread.blind - {"#GETVALUE"}:
        one = Unreadable()
        holders: list[Any] = [{0: one}, [one, one], containers.Namespace(a=one)]
        (holder,) = (each for each in holders if type(each) is row.types[0])
        verb = row.verbs.get(name) or getattr(row.types[0], name)
        verb(holder, *CALLS.get(name, ()))


def test_what_is_unread_is_found_and_replaced() -> None:
    for make in [
        lambda one: {"a": one, "b": 1},
        lambda one: [one, 1, one],
        lambda one: containers.Namespace(a=one, b=1),
    ]:
        one = Opaque(b"")
        holder, expected = make(one), make("read")
        unread = rows.UNREAD[type(holder)]
        assert unread.find is not None
        assert unread.put_in_place is not None
        assert set(unread.find(holder)) == {one}
        unread.put_in_place(holder, {one: "read"})
        assert repr(holder) == repr(expected)
