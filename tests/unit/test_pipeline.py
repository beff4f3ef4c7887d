"""Calls that are sent together."""

from __future__ import annotations

import copy
import os
import pickle
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import managers as stdlib
from typing import Any

import pytest
from support import DEADLINE, KEY, FastPeer, call_in_subprocess, in_thread, poll
from support.managers import Census
from support.servers import HookedManager
from support.signals import Interrupt, signals_when

import fastmgr
from fastmgr import managers
from fastmgr.link import sockets
from fastmgr.managers import SyncManager


class Unreadable:
    def __reduce__(self) -> Any:
        return unreadable, ()


def unreadable() -> None:
    raise ZeroDivisionError("of its unpickling")


class Echo:
    """A class of a user's: its calls are served by a thread."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def echo(self, value: Any) -> Any:
        self.seen.append(value)
        return value

    def fail(self, text: str) -> None:
        raise ValueError(text)

    def unreadable(self) -> Unreadable:
        return Unreadable()

    def all(self) -> list[Any]:
        return self.seen


class EchoManager(SyncManager):
    """A manager of it."""


EchoManager.register("Echo", Echo)
EchoManager.register("Census", Census)


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
    with pytest.raises(ValueError, match=r"the manager at .*, which has been shut down"):
        other.pipeline()(theirs)
    with pytest.raises(ValueError, match=r"the manager at .*, which has been shut down"):
        manager.pipeline()(theirs)


def test_what_is_no_proxy_has_no_recorder(manager: Any) -> None:
    recorder = fastmgr.oneway(manager.dict())
    for record in (fastmgr.oneway, manager.pipeline()):
        for other, shown in (
            ({}, "a dict"),
            (None, "a NoneType"),
            (recorder, "<Recorder of <Dict"),
        ):
            with pytest.raises(TypeError, match=f"proxy is needed, not {shown}"):
                record(other)


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


def test_over_the_stock_dialect() -> None:
    with HookedManager() as manager:
        d = manager.dict()
        with manager.pipeline() as pipe:
            pipe(d).incr("a")
            pipe(d)["a"]
        assert pipe.results == [1, 1]


# What Python does to an object unasked


def unpacked(recorder: Any) -> Any:
    one, other = recorder
    return one, other


def entered(recorder: Any) -> None:
    with recorder:
        pass


@pytest.mark.timeout(30)
@pytest.mark.parametrize("kind", ["pipeline", "oneway"])
@pytest.mark.parametrize("typeid", ["dict", "list", "set", "Array"])
@pytest.mark.parametrize(
    "use",
    [
        *(lambda r: "a" in r, lambda r: [*r], unpacked),
        *(list, set, iter, next, reversed, sorted, sum, len, bool, int, float, abs, bytes),
        *(entered, lambda r: r + r, lambda r: r < r, lambda r: -r, lambda r: r(1)),
    ],
)
def test_what_needs_a_result_is_refused(manager: Any, kind: str, typeid: str, use: Any) -> None:
    """Some of it went on for ever, each step of it a call."""
    proxy = manager.Array("i", [1, 2]) if typeid == "Array" else getattr(manager, typeid)()
    pipe = manager.pipeline()
    recorder = pipe(proxy) if kind == "pipeline" else fastmgr.oneway(proxy)
    with pytest.raises((TypeError, AttributeError) if use is entered else TypeError):
        use(recorder)
    assert len(pipe) == 0
    assert proxy._callmethod("__len__") in (0, 2)


def test_special_methods_are_recorded_by_name(manager: Any) -> None:
    d = manager.dict(a=1)
    with manager.pipeline() as pipe:
        pipe(d).__contains__("a")
        pipe(d).__len__()
        pipe(d).__str__()
    assert pipe.results == [True, 1, "{'a': 1}"]


def test_a_statement_that_is_not_exposed_is_refused_at_once(manager: Any) -> None:
    pipe = manager.pipeline()
    calls = pipe(manager.Counters(["a"]))
    with pytest.raises(TypeError, match="__delitem__"):
        del calls["a"]
    with pytest.raises(TypeError, match="__getitem__"):
        pipe(manager.Counter())[0]
    assert len(pipe) == 0


def test_attributes_set_and_deleted_through_a_recorder(manager: Any) -> None:
    counter, value, ns = manager.Counter(), manager.Value("i", 0), manager.Namespace(x=1, y=2)
    with manager.pipeline() as pipe:
        pipe(counter).value = 9
        pipe(value).value = 8
        pipe(ns).x = 7
        del pipe(ns).y
    assert (counter.value, value.value, ns.x, hasattr(ns, "y")) == (9, 8, 7, False)
    fastmgr.oneway(counter).value = 3
    assert counter.value == 3
    for proxy, name in (
        (manager.Barrier(2), "parties"),
        (manager.Lock(), "owner_died"),
        (manager.Event(), "value"),
        (ns, "_private"),
    ):
        with pytest.raises(AttributeError, match=name):
            setattr(pipe(proxy), name, 1)
        with pytest.raises(AttributeError, match=name):
            delattr(pipe(proxy), name)
    assert len(pipe) == 0


class Compared(fastmgr.BaseProxy):
    """Its equality is the referent's."""

    _exposed_ = ("__eq__",)

    def __eq__(self, other: object) -> bool:
        return bool(self._callmethod("__eq__", (other,)))

    __hash__ = None  # type: ignore[assignment]


