"""Counters, alone and in a row, do the same in a client's memory, by the server and alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from support import ProbeManager
from support.numbers import (
    HIGH,
    LOW,
    Index,
    Make,
    Real,
    Whole,
    by_itself,
    numbers,
    outcome,
    quickly,
    ways,
)

from fastmgr import managers
from fastmgr.kinds.counters import Counter, Counters
from fastmgr.managers import RemoteError

pytestmark = pytest.mark.timeout(90)


class CountersManager(ProbeManager):
    """With a counter that exposes less."""


CountersManager.register("Settable", Counter, managers.CounterProxy, exposed=("set", "get"))

MANAGER = CountersManager


counter_calls = st.one_of(
    st.tuples(st.sampled_from(["incr", "decr", "set", "exchange"]), numbers),
    st.tuples(st.just("compare_exchange"), numbers, numbers),
    st.just(("get",)),
)


class CounterModel:
    """What a counter is to do, with ints that have no limits."""

    def __init__(self, value: int) -> None:
        self.value = value

    def call(self, name: str, *args: int) -> Any:
        before = self.value
        if name == "get":
            return before
        if name == "compare_exchange":
            if not LOW <= args[1] <= HIGH:
                raise OverflowError
            if before == args[0]:
                self.value = args[1]
            return before == args[0]
        new = {"incr": before + args[0], "decr": before - args[0]}.get(name, args[0])
        if not LOW <= new <= HIGH:
            raise OverflowError
        self.value = new
        return {"set": None, "exchange": before}.get(name, new)


@quickly
@given(st.integers(LOW, HIGH) | st.sampled_from([LOW, HIGH, 0, -1]), st.lists(counter_calls))
@example(HIGH, [("incr", 1), ("decr", -1), ("get",), ("incr", HIGH), ("set", HIGH + 1)])
@example(LOW, [("decr", 1), ("incr", -1), ("get",), ("exchange", LOW - 1), ("incr", HIGH)])
@example(-1, [("decr", LOW)])
@example(-1, [("incr", HIGH + 1)])
@example(LOW, [("incr", 2**64 - 1)])
@example(HIGH, [("decr", 2**64 - 1), ("decr", 2**64)])
@example(0, [("compare_exchange", 10**30, 1), ("compare_exchange", 0, 10**30)])
def test_counter_counts(make: Make, start: int, calls: list[Any]) -> None:
    """A number that does not fit is an OverflowError that changes nothing; any other is counted."""
    counter, model = make("Counter", start), CounterModel(start)
    for name, *args in calls:
        try:
            expected = model.call(name, *args)
        except OverflowError:
            with pytest.raises(OverflowError):
                getattr(counter, name)(*args)
        else:
            assert getattr(counter, name)(*args) == expected
        assert counter.get() == model.value


@quickly
@given(st.integers(LOW, HIGH), st.lists(st.tuples(ways, counter_calls)))
def test_counter_is_the_same_by_both_ways(
    manager: ProbeManager, start: int, calls: list[Any]
) -> None:
    counter, alone = manager.Counter(start), Counter(start)
    for way, (name, *args) in calls:
        assert outcome(way, counter, name, *args) == outcome(by_itself, alone, name, *args)


def test_counter_by_default(make: Make) -> None:
    counter = make("Counter")
    assert (counter.get(), counter.incr(), counter.decr(), counter.decr()) == (0, 1, 0, -1)
    assert counter.set(5) is None
    assert (counter.exchange(7), int(counter)) == (5, 7)
    assert counter.compare_exchange(5, 6) is False
    assert counter.compare_exchange(7, 6) is True
    assert counter.get() == 6


@pytest.mark.parametrize("amount", [True, False, Index(3), Whole(4)])
def test_counter_takes_what_is_an_index(make: Make, amount: Any) -> None:
    counter, plain = make("Counter", 10), amount.__index__()
    results = [counter.incr(amount), counter.decr(amount), counter.exchange(amount)]
    assert results == [10 + plain, 10, 10]
    assert counter.compare_exchange(amount, 9) is True
    assert counter.compare_exchange(9, amount) is True
    assert counter.get() == plain
    assert type(counter.get()) is int


@pytest.mark.parametrize("amount", [1.0, "1", None, b"1", [1], Real(1)])
def test_counter_refuses_what_is_none(make: Make, amount: Any) -> None:
    counter = make("Counter", 10)
    for call in (
        counter.incr, counter.decr, counter.set, counter.exchange,
        lambda number: counter.compare_exchange(10, number),
        lambda number: counter.compare_exchange(number, 10),
    ):  # fmt: skip
        with pytest.raises(TypeError):
            call(amount)
    assert counter.get() == 10


def test_counter_that_cannot_be_made(manager: ProbeManager) -> None:
    for initial, error in [(HIGH + 1, OverflowError), ("1", TypeError), (1.5, TypeError)]:
        with pytest.raises(error):
            manager.Counter(initial)
    assert (manager.Counter(HIGH).get(), manager.Counter(LOW).get()) == (HIGH, LOW)


def test_counters_are_reversed(make: Make) -> None:
    assert list(reversed(make("Counters", ["a", "b"]))) == ["b", "a"]
    assert list(reversed(make("Counters", 3))) == [2, 1, 0]


def test_counter_is_set_where_only_that_is_exposed(manager: CountersManager) -> None:
    counter = manager.Settable(1)
    counter.set(5)
    assert counter.get() == 5
    with pytest.raises(RemoteError):
        counter.incr()
    assert counter.get() == 5


# Counters in a row


@pytest.mark.parametrize("names", [["a", "b"], ("a", "b"), "ab", {"a": 0, "b": 0}])
def test_counters_by_name(make: Make, names: Any) -> None:
    counters = make("Counters", names)
    assert (counters.incr("a"), counters.decr("b", 2), counters["a"]) == (1, -2, 1)
    counters["b"] = 7
    assert counters.exchange("b", 8) == 7
    assert counters.compare_exchange("b", 8, 9) is True
    assert (counters.keys(), counters.snapshot()) == (["a", "b"], [1, 9])
    assert counters.as_dict() == {"a": 1, "b": 9}
    assert (len(counters), list(counters)) == (2, ["a", "b"])
    assert ("a" in counters, "c" in counters, 0 in counters) == (True, False, False)
    for key in ("c", 0, None, ("a",)):
        for call in (counters.incr, counters.decr, counters.__getitem__):
            with pytest.raises(KeyError):
                call(key)
        for call in (counters.exchange, counters.__setitem__):
            with pytest.raises(KeyError):
                call(key, 1)
        with pytest.raises(KeyError):
            counters.compare_exchange(key, 0, 1)
    with pytest.raises(TypeError):
        counters.incr([])
    assert counters.snapshot() == [1, 9]


def test_counters_by_index(make: Make) -> None:
    counters = make("Counters", 3)
    assert (counters.incr(0), counters.incr(-1, 5), counters[2], counters[True]) == (1, 5, 5, 0)
    counters[1] = -4
    assert (counters.keys(), counters.snapshot()) == ([0, 1, 2], [1, -4, 5])
    assert (counters.as_dict(), len(counters)) == ({0: 1, 1: -4, 2: 5}, 3)
    assert (2 in counters, -3 in counters, 3 in counters, "a" in counters) == (
        True, True, False, False,
    )  # fmt: skip
    for key in (3, -4, 2**62, -(2**63)):
        for call in (counters.incr, counters.decr, counters.__getitem__):
            with pytest.raises(IndexError):
                call(key)
        with pytest.raises(IndexError):
            counters[key] = 1
    for key in ("a", 1.0, None):
        with pytest.raises(TypeError):
            counters.incr(key)
    assert counters.snapshot() == [1, -4, 5]


@pytest.mark.parametrize("key", [2**63, 2**100, -(2**100)])
def test_no_index_is_too_large_to_be_wrong(make: Make, key: int) -> None:
    for shared in (make("Counters", 3), make("Array", "i", [1, 2, 3])):
        for call in (shared.incr, shared.__getitem__):
            with pytest.raises(IndexError):
                call(key)
            len(shared)
        with pytest.raises(IndexError):
            shared[key] = 1


def test_counters_overflow_alone(make: Make) -> None:
    counters = make("Counters", 3)
    counters[0], counters[2] = HIGH, LOW
    for call in (
        lambda: counters.incr(0), lambda: counters.decr(2), lambda: counters.exchange(0, HIGH + 1),
        lambda: counters.__setitem__(1, LOW - 1), lambda: counters.incr(1, 10**30),
    ):  # fmt: skip
        with pytest.raises(OverflowError):
            call()
    assert counters.snapshot() == [HIGH, 0, LOW]
    assert (counters.decr(0, HIGH), counters.incr(2, HIGH)) == (0, -1)


def test_no_counters(make: Make) -> None:
    for names in (0, [], ()):
        counters = make("Counters", names)
        assert (counters.snapshot(), counters.keys(), len(counters)) == ([], [], 0)
        with pytest.raises((KeyError, IndexError)):
            counters.incr(0)


def test_counters_that_cannot_be_made(manager: ProbeManager) -> None:
    for names, error in [
        (["a", "a"], ValueError), (-1, ValueError), (1.5, TypeError), (None, TypeError),
        ([[]], TypeError), (2**62, (MemoryError, OverflowError, ValueError)),
        (10**30, ValueError),
    ]:  # fmt: skip
        with pytest.raises(error):
            manager.Counters(names)


@pytest.mark.parametrize("length", [2**60, 2**61, 2**61 + 1, 2**62, 2**63 - 1])
def test_as_many_counters_as_nobody_has_memory_for(length: int) -> None:
    with pytest.raises((MemoryError, OverflowError, ValueError)):
        Counters(length)


@quickly
@given(
    st.lists(
        st.tuples(
            ways,
            st.one_of(
                st.tuples(st.sampled_from(["incr", "decr"]), st.integers(-4, 4), numbers),
                st.tuples(st.just("exchange"), st.integers(-4, 4), numbers),
                st.tuples(st.just("compare_exchange"), st.integers(-4, 4), numbers, numbers),
                st.tuples(st.sampled_from(["snapshot", "keys", "as_dict", "__len__"])),
                st.tuples(st.just("__getitem__"), st.integers(-4, 4) | st.just("a")),
                st.tuples(st.just("__contains__"), st.integers(-4, 4) | st.just("a")),
            ),
        )
    ),
    st.sampled_from([3, ("a", "b", 2), [0, 1, -1], 0]),
)
def test_counters_are_the_same_by_both_ways(
    manager: ProbeManager, calls: list[Any], names: Any
) -> None:
    counters, alone = manager.Counters(names), Counters(names)
    for way, (name, *args) in calls:
        assert outcome(way, counters, name, *args) == outcome(by_itself, alone, name, *args)


def test_counters_as_a_copy(manager: ProbeManager) -> None:
    assert manager.Counters(2)._getvalue() == [0, 0]
    assert manager.Counters(["x"])._getvalue() == {"x": 0}
