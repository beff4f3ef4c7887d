"""Counters, values and arrays do the same in a client's memory, by the server and alone."""

from __future__ import annotations

import array
import gc
import json
import math
import operator
import os
import re
import struct
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    Script,
    in_thread,
    locally,
    manager_without_arena,
    say,
    settle,
    stopped,
)

from fastmgr import managers, oneway
from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters
from fastmgr.kinds.values import Value
from fastmgr.managers import ArrayProxy, RemoteError, Token, ValueProxy

pytestmark = pytest.mark.timeout(90)

LOW, HIGH = -(2**63), 2**63 - 1
OBJECTS: dict[str, Any] = {one.__name__: one for one in (Array, Counter, Counters, Value)}
quickly = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Index:
    """What can stand for an int."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Whole(int):
    """An int of a user's."""


class Real(float):
    """A float of a user's."""


class Thing(NamedTuple):
    """An object of a user's."""

    name: str
    size: int


class DoublingValue(managers.Value):
    """A user's, that does other things than its base."""

    def get(self) -> Any:
        return 2 * self._value


class NumbersManager(ProbeManager):
    """With types that expose less, or do other things."""


NumbersManager.register("Doubling", DoublingValue, ValueProxy)
NumbersManager.register("ReadOnly", managers.Value, ValueProxy, exposed=("get",))
NumbersManager.register("Settable", Counter, managers.CounterProxy, exposed=("set", "get"))


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[ProbeManager]:
    with NumbersManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def manager(shared_manager: Any) -> Any:
    """The module's manager; a test that counts objects has one of its own."""
    return shared_manager


@pytest.fixture
def own_manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def off_manager() -> Iterator[ProbeManager]:
    with manager_without_arena() as manager:
        yield manager


Make = Callable[..., Any]


