"""Sets on a Valkey server do what sets do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, strategies as st
from support.numbers import quickly

members = st.sampled_from(
    [1, True, 1.0, 0, "1", b"1", None, (1,), (1.0,), 0.5, frozenset({1}), -0.0]
)
others = st.frozensets(members, max_size=4) | st.lists(members, max_size=4)
CHANGING = ["update", "intersection_update", "difference_update", "symmetric_difference_update"]
READING = ["union", "intersection", "difference", "symmetric_difference", "isdisjoint", "issubset"]
calls = st.one_of(
    st.tuples(st.sampled_from(["add", "discard", "remove", "__contains__"]), members),
    st.tuples(st.sampled_from([*CHANGING, *READING, "issuperset"]), others),
    st.tuples(st.sampled_from(["update", "union", "intersection"]), others, others),
    st.tuples(st.sampled_from(["__and__", "__rsub__", "__lt__", "__or__"]), others),
    st.sampled_from([("__len__",), ("copy",), ("clear",)]),
)


def outcome(function: Any, *args: Any) -> Any:
    try:
        return function(*args)
    except Exception as error:
        return type(error), str(error)


@quickly
@given(others, st.lists(calls, max_size=10))
def test_a_set_does_what_sets_do(engines_manager: Any, start: Any, said: list[Any]) -> None:
    shared, model = engines_manager.set(start), set(start)
    for name, *args in said:
        expected = outcome(getattr(model, name), *args)
        assert outcome(getattr(shared, name), *args) == expected, (name, args)
        assert shared.copy() == set(shared) == model  # which of equal members is kept is open


def test_proxies_as_operands(engines_manager: Any) -> None:
    shared, other = engines_manager.set([1, 2]), engines_manager.set([2, 3])
    assert (shared & other, shared | other, shared - other) == ({2}, {1, 2, 3}, {1})
    assert shared.union(other, engines_manager.list([9])) == {1, 2, 3, 9}
    shared |= other
    shared.difference_update(other)
    assert shared.copy() == {1}
    shared ^= other
    shared &= engines_manager.set([1, 3])
    assert shared.copy() == {1, 3}


def test_operators_take_sets_alone(engines_manager: Any) -> None:
    shared = engines_manager.set([1])
    with pytest.raises(TypeError):
        shared & [1]  # type: ignore[operator]
    with pytest.raises(TypeError):
        {} | shared  # type: ignore[operator]
    assert shared._callmethod("__iand__", ([1],)) is NotImplemented
    with pytest.raises(KeyError, match="pop from an empty set"):
        engines_manager.set().pop()
    with pytest.raises(TypeError, match="unhashable"):
        shared.add([])
