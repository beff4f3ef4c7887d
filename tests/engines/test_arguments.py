"""What is called with arguments that do not fit raises the same on each engine."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import valkeys
from support.managers import KEY

import fastmgr
from fastmgr import NotHosted

#: An index that no list can have, and one that a server in C could not even read.
FAR, FARTHER = 2**63, 2**70


@pytest.fixture(scope="module")
def local() -> Iterator[Any]:
    with fastmgr.SyncManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module")
def valkey() -> Iterator[Any]:
    with valkeys.manager("valkey") as manager:
        yield manager


def outcome(call: Callable[[Any], Any], manager: Any) -> tuple[str, str]:
    """Return the name of what a call raises, and the last line of its message."""
    try:
        return "result", repr(call(manager))
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line and "---" not in line]
        return type(error).__name__, lines[-1] if lines else ""


MAKING: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = [
    ("Queue", (), {"name": "jobs"}), ("Queue", (1, 2), {}), ("Queue", ("a",), {}),
    ("JoinableQueue", (), {"size": 1}), ("Lock", (1,), {}), ("Lock", (), {"name": "a"}),
    ("Semaphore", (), {"name": "a"}), ("Semaphore", (1, 2), {}), ("Semaphore", (-1,), {}),
    ("Semaphore", (None,), {}), ("BoundedSemaphore", (FARTHER,), {}), ("Event", (1,), {}),
    ("Condition", (1,), {}), ("Condition", (), {"locks": 1}), ("Barrier", (), {}),
    ("Barrier", (2, None, 1, 2), {}), ("Barrier", ("a",), {}), ("Namespace", (1,), {}),
    ("dict", (1,), {}), ("list", (1, 2), {}), ("set", ([[]],), {}), ("Value", ("i",), {}),
    ("Value", ("i", 1), {"size": 2}), ("Array", ("i", 3), {}), ("Array", ("z", [1]), {}),
    ("Counter", (1.5,), {}), ("Counter", (), {"size": 1}), ("Counters", (-1,), {}),
]  # fmt: skip


@pytest.mark.parametrize(("typeid", "args", "kwds"), MAKING)
def test_making(
    local: Any, valkey: Any, typeid: str, args: tuple[Any, ...], kwds: dict[str, Any]
) -> None:
    def make(manager: Any) -> Any:
        return getattr(manager, typeid)(*args, **kwds)

    found = outcome(make, valkey)
    assert found == outcome(make, local)
    assert found[0] != "result"


def test_condition_over_something(local: Any, valkey: Any) -> None:
    def over_dict(manager: Any) -> Any:
        return manager.Condition(manager.dict())

    assert outcome(over_dict, valkey) == outcome(over_dict, local)
    with pytest.raises(NotHosted, match="cannot host a Condition over a Semaphore, but over a"):
        valkey.Condition(valkey.Semaphore(1))


def of_list(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda manager: call(manager.list([1, 2]))


def of_array(call: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda manager: call(manager.Array("i", [1, 2]))


def told(n: Any) -> Callable[[Any], Any]:
    def notify(manager: Any) -> Any:
        condition = manager.Condition()
        with condition:
            return condition.notify(n)

    return notify


@pytest.mark.parametrize("index", [FAR, -FAR - 1, FARTHER, -FARTHER, FAR - 1, "a", 1.0, None])
def test_index_that_is_none(local: Any, valkey: Any, index: Any) -> None:
    calls = [
        of_list(lambda one: one[index]), of_list(lambda one: one.__setitem__(index, 1)),
        of_list(lambda one: one.__delitem__(index)), of_list(lambda one: one.pop(index)),
        of_list(lambda one: one.insert(index, 1)), of_list(lambda one: one.incr(index)),
        of_array(lambda one: one[index]), of_array(lambda one: one.__setitem__(index, 1)),
        of_array(lambda one: one.incr(index)),
    ]  # fmt: skip
    for call in calls:
        assert outcome(call, valkey) == outcome(call, local)


@pytest.mark.parametrize("end", [FAR, -FAR - 1, FARTHER, -FARTHER])
def test_slice_that_ends_far_away(local: Any, valkey: Any, end: int) -> None:
    for part in (slice(end), slice(end, None), slice(None, None, end), slice(1, end)):
        for typed in (of_list, of_array):
            call = typed(lambda one, part=part: one[part])  # type: ignore[misc]
            assert outcome(call, valkey) == outcome(call, local)


@pytest.mark.parametrize("n", [math.inf, -math.inf, math.nan, 1.5, -1, FARTHER, "a", None])
def test_how_many_are_notified(local: Any, valkey: Any, n: Any) -> None:
    assert outcome(told(n), valkey) == outcome(told(n), local)


def test_name_that_is_none_is_nobodys(local: Any, valkey: Any) -> None:
    for name in (1, None, "nobody's"):
        assert valkey.forget(name) is local.forget(name) is False