@pytest.fixture(params=["memory", "server", "object"])
def make(request: pytest.FixtureRequest, manager: ProbeManager, off_manager: ProbeManager) -> Make:
    """Makes counters and so on: proxies that work by themselves, or do not, or the objects."""
    if request.param == "object":
        return lambda kind, *args: OBJECTS[kind](*args)
    chosen = manager if request.param == "memory" else off_manager
    return lambda kind, *args: getattr(chosen, kind)(*args)


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What a call returns or raises, so that it can be compared."""
    try:
        result = function(*args)
    except Exception as error:
        return type(error), str(error)
    return type(result), repr(result)


def by_server(proxy: Any, name: str, *args: Any) -> Any:
    return proxy._callmethod(name, args)


def by_itself(proxy: Any, name: str, *args: Any) -> Any:
    return getattr(proxy, name)(*args)


ways = st.sampled_from([by_itself, by_server])

# Counters

near = st.integers(-3, 3)
numbers = st.one_of(
    near,
    st.sampled_from([LOW, HIGH, 2**31, 2**32, 2**47, 2**62, -(2**62)]),
    near.map(lambda n: LOW + n),
    near.map(lambda n: HIGH + n),
    st.sampled_from([2**64, 2**65 + 1, -(2**64), 10**30, -(10**30)]),
    st.integers(LOW, HIGH),
)
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


def test_counter_proxy_looks_like_a_number(manager: ProbeManager) -> None:
    counter = same = manager.Counter(5)
    counter += 3
    counter -= 1
    assert counter is same
    assert (counter.value, int(counter), counter._getvalue()) == (7, 7, 7)
    counter.value = 2
    assert "CounterProxy 2," in repr(counter)
    assert str(counter) == "2"
    holder = manager.dict(c=counter)
    assert holder["c"].incr() == 3
    del holder


@pytest.mark.parametrize("place", ["shared_manager", "off_manager"])
def test_a_counter_in_an_expression_is_its_number(
    request: pytest.FixtureRequest, manager: ProbeManager, place: str
) -> None:
    counter: Any = request.getfixturevalue(place).Counter(5)
    other: Any = manager.Counter(7)
    for operation in (
        operator.add, operator.sub, operator.mul, operator.truediv, operator.floordiv, operator.mod,
        operator.pow, operator.lshift, operator.rshift, operator.and_, operator.or_, operator.xor,
        divmod, operator.eq, operator.ne, operator.lt, operator.le, operator.gt, operator.ge,
    ):  # fmt: skip
        for left, right in ((5, 7), (5, 5), (7, 5)):
            proxies = [counter if side == 5 else other for side in (left, right)]
            assert operation(*proxies) == operation(left, right)
            assert operation(proxies[0], right) == operation(left, proxies[1])
            assert operation(proxies[0], right) == operation(left, right)
    assert counter + 0.5 == 5.5 and Fraction(1, 2) * counter == Fraction(5, 2)
    assert (counter == "5", counter != "5") == (False, True)
    assert pow(counter, 2, 3) == 1
    for alone in (
        operator.neg, operator.pos, operator.inv, abs, round, int, float, bool, str, hex, range,
        operator.index, complex, math.floor, math.ceil, math.trunc, math.sqrt,
        "{:,}".format, "{}".format, "%d".__mod__, lambda n: round(n, -1), [0, 1, 2, 3, 4, 5].index,
    ):  # fmt: skip
        assert alone(counter) == alone(5), alone
    assert bool(manager.Counter(0)) is False and sorted([other, counter, 6]) == [5, 6, 7]
    with pytest.raises(TypeError, match="unhashable"):  # what it equals changes
        hash(counter)
    for name in ("imul", "ifloordiv", "ipow", "ior"):
        with pytest.raises(TypeError, match="write to its `value`"):
            getattr(operator, name)(counter, 2)
    with pytest.raises(TypeError, match="unsupported operand"):
        counter + "1"


def test_a_proxy_says_what_its_cell_holds(manager: ProbeManager, off_manager: ProbeManager) -> None:
    """Where there is no cell, or none that is known yet, it says what it is: that takes no call."""
    said: list[tuple[str, str, Any, Callable[[Any], Any]]] = [
        ("5", "Counter", (5,), int),
        ("0.5", "Value", ("d", 0.5), lambda proxy: proxy.value),
        ("array('i', [1, 2])", "Array", ("i", [1, 2]), len),
        ("array('i', [0, 1, 2, 3, 4, 5, ...]) of 90", "Array", ("i", range(90)), len),
        ("Counters({'a': 0})", "Counters", (["a"],), len),
        ("Counters([0, 0])", "Counters", (2,), len),
        ("Counters([0, 0, 0, 0, 0, 0, ...]) of 90", "Counters", (90,), len),
    ]
    for text, typeid, arguments, use in said:
        for source in (manager, off_manager):
            proxy = getattr(source, typeid)(*arguments)
            plain = f"<{typeid}Proxy object, typeid {typeid!r} at {id(proxy):#x}>"
            assert repr(proxy) == plain
            use(proxy)
            cell = f"<{typeid}Proxy {text}, typeid {typeid!r}>"
            assert repr(proxy) == (cell if source is manager else plain)
    text = manager.Value("i", "only the server has it")
    assert text.get() and repr(text).startswith("<ValueProxy object, typeid 'Value' at ")


def test_a_representation_waits_for_no_server() -> None:
    with ProbeManager(authkey=KEY) as own:
        known, unknown, rest = own.Counter(5), own.Counter(), own.Value("i", "of the server")
        assert (known.get(), rest.get()) == (5, "of the server")
        with stopped(own._process.pid):
            assert "CounterProxy 5," in in_thread(repr, known)
            assert "CounterProxy object," in in_thread(repr, unknown)
            assert "ValueProxy object," in in_thread(repr, rest)


def test_representations_of_managers_and_pipelines() -> None:
    own = ProbeManager(authkey=KEY)
    assert repr(own) == "<ProbeManager at None, not started>"
    with own:
        counter = own.Counter()
        assert re.fullmatch(r"<ProbeManager at '.+', started, process \d+>", repr(own))
        pipe = own.pipeline()
        pipe(counter).incr()
        assert repr(pipe) == f"<Pipeline of 1 calls to the manager at {own.address!r}>"
    assert "shut down" in repr(own) and str(counter) == repr(counter)


def test_counters_are_reversed(make: Make) -> None:
    assert list(reversed(make("Counters", ["a", "b"]))) == ["b", "a"]
    assert list(reversed(make("Counters", 3))) == [2, 1, 0]


def test_counters_as_an_array_are_their_numbers(
    manager: ProbeManager, off_manager: ProbeManager
) -> None:
    numpy = pytest.importorskip("numpy")
    for source in (manager, off_manager):
        counters = source.Counters(["a", "b"])
        counters.incr("b", 3)
        found = numpy.asarray(counters)
        assert found.dtype == "int64" and found.tolist() == [0, 3]
        assert not found.flags.writeable and numpy.array(counters).flags.writeable
        assert numpy.asarray(source.Counter(5)) == 5


def test_an_array_without_memory_is_no_writable_array(off_manager: ProbeManager) -> None:
    """What is written to a copy would be lost."""
    numpy = pytest.importorskip("numpy")
    for code in CODES:
        shared = off_manager.Array(code, [1, 2, 3])
        found = numpy.asarray(shared)
        assert found.dtype == numpy.asarray(array.array(code)).dtype and found.tolist() == [1, 2, 3]
        with pytest.raises(ValueError, match="read-only"):
            found[0] = 2
        own = numpy.array(shared)
        own[0] = 2
        assert (own[0], shared[0]) == (2, 1)
    with ProbeManager(authkey=KEY) as own_manager:
        gone = own_manager.Array("i", [1]), own_manager.Counters(1)
    for proxy in gone:
        with pytest.raises((OSError, EOFError, RemoteError)):
            numpy.asarray(proxy)


def test_counter_is_set_where_only_that_is_exposed(manager: NumbersManager) -> None:
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


# Values

EDGE = 2**47
any_float = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits)))
objects = st.one_of(
    st.none() | st.booleans(),
    st.integers(-3, 3).map(lambda n: EDGE + n),
    st.integers(-3, 3).map(lambda n: -EDGE + n),
    st.integers(),
    st.integers(LOW, HIGH),
    st.floats(),
    any_float.map(lambda found: found[0]),
    # Words that as a double are NaNs, and as a word of a cell something else.
    st.tuples(st.integers(0xFFF0, 0xFFFF), st.integers(0, 3)).map(
        lambda pair: struct.unpack("<d", struct.pack("<Q", pair[0] << 48 | pair[1]))[0]
    ),
    st.text(max_size=5) | st.binary(max_size=5),
    st.integers().map(Whole),
    st.floats().map(Real),
    st.builds(Thing, st.text(max_size=3), st.integers()),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.tuples(st.none(), st.integers()),
)


def same(first: Any, second: Any) -> bool:
    """The same type, and the same to the last bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, float):
        return struct.pack("<d", first) == struct.pack("<d", second)
    return bool(first == second)


