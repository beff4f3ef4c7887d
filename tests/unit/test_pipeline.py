"""Calls that are sent together."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

import fastmgr
from fastmgr import managers
from fastmgr.managers import SyncManager


class Echo:
    """A class of a user's: its calls are served by a thread."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def echo(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def all(self) -> list[Any]:
        return self.seen


class EchoManager(SyncManager):
    """A manager of it."""


EchoManager.register("Echo", Echo)


@pytest.fixture(scope="module")
def manager() -> Iterator[Any]:
    with EchoManager() as manager:
        yield manager


def test_results_in_order_of_several_proxies(manager: Any) -> None:
    d, items, value = manager.dict(), manager.list([1]), manager.Value("i", 5)
    with manager.pipeline() as pipe:
        counts, queue = pipe(d), pipe(items)
        counts.incr("a")
        counts["b"] = 1
        queue.append(2)
        counts.get("c")
        queue[0]
        del counts["b"]
        counts.keys()
        pipe(value).incr(2)
        assert len(pipe) == 8
        assert pipe.execute() == [1, None, None, None, 1, None, ["a"], 7]
        assert len(pipe) == 0
        assert pipe.execute() == []


def test_leaving_the_block_executes(manager: Any) -> None:
    d = manager.dict()
    with manager.pipeline() as pipe:
        pipe(d)["a"] = 1
        pipe(d)["a"]
    assert pipe.results == [None, 1]


def test_an_exception_in_the_block_makes_no_call(manager: Any) -> None:
    d = manager.dict()
    with pytest.raises(ZeroDivisionError), manager.pipeline() as pipe:
        pipe(d)["a"] = 1
        _ = 1 / 0
    assert d.copy() == {}


def test_the_first_error_is_raised_and_all_calls_are_made(manager: Any) -> None:
    d = manager.dict()
    pipe = manager.pipeline()
    calls = pipe(d)
    calls["missing"]
    calls["a"] = 1
    calls.pop("other")
    with pytest.raises(KeyError, match="missing"):
        pipe.execute()
    assert d.copy() == {"a": 1}
    assert [type(result) for result in pipe.results] == [KeyError, type(None), KeyError]


def test_errors_are_returned_in_place(manager: Any) -> None:
    echo = manager.Echo()
    with manager.pipeline(errors="return") as pipe:
        pipe(echo).echo(1)
        pipe(echo).fail("of mine")
        pipe(echo).echo({2: object})
    first, error, last = pipe.results
    assert (first, last) == (1, {2: object})
    assert isinstance(error, ValueError) and error.args == ("of mine",)


def test_bad_arguments(manager: Any) -> None:
    with pytest.raises(ValueError, match="'ignore'"):
        manager.pipeline(errors="ignore")
    with pytest.raises(AttributeError, match="no_such_method"):
        manager.pipeline()(manager.dict()).no_such_method()
    with fastmgr.Manager() as other:
        theirs = other.dict()
        with pytest.raises(ValueError, match="belongs to the manager at"):
            manager.pipeline()(theirs)


def test_an_argument_that_cannot_be_pickled_makes_no_call(manager: Any) -> None:
    d = manager.dict()
    pipe = manager.pipeline()
    pipe(d)["a"] = 1
    pipe(d)["b"] = threading.Lock()
    with pytest.raises(TypeError):
        pipe.execute()
    assert d.copy() == {}
    d["c"] = 2
    assert d["c"] == 2


class Asking:
    """Pickling it makes a call of its own, by the same thread."""

    def __init__(self, proxy: Any) -> None:
        self.proxy = proxy

    def __reduce__(self) -> Any:
        return str, (self.proxy["asked"],)


@pytest.mark.timeout(30)
def test_pickling_an_argument_may_make_calls(manager: Any) -> None:
    d = manager.dict(asked="answer")
    with manager.pipeline() as pipe:
        pipe(d)["a"] = Asking(d)
        pipe(d)["a"]
    assert pipe.results == [None, "answer"]


@pytest.mark.parametrize("size", [0, 100, 20_000, 500_000])
def test_many_calls_of_any_size(manager: Any, size: int) -> None:
    """More than sockets hold, both ways: neither side may wait for the other for ever."""
    d = manager.dict()
    number = 4000 if size < 1000 else 40
    with manager.pipeline() as pipe:
        calls = pipe(d)
        for i in range(number):
            calls[i % 7] = b"x" * size
            calls[i % 7]
    assert len(pipe.results) == 2 * number
    assert set(pipe.results) == {None, b"x" * size}


def test_calls_that_return_proxies(manager: Any) -> None:
    d = manager.dict(a=1)
    before = manager._number_of_objects()
    with manager.pipeline() as pipe:
        pipe(d).__iter__()
        pipe(d).__iter__()
    one, other = pipe.results
    assert next(one) == next(other) == "a"
    assert manager._number_of_objects() == before + 2
    del one, other
    pipe.results.clear()
    assert manager._number_of_objects() == before


def test_proxies_on_their_way_outlive_the_calls_behind_them(manager: Any) -> None:
    """Nobody else holds what `pop` returns until the whole pipeline has been read."""
    outer = manager.dict()
    before = manager._number_of_objects()
    for i in range(5):
        outer[i] = manager.list([i])
    with manager.pipeline() as pipe:
        for i in range(5):
            pipe(outer).pop(i)
            pipe(outer).get("nothing")
    assert [inner[0] for inner in pipe.results[::2]] == list(range(5))
    pipe.results.clear()
    assert manager._number_of_objects() == before


def test_calls_that_wait(manager: Any) -> None:
    """A call that parks holds the later ones up; they are served when it is answered."""
    queue, d = manager.Queue(), manager.dict()
    putter = threading.Thread(target=lambda: (d.get("x"), queue.put("item")))
    pipe = manager.pipeline()
    pipe(d)["a"] = 1
    pipe(queue).get()
    pipe(d)["a"]
    putter.start()
    assert pipe.execute() == [None, "item", 1]
    putter.join()


def test_calls_served_by_threads_keep_their_order(manager: Any) -> None:
    echo, d = manager.Echo(), manager.dict()
    with manager.pipeline() as pipe:
        for i in range(300):
            pipe(echo).echo(i)
            pipe(d)[i] = object if i % 50 == 0 else i
        pipe(echo).all()
    assert pipe.results[-1] == list(range(300))
    assert pipe.results[:-1:2] == list(range(300))
    assert d[50] is object and d[51] == 51


class HookedServer(managers.Server):
    """With hooks of a user's: clients speak the stdlib's dialect with it."""

    def incref(self, c: Any, ident: str) -> None:
        super().incref(c, ident)


class HookedManager(SyncManager):
    """A manager of such a server."""

    _Server = HookedServer


def test_over_the_stock_dialect() -> None:
    with HookedManager() as manager:
        d = manager.dict()
        with manager.pipeline() as pipe:
            pipe(d).incr("a")
            pipe(d)["a"]
        assert pipe.results == [1, 1]
