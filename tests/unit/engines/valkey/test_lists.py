"""Lists on a Valkey server do what lists do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings, strategies as st
from support.numbers import quickly

from fastmgr.engines.valkey import methods

indices = st.integers(-7, 7) | st.sampled_from([2**40, -(2**70), 2**70])
ends = st.none() | indices
slices = st.builds(slice, ends, ends, st.none() | st.sampled_from([1, 2, -1, -2, 3, True]))
items = st.sampled_from([0, 1, True, 1.0, -0.5, "1", b"1", None, (1, "a"), [1], 2**70, 1 + 2j])
several = st.lists(items, max_size=4)
calls = st.one_of(
    st.tuples(st.just("append"), items),
    st.tuples(st.just("extend"), several),
    st.tuples(st.just("insert"), indices, items),
    st.tuples(st.just("pop"), indices),
    st.just(("pop",)),
    st.tuples(st.just("__setitem__"), indices, items),
    st.tuples(st.just("__setitem__"), slices, several),
    st.tuples(st.just("__delitem__"), indices | slices),
    st.tuples(st.just("__getitem__"), indices | slices),
    st.tuples(st.sampled_from(["remove", "index", "count", "__contains__"]), items),
    st.tuples(st.just("index"), items, indices, indices),
    st.just(("reverse",)),
    st.just(("__len__",)),
    st.just(("copy",)),
    st.tuples(st.sampled_from(["__mul__", "__rmul__"]), st.integers(-1, 3)),
    st.tuples(st.just("__add__"), several),
    st.just(("clear",)),
)


def outcome(function: Any, *args: Any) -> Any:
    try:
        return repr(function(*args))
    except Exception as error:
        return type(error), str(error)


@quickly
@given(several, st.lists(calls, max_size=12))
def test_a_list_does_what_lists_do(engines_manager: Any, start: list[Any], said: list[Any]) -> None:
    shared, model = engines_manager.list(start), list(start)
    for name, *args in said:
        expected = outcome(getattr(model, name), *args)
        found = outcome(getattr(shared, name), *args)
        if type(expected) is tuple:  # some messages name a method of the interpreter's
            assert found[0] in (expected[0], IndexError), (name, args)
        else:
            assert found == expected, (name, args)
        assert repr(shared[:]) == repr(model), (name, args)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.integers(-9, 9), max_size=8), st.booleans())
def test_sort(engines_manager: Any, start: list[int], reverse: bool) -> None:
    shared = engines_manager.list(start)
    assert shared.sort(key=abs, reverse=reverse) is None
    assert shared[:] == sorted(start, key=abs, reverse=reverse)


def test_sort_of_what_has_no_order_changes_nothing(engines_manager: Any) -> None:
    shared = engines_manager.list([2, "a", 1])
    with pytest.raises(TypeError, match="not supported between"):
        shared.sort()
    with pytest.raises(TypeError, match=r"sort\(\) takes no positional"):
        shared.sort(abs)
    assert shared[:] == [2, "a", 1]


def test_in_place(engines_manager: Any) -> None:
    shared = engines_manager.list([1, 2])
    shared *= 2
    shared += (3,)
    assert shared[:] == [1, 2, 1, 2, 3]
    shared *= 0
    assert shared[:] == []
    with pytest.raises(TypeError):
        shared *= "x"


def test_proxies_as_operands(engines_manager: Any) -> None:
    shared, other = engines_manager.list([1]), engines_manager.list([2, 3])
    shared.extend(other)
    shared[0:0] = other
    assert shared[:] == [2, 3, 1, 2, 3]
    assert engines_manager.list(other)[:] == [2, 3]
    assert engines_manager.list(x for x in "ab")[:] == ["a", "b"]


def test_what_others_change_all_the_time(
    engines_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A result that is never up to date is an error that says what to do."""
    from fastmgr.engines.valkey import lists

    monkeypatch.setattr(lists, "TRIES", 3)
    shared = engines_manager.list([2, 1])

    def key(item: int) -> int:
        shared.append(0)
        return item

    with pytest.raises(RuntimeError, match="hold a lock meanwhile"):
        shared.sort(key=key)
    assert methods.TRIES > 100


def test_large_lists(engines_manager: Any) -> None:
    """Lua takes a few thousand words at a time."""
    shared = engines_manager.list(range(20_000))
    shared.insert(10_000, "x")
    del shared[5:9_995]
    shared.reverse()
    shared.extend(range(10_000))
    expected = list(range(20_000))
    expected.insert(10_000, "x")
    del expected[5:9_995]
    assert shared[:] == [*expected[::-1], *range(10_000)]