@quickly
@given(st.lists(objects, min_size=1, max_size=8))
@example([EDGE, EDGE - 1, -EDGE, -EDGE - 1, True, 1, False, 0, None, -0.0, 0.0])
@example([float("inf"), float("-inf"), float("nan"), -float("nan"), HIGH, LOW, 2**64])
@example([{"a": 1}, 5, {"b": 2}, {"c": 3}, None, Thing("t", 1), 0.5, "text"])
def test_a_value_comes_back_as_it_was(make: Make, items: list[Any]) -> None:
    value = make("Value", "i", items[0])
    assert same(value.get(), items[0])
    before = items[0]
    for item in items:
        assert same(value.exchange(item), before)
        assert same(value.get(), item)
        assert same(value.value, item)
        before = item
    for item in reversed(items):
        value.set(item)
        assert same(value.get(), item)
        value.value = item
        assert same(value.value, item)


@quickly
@given(st.lists(st.tuples(ways, objects, ways), min_size=1, max_size=8))
def test_a_value_is_the_same_by_both_ways(manager: ProbeManager, said: list[Any]) -> None:
    value, before = manager.Value("i", None), None
    for putting, item, getting in said:
        assert same(putting(value, "exchange", item), before)
        assert same(getting(value, "get"), item)
        before = item


