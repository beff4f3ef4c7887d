"""What the server calls of an object: methods of its type, its own, and what is wrong with them."""

from __future__ import annotations

import operator
from collections.abc import Callable
from multiprocessing import managers as stdlib
from typing import Any

import pytest
from support import ProbeManager, poll

from fastmgr import managers, oneway


class Sum(dict):  # type: ignore[type-arg]
    """With methods of its own in the place of a dict's."""

    def __setitem__(self, key: Any, value: Any) -> None:
        super().__setitem__(key, value + self.get(key, 0))

    def get(self, key: Any, default: Any = None) -> Any:
        return super().get(key, "nothing" if default is None else default)

    def __len__(self) -> int:
        return -1 % 1000


class Odd(list):  # type: ignore[type-arg]
    """The same of a list."""

    def append(self, value: Any) -> None:
        super().append((value, value))

    def __getitem__(self, index: Any) -> Any:
        return ("item", super().__getitem__(index))


class Attributed(dict):  # type: ignore[type-arg]
    """With an attribute in the place of a method."""

    def __init__(self) -> None:
        super().__init__(a=1)
        self.get = lambda key: ("of the instance", key)  # type: ignore[method-assign]


class CallsManager(ProbeManager):
    """With types that have methods of their own in the place of their bases'."""


CallsManager.register("Sum", Sum, managers.DictProxy)
CallsManager.register("Odd", Odd, managers.ListProxy)
CallsManager.register("Exposing", dict, exposed=("fromkeys", "get", "__class_getitem__"))
CallsManager.register("Attributed", Attributed, managers.DictProxy)

MANAGER = CallsManager


def test_overridden_methods(manager: CallsManager) -> None:
    total, odd, attributed = manager.Sum(), manager.Odd(), manager.Attributed()
    for _ in range(3):
        oneway(total)["a"] = 2
        total["a"] = 3
        with manager.pipeline() as pipe:
            pipe(total)["a"] = 4
            pipe(odd).append(1)
    assert total["a"] == 27
    assert total.get("b") == "nothing"
    assert len(total) == 999
    assert odd[1] == ("item", (1, 1))
    assert odd.copy() == [(1, 1)] * 3
    assert attributed.get("x") == ("of the instance", "x")
    assert attributed["a"] == 1


def test_what_is_no_method_of_the_instance(manager: CallsManager) -> None:
    """A class method is not called of the object."""
    exposing = manager.Exposing(a=1)
    assert exposing.fromkeys(["x", "y"], 5) == {"x": 5, "y": 5}
    assert exposing.get("a") == 1
    assert manager.dict(a=1).fromkeys("ab") == {"a": None, "b": None}
    assert str(exposing._callmethod("__class_getitem__", (int,))) == "dict[int]"


def outcome(function: Callable[..., Any], *args: Any) -> tuple[Any, ...]:
    try:
        result = function(*args)
    except Exception as error:
        return type(error), error.args
    if "Proxy" in type(result).__name__:
        return "returned", type(result).__name__
    if hasattr(result, "__next__"):
        return "returned", type(result), list(result)
    return "returned", result


WRONG: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
    ((), {}),
    ((1,), {}),
    (("nope",), {}),
    ((99,), {}),
    (([],), {}),
    (({},), {}),
    ((None,), {}),
    ((slice(0, 2),), {}),
    ((1, 2), {}),
    (("a", {}), {}),
    ((slice(0, 0), 5), {}),
    (("a", 2, 3), {}),
    ((1, 2, 3, 4), {}),
    ((1, 2, 3, 4, 5), {}),
    ((), {"default": 1}),
    (("a",), {"default": 1}),
    ((), {"key": "a", "self": 1}),
    ((1,), {"x": 2}),
]


@pytest.mark.parametrize("kind", ["dict", "list"])
def test_errors_are_those_of_the_stdlib(manager: CallsManager, kind: str) -> None:
    """In type and text, and what a call does before it fails is the same."""
    content: Any = {"a": 1, 1: "b", 2: [3]} if kind == "dict" else [3, 1, 2, "x"]
    proxy = {"dict": "DictProxy", "list": "ListProxy"}[kind]
    names = getattr(stdlib, proxy)._exposed_
    assert len(names) > 10
    raised = 0
    with stdlib.SyncManager() as stock:
        for name in names:
            ours, theirs = getattr(manager, kind)(content), getattr(stock, kind)(content)
            for args, kwds in WRONG:
                mine = outcome(ours._callmethod, name, args, kwds)
                assert mine == outcome(theirs._callmethod, name, args, kwds), (name, args, kwds)
                assert ours._getvalue() == theirs._getvalue(), (name, args, kwds)
                raised += mine[0] != "returned"
    assert raised > 5 * len(names)


def test_errors_of_what_proxies_do() -> None:
    """The same as users write it."""
    calls: list[Callable[[Any, Any], Any]] = [
        lambda d, items: d.get(),
        lambda d, items: d["nope"],
        lambda d, items: d[[]],
        lambda d, items: d.pop("nope"),
        lambda d, items: d.pop(),
        lambda d, items: operator.delitem(d, "nope"),
        lambda d, items: d.update(5),
        lambda d, items: d.update([1]),
        lambda d, items: d.popitem(1),
        lambda d, items: d.setdefault(),
        lambda d, items: items.append(),
        lambda d, items: items.append(1, 2),
        lambda d, items: items.append(x=1),
        lambda d, items: items[99],
        lambda d, items: items["x"],
        lambda d, items: operator.setitem(items, 99, 1),
        lambda d, items: operator.delitem(items, 99),
        lambda d, items: items.pop(99),
        lambda d, items: items.pop("x"),
        lambda d, items: items.remove("x"),
        lambda d, items: items.index("x"),
        lambda d, items: items.insert(1),
        lambda d, items: items.extend(5),
        lambda d, items: items.sort(key=1),
        lambda d, items: items.sort(1),
        lambda d, items: items + 5,
        lambda d, items: items * "x",
        lambda d, items: items.reverse(1),
        lambda d, items: items.count(),
    ]
    with CallsManager() as ours, stdlib.SyncManager() as theirs:
        arguments = [(manager.dict({"a": 1}), manager.list([3, 2])) for manager in (ours, theirs)]
        for i, call in enumerate(calls):
            mine, stock = [outcome(call, *args) for args in arguments]
            assert mine == stock, i
            assert mine[0] != "returned", i
        assert arguments[0][0].copy() == {"a": 1}
        assert arguments[0][1][:] == [3, 2]


@pytest.mark.timeout(60)
def test_what_a_call_was_given_is_dropped_with_it(manager: CallsManager) -> None:
    """The arguments of an unbound call are borrowed, and are given back all the same."""
    d, items, tracked = manager.dict(), manager.list(), manager.Tracked()
    before = manager._number_of_objects()
    for _ in range(50):
        d["a"] = items
        items.append(tracked)
        d.pop("a")
        items.pop()
        d.update({"x": items}, y=items)
        d.clear()
    assert manager._number_of_objects() == before
    probe = manager.Probe()
    assert probe.tracked() == 1
    del tracked
    poll(lambda: probe.tracked() == 0, "it is gone")
