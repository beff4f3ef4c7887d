"""Values do the same in a client's memory, by the server and alone."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, strategies as st
from support import DEADLINE, KEY, ProbeManager, Script, say
from support.numbers import (
    EDGE,
    HIGH,
    LOW,
    Make,
    Real,
    Thing,
    Whole,
    by_itself,
    by_server,
    objects,
    outcome,
    quickly,
    same,
    ways,
)

from fastmgr import managers, oneway
from fastmgr.kinds.values import Value
from fastmgr.managers import RemoteError, Token, ValueProxy

pytestmark = pytest.mark.timeout(90)


class DoublingValue(managers.Value):
    """A user's, that does other things than its base."""

    def get(self) -> Any:
        return 2 * self._value


class ValuesManager(ProbeManager):
    """With types that expose less, or do other things."""


ValuesManager.register("Doubling", DoublingValue, ValueProxy)
ValuesManager.register("ReadOnly", managers.Value, ValueProxy, exposed=("get",))

MANAGER = ValuesManager


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


def test_a_value_that_is_none_of_its_own(manager: ValuesManager) -> None:
    """What a user's class does is done, whoever asks."""
    value = manager.Doubling("i", 21)
    assert value._callmethod("get") == 42
    assert (value.get(), value.value) == (42, 42)


def test_a_value_exposes_what_it_exposes(manager: ValuesManager) -> None:
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