EchoManager.register("Compared", dict, Compared)


def test_a_recorder_is_not_compared_in_place_of_what_it_stands_for(manager: Any) -> None:
    calls = manager.pipeline()(manager.Compared())
    with pytest.raises(TypeError, match="compared"):
        _ = calls == {}
    assert calls == calls and hash(calls)
    assert manager.pipeline()(manager.dict()) != {}


def test_a_recorder_is_copied_but_does_not_leave_its_process(manager: Any) -> None:
    d = manager.dict()
    pipe = manager.pipeline()
    copy.copy(pipe(d))["a"] = 1
    copy.copy(fastmgr.oneway(d))["b"] = 2
    pipe.execute()
    assert d.copy() == {"a": 1, "b": 2}
    for recorder in (pipe(d), fastmgr.oneway(d)):
        with pytest.raises(TypeError, match="pass the proxy"):
            pickle.dumps(recorder)
        with pytest.raises(TypeError, match="pass the proxy"):
            copy.deepcopy(recorder)


# Requests and replies at the same time


@pytest.mark.parametrize("served_by", ["loop", "worker"])
def test_hundreds_of_thousands_of_small_calls(manager: Any, served_by: str) -> None:
    d = manager.dict()
    if served_by == "worker":
        d["x"] = Echo  # whatever is known to hold such is not the loop's to serve
        d.popitem()
        assert manager.Echo().echo(Echo) is Echo
    with manager.pipeline() as pipe:
        calls = pipe(d)
        for i in range(100_000):
            calls.incr("n")
            calls[i & 7] = i
    assert pipe.results[::2] == list(range(1, 100_001))
    assert set(pipe.results[1::2]) == {None}
    assert d["n"] == 100_000


def test_large_requests_with_large_replies(manager: Any) -> None:
    """Each is more than the sockets hold."""
    size, number = 1_000_000, 100
    d = manager.dict(x=b"")
    with manager.pipeline() as pipe:
        for i in range(number):
            pipe(d).exchange("x", bytes([i]) * size)
    assert pipe.results[0] == b""
    for i, result in enumerate(pipe.results[1:]):
        assert (len(result), result[:1], result[-1:]) == (size, bytes([i]), bytes([i]))
    assert d["x"] == bytes([number - 1]) * size


