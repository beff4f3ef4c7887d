"""Dicts and namespaces on a Valkey server do what theirs do."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, strategies as st
from support.numbers import quickly

from fastmgr import Namespace

KEYS: list[Any] = [
    1, True, 1.0, 0, False, -0.0, "1", "", b"1", None, (1, 2), (1.0, True), frozenset({1, "a"}),
    0.5, 2**70, float(2**70), Decimal("0.5"), ("a", ("b",)), "\ud800",
]  # fmt: skip
keys = st.sampled_from(KEYS)
amounts = st.sampled_from([1, -3, 0, 0.5, True, 2**63 - 1, -(2**63), 2**64, 1e300, "x", [1]])
values = st.sampled_from([0, 1, -1.5, "v", None, [1], {"a": 1}, 2**63 - 1, 2**70, True, math.inf])
calls = st.one_of(
    st.tuples(st.just("__setitem__"), keys, values),
    st.tuples(st.sampled_from(["__getitem__", "__delitem__", "__contains__", "pop", "get"]), keys),
    st.tuples(st.sampled_from(["get", "pop", "setdefault"]), keys, values),
    st.tuples(st.just("incr"), keys, amounts),
    st.tuples(st.just("exchange"), keys, values),
    st.tuples(st.just("compare_exchange"), keys, values, values),
    st.tuples(st.just("update"), st.dictionaries(keys, values, max_size=3)),
    st.tuples(st.just("__or__"), st.dictionaries(keys, values, max_size=3)),
    st.sampled_from([("popitem",), ("__len__",), ("keys",), ("values",), ("items",), ("copy",)]),
    st.just(("clear",)),
)


class Model(dict[Any, Any]):
    def incr(self, key: Any, amount: Any) -> Any:
        self[key] = self.get(key, 0) + amount
        return self[key]

    def exchange(self, key: Any, value: Any) -> Any:
        old, self[key] = self[key], value
        return old

    def compare_exchange(self, key: Any, expected: Any, desired: Any) -> bool:
        if self[key] != expected:
            return False
        self[key] = desired
        return True


def outcome(function: Any, *args: Any) -> Any:
    try:
        result = function(*args)
    except Exception as error:
        return type(error), str(error)
    return repr(list(result) if type(result) in (type({}.keys()), type({}.values())) else result)


@quickly
@given(st.dictionaries(keys, values, max_size=3), st.lists(calls, max_size=12))
def test_a_dict_does_what_dicts_do(
    engines_manager: Any, start: dict[Any, Any], said: list[Any]
) -> None:
    shared, model = engines_manager.dict(start), Model(start)
    for name, *args in said:
        expected = outcome(getattr(model, name), *args)
        if name == "items":
            expected = repr(list(model.items()))
        assert outcome(getattr(shared, name), *args) == expected, (name, args)
        assert repr(shared.copy()) == repr(dict(model)), (name, args)
        assert list(shared) == list(model) and list(reversed(shared)) == list(reversed(model))


def test_nan(engines_manager: Any) -> None:
    """As a value it equals nothing; as a key it is one."""
    shared = engines_manager.dict(a=math.nan)
    assert shared.compare_exchange("a", math.nan, 1) is False
    shared[math.nan] = 1
    assert shared[math.nan] == 1


def test_wrong_arguments(engines_manager: Any) -> None:
    shared = engines_manager.dict()
    for name, args in [
        ("get", ()), ("pop", (1, 2, 3)), ("__getitem__", ()), ("__setitem__", (1,)),
        ("popitem", (1,)), ("exchange", (1,)), ("compare_exchange", (1, 2)),
        ("update", (1, 2)), ("update", (5,)),
    ]:  # fmt: skip
        with pytest.raises(TypeError):
            getattr(shared, name)(*args)
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        shared[[]]
    with pytest.raises(TypeError, match="cannot be a key on Valkey"):
        shared[object()] = 1
    assert shared.copy() == {}


def test_proxies_as_operands(engines_manager: Any) -> None:
    shared, other = engines_manager.dict(a=1), engines_manager.dict(b=2)
    shared.update(other)
    shared |= other
    assert shared | {"c": 3} == {"a": 1, "b": 2, "c": 3}
    assert engines_manager.dict(other).copy() == {"b": 2}
    assert shared.fromkeys(engines_manager.list(["x"]), 1) == {"x": 1}


def test_large_dicts(engines_manager: Any) -> None:
    whole = {i: str(i) for i in range(20_000)}
    shared = engines_manager.dict(whole)
    assert shared.copy() == whole and list(shared.values()) == list(whole.values())
    assert sum(1 for _ in shared) == 20_000


def test_a_namespaces_attributes(engines_manager: Any) -> None:
    shared = engines_manager.Namespace(b=1, a=[2])
    copy = shared._getvalue()
    assert type(copy) is Namespace and vars(copy) == {"a": [2], "b": 1}
    assert shared._callmethod("__getattribute__", ("__dict__",)) == {"b": 1, "a": [2]}
    assert [shared.incr("b"), shared.incr("n", 2, default=5), shared.incr("b", 0.5)] == [2, 7, 2.5]
    with pytest.raises(TypeError, match="attribute name must be string"):
        shared._callmethod("__setattr__", (1, 2))