amounts = st.one_of(
    st.integers(), st.floats(), st.booleans(), st.text(max_size=2), st.none(),
    st.integers(-3, 3).map(lambda n: EDGE + n), st.just(Whole(2)), st.just(Real(2)),
)  # fmt: skip


@quickly
@given(
    objects,
    st.lists(
        st.tuples(
            ways,
            st.one_of(
                st.tuples(st.just("incr"), amounts),
                st.tuples(st.just("incr")),
                st.tuples(st.just("compare_exchange"), objects, objects),
                st.tuples(st.sampled_from(["set", "exchange"]), objects),
                st.just(("get",)),
            ),
        )
    ),
)
@example(EDGE - 1, [(by_itself, ("incr",)), (by_itself, ("incr", -1)), (by_itself, ("get",))])
@example(True, [(by_itself, ("compare_exchange", 1, 1.0)), (by_itself, ("incr", True))])
@example(float("inf"), [(by_itself, ("incr", float("-inf"))), (by_itself, ("get",))])
@example(None, [(by_itself, ("incr", 1)), (by_itself, ("incr", 1.5)), (by_itself, ("get",))])
@example("a", [(by_itself, ("incr", "b")), (by_itself, ("compare_exchange", "ab", 1))])
@example(10**400, [(by_itself, ("incr", 0.5)), (by_itself, ("get",))])
def test_a_value_adds_as_the_object_does(
    manager: ProbeManager, start: Any, calls: list[Any]
) -> None:
    value, alone = manager.Value("i", start), Value("i", start)
    for way, (name, *args) in calls:
        assert outcome(way, value, name, *args) == outcome(by_itself, alone, name, *args)
        assert same(value.get(), alone.get())


def test_a_value_that_is_none_of_its_own(manager: NumbersManager) -> None:
    """What a user's class does is done, whoever asks."""
    value = manager.Doubling("i", 21)
    assert value._callmethod("get") == 42
    assert (value.get(), value.value) == (42, 42)


def test_a_value_exposes_what_it_exposes(manager: NumbersManager) -> None:
    value = manager.ReadOnly("i", 1)
    assert value.get() == 1
    for call in (lambda: value.set(2), value.incr, lambda: value.exchange(2)):
        with pytest.raises(RemoteError, match=r"AttributeError"):
            call()
    assert value.get() == 1


def exchange_many(address: Any, ident: str, number: int, rounds: int, off: bool) -> Any:
    """Put values in that nobody else does, of changing types, and return what was found."""
    if off:
        os.environ["FASTMGR_ARENA"] = "off"
    value = ValueProxy(Token("Value", address, ident), "pickle", authkey=KEY)
    value.get()
    say("ready")
    sys.stdin.readline()
    taken, wrong = [], []
    for i in range(rounds):
        mark = number * rounds + i
        found = value.exchange({"n": mark} if i % 3 == 0 else float(mark) if i % 3 == 1 else mark)
        taken.append(found["n"] if isinstance(found, dict) else int(found))
        seen = value.get()
        if not (type(seen) in (int, float) or (type(seen) is dict and [*seen] == ["n"])):
            wrong.append(repr(seen))
    return [taken, wrong]


def test_what_is_put_into_a_value_is_taken_out_once(manager: ProbeManager) -> None:
    """Several processes exchange ints and dicts at once, by memory and by the server."""
    value, rounds = manager.Value("i", -1), 400
    scripts = [
        Script(exchange_many, manager.address, value._token.id, number, rounds, number % 3 == 2)
        for number in range(4)
    ]
    taken: list[int] = []
    try:
        for script in scripts:
            assert script.line() == "ready"
        for script in scripts:
            script.tell()
        for script in scripts:
            found, wrong = script.line(60)
            assert wrong == []
            taken += found
    finally:
        for script in scripts:
            script.__exit__()
    last = value.exchange(None)
    taken.append(last["n"] if isinstance(last, dict) else int(last))
    assert sorted(taken) == list(range(-1, 4 * rounds))