def mixed(manager: Any, number: int, size: int) -> None:
    """Calls for the loop and for workers, and some that wait, with replies of all sizes."""
    echo, d, q = manager.Echo(), manager.dict(big=b"b" * size), manager.Queue()
    go = manager.Semaphore(0)
    expected: list[Any] = []
    pipe = manager.pipeline()

    def record(result: Any) -> None:
        expected.append(result)

    for i in range(number):
        pipe(d).get("big")
        record(b"b" * size)
        pipe(echo).echo(i)
        record(i)
        pipe(q).put({i: Echo})
        record(None)
        pipe(echo).echo({"text": "x" * size, "type": Echo})
        record({"text": "x" * size, "type": Echo})
        pipe(d).exchange("big", b"b" * size)
        record(b"b" * size)
        if i % 10 == 0:
            pipe(go).acquire()
            record(True)
        pipe(q).get()
        record({i: Echo})
        pipe(d).incr("n")
        record(i + 1)

    def release() -> None:
        for _ in range(0, number, 10):
            go.release()

    with ThreadPoolExecutor(1) as other:
        released = other.submit(release)
        assert pipe.execute() == expected
        released.result(DEADLINE)
    assert echo.all()[::2] == list(range(number))


@pytest.mark.parametrize(("number", "size"), [(200, 10), (60, 100_000)])
def test_calls_of_all_kinds(manager: Any, number: int, size: int) -> None:
    mixed(manager, number, size)


def small_buffers(sock: socket.socket) -> None:
    """In the place of `sockets.tune`."""
    if sock.family == socket.AF_INET:  # a small receive buffer makes TCP trickle
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)


def with_small_buffers() -> None:
    """Called in the server's process, before the server is made."""
    sockets.tune = small_buffers


