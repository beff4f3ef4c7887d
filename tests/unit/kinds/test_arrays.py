"""Arrays do the same in a client's memory, by the server and alone."""

from __future__ import annotations

import array
import warnings
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from support import ProbeManager
from support.numbers import (
    CODES,
    INTEGERS,
    LIMITS,
    TEXT,
    Index,
    Make,
    by_itself,
    by_server,
    manager_make,
    mapped_array,
    numbers,
    outcome,
    quickly,
    ways,
)

from fastmgr.kinds.arrays import Array

pytestmark = pytest.mark.timeout(90)


@pytest.mark.parametrize("code", CODES)
def test_arrays_of_all_types(make: Make, code: str) -> None:
    shared = make("Array", code, [1, 2, 3])
    assert (len(shared), shared[0], shared[-1], list(shared)) == (3, 1, 3, [1, 2, 3])
    low, high = LIMITS.get(code, (-1.5, 1e30))
    shared[0], shared[-1] = low, high
    expected = array.array(code, [low, 2, high])
    assert (shared[0], shared[2]) == (expected[0], expected[2])
    assert shared[:] == expected and shared[:].typecode == code
    shared[1:] = array.array(code, [5, 6])
    assert shared[1:] == array.array(code, [5, 6])
    assert str(shared) == str(shared[:])


def test_arrays_of_text(make: Make) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        shared = make("Array", TEXT, "abc")
        assert (len(shared), shared[0], shared[:].tounicode()) == (3, "a", "abc")
        shared[1] = "\u20ac"
        assert list(shared) == ["a", "\u20ac", "c"]
        shared[0:2] = array.array(TEXT, "xyz")
        assert shared[:].tounicode() == "xyzc"
        for wrong in (1, "ab", None):
            with pytest.raises(TypeError):
                shared[0] = wrong
        with pytest.raises(TypeError):
            shared.incr(0)
        with pytest.raises((BufferError, TypeError)):
            memoryview(shared)


WRONG = [
    3, -4, 2**62, "a", None, 1.5, ..., (0,), (0, 1), (), b"a", [0], True, slice("a", 2),
    slice(0, 2, 0),
]  # fmt: skip
WRONG_ITEMS = [1.5, "a", "", b"a", None, 2**64, -(2**64), 10**400, [1], 1j, float("nan"), Index(1)]


@pytest.mark.parametrize("code", CODES)
def test_errors_of_arrays_are_arrays_own(make: Make, code: str) -> None:
    model = array.array(code, [1, 2, 3])
    shared = mapped_array(make, code, [1, 2, 3])
    for key in WRONG:
        assert outcome(shared.__getitem__, key) == outcome(model.__getitem__, key), key
        for item in (1, *WRONG_ITEMS):
            if isinstance(key, slice):
                continue
            found = outcome(shared.__setitem__, key, item)
            assert found == outcome(model.__setitem__, key, item), (key, item)
            assert outcome(lambda: shared[:]) == outcome(lambda: model[:])
    for key in (slice(1, 2), slice(None, None, 2), slice(2, 0, -1)):
        for part in ([1], (1,), b"a", 1, None, "a", array.array("d" if code != "d" else "f", [1])):
            found = outcome(shared.__setitem__, key, part)
            assert found == outcome(model.__setitem__, key, part), (key, part)
        assert shared[:] == model


@pytest.mark.parametrize("code", INTEGERS)
def test_arrays_add(make: Make, code: str) -> None:
    low, high = LIMITS[code]
    shared = mapped_array(make, code, [low, high, 5])
    for key, amount in [(0, -1), (1, 1), (-2, high), (1, 10**30), (0, -(10**30)), (2, low - 6)]:
        with pytest.raises(OverflowError):
            shared.incr(key, amount)
    assert shared[:] == array.array(code, [low, high, 5])
    assert [shared.incr(0), shared.incr(1, -1), shared.incr(-1, 2)] == [low + 1, high - 1, 7]
    assert [shared.incr(2, True), shared.incr(2, Index(-8))] == [8, 0]
    assert [shared.incr(2, high), shared.incr(2, -high)] == [high, 0]
    assert shared.incr(0, -1) == low
    for key in (3, -4, 2**62):
        with pytest.raises(IndexError):
            shared.incr(key)
    for key, amount in [("a", 1), (0.0, 1), (None, 1), (0, 1.5), (0, "a"), (0, None)]:
        with pytest.raises(TypeError):
            shared.incr(key, amount)
    assert shared[:] == array.array(code, [low, high - 1, 0])


@pytest.mark.parametrize("code", "fd")
def test_only_integers_are_added(make: Make, code: str) -> None:
    shared = mapped_array(make, code, [1.5])
    for amount in (1, 1.5):
        with pytest.raises(TypeError):
            shared.incr(0, amount)
    assert shared[0] == 1.5


keys = st.integers(-4, 4)
slices = st.builds(slice, st.none() | keys, st.none() | keys, st.none() | st.sampled_from([1, 2]))
items = st.one_of(numbers, st.floats(), st.booleans(), st.just("a"), st.none())
array_calls = st.one_of(
    st.tuples(st.just("__getitem__"), keys | slices | st.just("a")),
    st.tuples(st.just("__setitem__"), keys, items),
    st.tuples(st.just("incr"), keys, numbers),
    st.tuples(st.just("incr"), keys),
    st.just(("__len__",)),
)


@quickly
@given(st.sampled_from(CODES), st.lists(st.tuples(ways, array_calls), max_size=20))
@example("Q", [(by_server, ("incr", 0, 2**63)), (by_server, ("incr", 0, -(2**63)))])
@example("Q", [(by_itself, ("incr", 0, 2**63)), (by_itself, ("incr", 0, -(2**63)))])
@example("L", [(by_server, ("incr", 0, 2**64 - 1)), (by_itself, ("incr", 0, 1 - 2**64))])
@example("q", [(by_server, ("__setitem__", 0, -(2**63))), (by_itself, ("incr", 0, 2**64 - 1))])
def test_an_array_is_the_same_by_both_ways(
    manager: ProbeManager, code: str, calls: list[Any]
) -> None:
    """Also the same as one that nobody has mapped."""
    shared, alone = (
        mapped_array(manager_make(manager), code, [0] * 3),
        Array(code, [0] * 3),
    )
    for way, (name, *args) in calls:
        expected = outcome(by_itself, alone, name, *args)
        assert outcome(way, shared, name, *args) == expected
        assert list(map(repr, shared)) == list(map(repr, alone))