def test_threads_add_to_one_value(manager: ProbeManager) -> None:
    value, rounds = manager.Value("i", EDGE - 500), 300

    def add(way: Callable[..., Any]) -> None:
        for _ in range(rounds):
            way(value, "incr", 1)

    threads = [threading.Thread(target=add, args=(way,)) for way in (by_itself, by_server) * 2]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
    assert value.get() == EDGE - 500 + 4 * rounds


def test_a_value_keeps_the_order_of_a_threads_calls(manager: ProbeManager) -> None:
    value, counter = manager.Value("i", 0), manager.Counter()
    assert (value.get(), counter.get()) == (0, 0)
    for number in range(200):
        oneway(value).set(number)
        assert value.get() == number
        oneway(value).set({"n": number})
        assert value.exchange(-number) == {"n": number}
        oneway(counter).incr()
        assert counter.incr() == 2 * number + 2


# Arrays

INTEGERS = "bBhHiIlLqQ"
CODES = INTEGERS + "fd"
TEXT = "w" if sys.version_info >= (3, 13) else "u"
LIMITS = {
    code: (0, 2 ** (8 * array.array(code).itemsize) - 1)
    if code.isupper()
    else (
        -(2 ** (8 * array.array(code).itemsize - 1)),
        2 ** (8 * array.array(code).itemsize - 1) - 1,
    )
    for code in INTEGERS
}


def mapped_array(make: Make, code: str, items: Any) -> Any:
    """An array whose items are in the cell, if it is a proxy that has one."""
    shared = make("Array", code, items)
    len(shared)
    return shared


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


def manager_make(manager: ProbeManager) -> Make:
    return lambda kind, *args: getattr(manager, kind)(*args)


def test_an_array_as_a_buffer(manager: ProbeManager) -> None:
    for code in CODES:
        shared = manager.Array(code, [1, 2, 3])
        expected = array.array(code, [1, 2, 3])
        with memoryview(shared) as view:
            assert (view.format, view.itemsize, view.shape, view.strides, view.readonly) == (
                code, expected.itemsize, (3,), (expected.itemsize,), False,
            )  # fmt: skip
            assert view.contiguous and view.obj is not None
            view[1] = 9
            assert view.tolist() == [1, 9, 3]
            assert shared._callmethod("__getitem__", (1,)) == 9
            shared._callmethod("__setitem__", (2, 7))
            assert view[2] == 7
        expected[1:] = array.array(code, [9, 7])
        assert memoryview(shared).tobytes() == expected.tobytes()
        if code not in "fd":
            assert bytes(shared) == b"\x01\x09\x07"  # the items, as of any proxy of an array
        assert struct.unpack(f"@3{code}", shared) == (1, 9, 7)


def test_the_buffer_of_an_array_over_numpy(manager: ProbeManager) -> None:
    numpy = pytest.importorskip("numpy")
    shared = manager.Array("d", range(5))
    view = numpy.asarray(shared)
    view *= 2
    assert shared._callmethod("__getitem__", (slice(None),)) == array.array("d", [0, 2, 4, 6, 8])


def test_no_buffer_without_memory(off_manager: ProbeManager, manager: ProbeManager) -> None:
    for shared in (off_manager.Array("i", [1]), manager.Array("i", [])):
        with pytest.raises(BufferError, match="read it with"):
            memoryview(shared)


def test_bytes_of_an_array_without_memory(off_manager: ProbeManager) -> None:
    """As the stdlib's proxy, which is a sequence, has them."""
    assert bytes(off_manager.Array("B", b"abc")) == b"abc"