@pytest.mark.parametrize("family", ["unix", "tcp"])
def test_small_buffers(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few replies that nobody reads, or requests, and a side can send no more."""
    monkeypatch.setattr(sockets, "tune", small_buffers)
    manager = EchoManager(None if family == "unix" else ("127.0.0.1", 0))
    manager.start(with_small_buffers)
    with manager:
        mixed(manager, 30, 2000)
        d = manager.dict(x=b"")
        with manager.pipeline() as pipe:
            for _ in range(3000):
                pipe(d).get("x")
        assert pipe.results == [b""] * 3000
        with manager.pipeline() as pipe:
            for i in range(20):
                pipe(d).exchange("x", bytes([i]) * 50_000)
        assert [result[:1] for result in pipe.results[1:]] == [bytes([i]) for i in range(19)]
        with manager.pipeline() as pipe:
            pipe(d)["x"] = b"x" * 1_000_000
            pipe(d)["x"]
            pipe(d)["x"]
        assert pipe.results[1:] == [b"x" * 1_000_000] * 2


def test_pipelines_of_several_threads(manager: Any) -> None:
    d, echo = manager.dict(), manager.Echo()

    def client(name: int) -> list[Any]:
        results = []
        for _ in range(5):
            with manager.pipeline() as pipe:
                for i in range(200):
                    pipe(d).incr("all")
                    pipe(d).incr(name)
                    if i % 20 == 0:
                        pipe(echo).echo(i)
                    else:
                        pipe(d).get(name)
            results += pipe.results
        return results

    with ThreadPoolExecutor(4) as clients:
        futures = [clients.submit(client, name) for name in range(4)]
        everything = [future.result(DEADLINE) for future in futures]
    for results in everything:
        assert results[1::3] == list(range(1, 1001))
        assert results[::3] == sorted(results[::3])
    assert sorted(n for results in everything for n in results[::3]) == list(range(1, 4001))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("pinned", [False, True], ids=["loop", "pinned"])
@pytest.mark.parametrize("size", [1, 1_000_000], ids=["receiving", "sending"])
def test_interrupted_while_a_call_waits(size: int, pinned: bool) -> None:
    """What was not read is not mistaken for the reply to a later call."""
    interrupts = 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            raise Interrupt

    with EchoManager() as manager:
        d, q, census = manager.dict(a=1), manager.Queue(), manager.Census()
        if pinned:
            assert manager.Echo().echo(1) == 1
        connection = d._tls.connection
        pipe = manager.pipeline()
        for i in range(10):
            pipe(d)[i] = i
        pipe(q).get()
        for _ in range(10):
            pipe(d).get("a", b"x" * size)
        waits = signals_when(lambda: census.parked() == 1, 1, interrupt)
        with waits, pytest.raises(Interrupt):
            pipe.execute()
        assert [d.get(key) for key in ("a", 0, 9)] == [1, 0, 9]
        assert d._tls.connection is not connection
        q.put("item")
        assert q.get() == "item"  # the call that waited takes nothing
        with manager.pipeline() as pipe:
            pipe(d).get("a")
            pipe(d).get(5)
        assert pipe.results == [1, 5]
        assert manager._number_of_objects() == 3
        poll(lambda: in_thread(census.parked) == 0, "nothing waits")


def put_and_get(address: str, ident: str) -> str:
    q = managers.AutoProxy(managers.Token("Queue", address, ident), "pickle", authkey=KEY)
    q.put("item")
    taken: str = q.get(True, DEADLINE)
    return taken


@pytest.mark.timeout(60)
def test_interrupted_pipeline_takes_nothing() -> None:
    """Its process may do nothing for long; another's item is not for the call that waited."""
    interrupts = 0

    def interrupt() -> None:
        nonlocal interrupts
        interrupts += 1
        if interrupts == 1:
            raise Interrupt

    with EchoManager(authkey=KEY) as manager:
        q, census = manager.Queue(), manager.Census()
        pipe = manager.pipeline()
        pipe(q).get()
        handle = int(census._token.id, 16)
        with FastPeer(manager.address) as peer:  # this process has no other connection
            waits = signals_when(lambda: peer.method(handle, "parked").payload, 1, interrupt)
            with waits, pytest.raises(Interrupt):
                pipe.execute()
        assert call_in_subprocess(put_and_get, manager.address, q._token.id) == "item"


@pytest.mark.parametrize("size", [1, 1_000_000], ids=["receiving", "sending"])
def test_signals_that_are_handled(manager: Any, size: int) -> None:
    """They are seen while it waits, and it goes on."""
    d, q, census = manager.dict(), manager.Queue(), manager.Census()
    pipe = manager.pipeline()
    pipe(q).get()
    for _ in range(10):
        pipe(d).setdefault("x", b"x" * size)
    handled: list[int] = []

    def handle() -> None:
        handled.append(1)
        if len(handled) == 20:
            release.set()

    release = threading.Event()
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: release.wait(DEADLINE) and q.put("item"))
        with signals_when(lambda: census.parked() == 1, 20, handle):
            results = pipe.execute()
    assert results == ["item"] + [b"x" * size] * 10
    assert len(handled) >= 20


def test_a_server_that_goes_away_in_the_middle() -> None:
    with EchoManager() as manager:
        q, d, census = manager.Queue(), manager.dict(), manager.Census()
        pipe = manager.pipeline()
        pipe(q).get()
        for _ in range(5):
            pipe(d)["x"] = b"x" * 1_000_000

        def end() -> None:
            poll(lambda: census.parked() == 1, "the call waits")
            os.kill(manager._process.pid, signal.SIGKILL)

        thread = threading.Thread(target=end)
        thread.start()
        with pytest.raises((OSError, EOFError)):
            pipe.execute()
        thread.join(DEADLINE)
        with pytest.raises((OSError, EOFError)):
            d.copy()