def test_a_view_outlives_its_proxy(own_manager: ProbeManager) -> None:
    for size in (10, 100_000):
        shared = own_manager.Array("i", range(size))
        view = memoryview(shared)[2:]
        del shared
        gc.collect()
        assert own_manager._number_of_objects() == 1
        others = [own_manager.Array("i", [-1] * size) for _ in range(5)]
        assert [other[0] for other in others] == [-1] * 5
        assert view[0] == 2
        view[0] = 77
        assert all(list(other[:3]) == [-1] * 3 for other in others)
        del others
        view.release()
        del view
        settle(own_manager, 0)


def test_a_closed_proxy_leaves_its_view(manager: ProbeManager) -> None:
    shared = manager.Array("i", range(3))
    view = memoryview(shared)
    kept = ArrayProxy(shared._token, "pickle", authkey=KEY)
    shared._close()
    assert view[1] == 1
    assert (shared[1], len(shared)) == (1, 3)  # through the server: others hold it
    with pytest.raises(BufferError):
        memoryview(shared)
    del kept


def test_the_length_of_an_array_is_fixed_once_it_is_mapped(make: Make, manager: Any) -> None:
    shared = manager.Array("i", range(4))
    shared[4:] = array.array("i", [4, 5])
    shared[0:2] = array.array("i", [9])
    assert shared[:].tolist() == [9, 2, 3, 4, 5]
    with pytest.raises(BufferError):
        shared[0:1] = array.array("i", [])
    assert shared._callmethod("__len__") == 5
    with pytest.raises(BufferError):
        shared._callmethod("__setitem__", (slice(9, 9), array.array("i", [1])))
    shared[::2] = array.array("i", [1, 1, 1])
    assert shared[:].tolist() == [1, 2, 1, 4, 1]


@pytest.mark.parametrize("look", [len, lambda a: a[0], lambda a: a.incr(0), memoryview])
def test_any_look_at_an_array_maps_it(manager: ProbeManager, look: Callable[..., Any]) -> None:
    shared = manager.Array("i", [1, 2])
    look(shared)
    with pytest.raises(BufferError):
        shared[:1] = array.array("i", [1, 2])
    assert shared[:].tolist()[1] == 2
    gc.collect()


def test_arrays_work_without_the_server(manager: ProbeManager) -> None:
    shared = mapped_array(manager_make(manager), "i", [1, 2, 3])

    def use() -> Any:
        shared[0] = 5
        return shared[0], shared[:].tolist(), shared.incr(1), len(shared), bytes(shared)[:1]

    assert locally(manager, use) == (5, [5, 2, 3], 3, 3, b"\5")


def test_all_numbers_work_without_the_server(manager: ProbeManager) -> None:
    counters, value = manager.Counters(["a"]), manager.Value("i", 1)
    counters.incr("a")
    value.get()

    def use() -> Any:
        value.set(None)
        value.exchange(2.5)
        value.compare_exchange(2.5, 3)
        counters["a"] = 9
        return value.incr(), counters.incr("a"), counters.as_dict(), [*counters], len(counters)

    assert locally(manager, use) == (4, 10, {"a": 10}, ["a"], 1)


def test_numbers_cross_without_the_arena(manager: ProbeManager) -> None:
    """What a client without the memory puts in, those with it find, and the other way round."""
    value, item = manager.Value("i", 0), manager.Array("q", [0])
    value.get(), len(item)
    with Script(exchange_each, manager.address, value._token.id, item._token.id) as script:
        for number in (EDGE, {"a": 1}, 2.5, None):
            value.set(number)
            script.tell(json.dumps({"was": number}))
            assert same(script.line(), number)
            assert value.get() == {"was": number}
    assert item[0] == 4


def exchange_each(address: Any, ident: str, item: str) -> None:
    """Exchange the value for each line of the input, by a proxy that has not been used."""
    os.environ["FASTMGR_ARENA"] = "off"
    for line in sys.stdin:
        ArrayProxy(Token("Array", address, item), "pickle", authkey=KEY).incr(0)
        value = ValueProxy(Token("Value", address, ident), "pickle", authkey=KEY)
        say(value.exchange(json.loads(line)))