def test_large_reply_that_is_pickled(manager: Any) -> None:
    """It is read when the channel is free again; and may then make calls of its own."""
    d = manager.dict()
    inner = manager.list([1])
    d["x"] = [inner, Echo, b"x" * 1_000_000]
    with manager.pipeline() as pipe:
        for _ in range(20):
            pipe(d)["x"]
            pipe(d).get("y", b"y" * 100_000)
    for proxy, kind, data in pipe.results[::2]:
        assert (proxy[0], kind, data) == (1, Echo, b"x" * 1_000_000)
    assert pipe.results[1::2] == [b"y" * 100_000] * 20


# With a server of the stdlib's


class StockManager(stdlib.SyncManager):
    """With Echo, too."""


StockManager.register("Echo", Echo)


def test_with_a_stock_server() -> None:
    with StockManager(authkey=KEY) as server:
        manager = EchoManager(server.address, KEY)
        manager.connect()
        d, items, echo = manager.dict(a=1), manager.list([3, 1, 2]), manager.Echo()
        with manager.pipeline(errors="return") as pipe:
            pipe(d).update(b=2)
            pipe(d).update({"c": 3}, d=Echo)
            pipe(items).sort(reverse=True)
            pipe(items)[:]
            pipe(echo).echo(value={"x": Echo})
            pipe(echo).fail(text="of mine")
            pipe(d)["missing"]
            pipe(d).__iter__()
            pipe(d).copy()
            pipe(d).incr("a")  # a stock server knows no such thing
        *plain, mine, missing, iterator, copy, incr = pipe.results
        assert plain == [None, None, None, [3, 2, 1], {"x": Echo}]
        assert (type(mine), mine.args) == (ValueError, ("of mine",))
        assert (type(missing), missing.args) == (KeyError, ("missing",))
        assert next(iterator) == "a"
        assert copy == {"a": 1, "b": 2, "c": 3, "d": Echo}
        assert type(incr) is fastmgr.RemoteError
        with pytest.raises(ValueError, match="of mine"), manager.pipeline() as pipe:
            pipe(d)["x"] = 1
            pipe(echo).fail("of mine")
            pipe(d)["y"] = 2
        assert sorted(d) == ["a", "b", "c", "d", "x", "y"]
        with manager.pipeline() as pipe:
            for i in range(500):
                pipe(items).append(i)
        assert items[3:] == list(range(500))
        del iterator, d, items, echo, pipe


class Retiring:
    def __init__(self, manager: Any) -> None:
        self.manager = manager

    def __reduce__(self) -> Any:
        self.manager.shutdown()
        return int, (1,)


def test_pipeline_over_a_connection_that_was_closed_meanwhile() -> None:
    """What is raised is the private _StaleConnection, not what it stands for."""
    manager = SyncManager()
    manager.start()
    d = manager.dict()
    pipe = manager.pipeline()
    pipe(d).get(Retiring(manager))
    with pytest.raises((OSError, EOFError)):
        pipe.execute()


def test_pipeline_with_a_result_that_cannot_be_unpickled() -> None:
    """One such takes all results with it, and the references of the proxies among them."""
    with EchoManager() as manager:
        echo, d = manager.Echo(), manager.dict(a=1)
        pipe = manager.pipeline(errors="return")
        pipe(d).__iter__()
        pipe(echo).unreadable()
        pipe(d).get("a")
        try:
            results = pipe.execute()
        except ZeroDivisionError as error:
            results = [error]
        assert manager._number_of_objects() == 2 + (len(results) == 3)
    assert [type(result) for result in results[1:]] == [ZeroDivisionError, int]


def test_recorder_records_methods_that_every_object_has(manager: Any) -> None:
    """``__setattr__``, ``__str__``, ``__le__``: those of the Recorder itself are found."""
    namespace = manager.Namespace(x=1)
    with manager.pipeline() as pipe:
        pipe(namespace).__setattr__("x", 2)
        pipe(namespace).__getattribute__("x")
        pipe(manager.list([1])).__str__()
    assert pipe.results == [None, 2, "[1]"]
