"""Calls that wait for no reply: served in order, and their failures are told with a later call."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
from support import (
    DEADLINE,
    KEY,
    SANITIZED,
    Script,
    in_thread,
    poll,
    rss_bytes,
    settle,
)
from support.oneway import OnewayManager, Ours, Unpicklable, cause_of, failure_of

from fastmgr import OnewayError, RemoteError, managers, oneway


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[OnewayManager]:
    with OnewayManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(params=["fast", "stock"])
def any_manager(request: pytest.FixtureRequest) -> OnewayManager:
    name = "shared_manager" if request.param == "fast" else "stock_manager"
    found: OnewayManager = request.getfixturevalue(name)
    settle(found, 0)
    return found


def posted(manager: OnewayManager, function: Callable[[], Any]) -> Future[Any]:
    """`function()` in a thread of its own, once one of its calls waits in the server."""
    census = manager.Census()
    before = in_thread(census.parked)
    with contextlib.ExitStack() as stack:
        executor = ThreadPoolExecutor(1)
        stack.callback(executor.shutdown, wait=False)
        future = executor.submit(function)
        poll(lambda: census.parked() == before + 1, "the call waits")
    return future


# The order


def test_nothing_is_returned(any_manager: OnewayManager) -> None:
    d = any_manager.dict(a=1)
    calls = oneway(d)
    assert calls.get("a") is None
    assert calls.update(b=2) is None
    assert calls["a"] is None  # type: ignore[func-returns-value]
    assert d.copy() == {"a": 1, "b": 2}


@pytest.mark.parametrize("values", ["plain", "pickled", "mixed"])
def test_order_with_ordinary_calls(any_manager: OnewayManager, values: str) -> None:
    """Plain values are served by the loop, pickled ones by a worker; the order is the thread's."""

    def value(i: int) -> Any:
        pickled = values == "pickled" or (values == "mixed" and i % 7 == 0)
        return {i: Ours} if pickled else i

    items = any_manager.list()
    for i in range(0, 300, 3):
        oneway(items).append(value(i))
        oneway(items).insert(i + 1, value(i + 1))
        items.append(value(i + 2))
        assert len(items) == i + 3
    assert items[:] == [value(i) for i in range(300)]


def test_order_with_a_users_class(any_manager: OnewayManager) -> None:
    journal, items = any_manager.Journal(), any_manager.list()
    for i in range(0, 200, 2):
        oneway(journal).note(i)
        oneway(items).append(i)
        assert journal.note(i + 1) == i + 1
        assert len(items) == i // 2 + 1
    assert journal.all() == list(range(200))
    assert items[:] == list(range(0, 200, 2))


def test_order_with_pipelines(any_manager: OnewayManager) -> None:
    items = any_manager.list()
    for i in range(0, 90, 3):
        oneway(items).append(i)
        with any_manager.pipeline() as pipe:
            pipe(items).append(i + 1)
            pipe(items).pop(0)
        oneway(items).append(i + 2)
        assert pipe.results[1] is not None
    assert items[-2:] == [88, 89]


def test_each_thread_has_its_order(any_manager: OnewayManager) -> None:
    journal = any_manager.Journal()

    def client(name: int) -> None:
        for i in range(100):
            oneway(journal).note((name, i))
        assert (name, 99) in journal.all()

    with ThreadPoolExecutor(4) as clients:
        for done in [clients.submit(client, name) for name in range(4)]:
            done.result(DEADLINE)
    notes = journal.all()
    assert len(notes) == 400
    for name in range(4):
        assert [i for other, i in notes if other == name] == list(range(100))


def test_calls_of_a_thread_run_on_one(manager: OnewayManager) -> None:
    """What a thread owns in the server is its own."""
    lock = manager.RLock()
    oneway(lock).acquire()
    assert lock.acquire(False)
    assert not in_thread(lock.acquire, False)
    oneway(lock).release()
    oneway(lock).release()
    manager.Event().is_set()  # all of them are served
    assert in_thread(lock.acquire, False)
    journal = manager.Journal()
    oneway(journal).note(0)
    thread = journal.thread()
    oneway(journal).note(1)
    assert journal.thread() == thread


# Arguments


def test_arguments(any_manager: OnewayManager) -> None:
    journal, d = any_manager.Journal(), any_manager.dict()
    oneway(journal).note(1, by="keyword", of=Ours)
    oneway(journal).note(value={"any": [Ours, 2.5, None]})
    oneway(d).update([("a", 1)], b=Ours)
    assert journal.all() == [
        {"value": 1, "by": "keyword", "of": Ours},
        {"any": [Ours, 2.5, None]},
    ]
    assert d.copy() == {"a": 1, "b": Ours}


@pytest.mark.parametrize(
    "value",
    [b"b" * 3_000_000, bytearray(b"a" * 3_000_000), "s" * 3_000_000, [b"x" * 1000] * 3000],
    ids=["bytes", "bytearray", "str", "list"],
)
def test_large_arguments(any_manager: OnewayManager, value: Any) -> None:
    d, journal = any_manager.dict(), any_manager.Journal()
    oneway(d).setdefault("large", value)
    oneway(journal).note(value)
    oneway(d)["after"] = 1
    assert d["large"] == value
    assert journal.all() == [value]
    assert type(journal.all()[0]) is type(value)
    assert d["after"] == 1


def test_large_results_are_not_sent(manager: OnewayManager) -> None:
    """They would fill the sockets: nobody reads them."""
    items = manager.list(["x" * 1000] * 1000)
    for _ in range(50):
        oneway(items).copy()
        oneway(items)[:]
    assert len(items) == 1000


def test_proxies_as_arguments(any_manager: OnewayManager) -> None:
    outer, inner = any_manager.list(), any_manager.list([5])
    oneway(outer).append(inner)
    del inner  # the server holds it, once it has served the call
    assert outer[0][0] == 5
    oneway(outer).clear()
    del outer
    settle(any_manager, 0)


def test_an_argument_that_cannot_be_pickled(any_manager: OnewayManager) -> None:
    """That is known at once; the connection stays, and nothing is left to tell."""
    d = any_manager.dict()
    d["a"] = 1
    connection = d._tls.connection
    for _ in range(3):
        with pytest.raises(TypeError, match="pickle"):
            oneway(d).update(b=threading.Lock())
        with pytest.raises(TypeError, match="pickle"):
            oneway(d)["b"] = threading.Lock()
    assert d.copy() == {"a": 1}
    oneway(d)["c"] = 3
    assert d.copy() == {"a": 1, "c": 3}
    assert d._tls.connection is connection


class Asking:
    """Pickling it makes calls of its own, by the same thread."""

    def __init__(self, d: Any) -> None:
        self.d = d

    def __reduce__(self) -> Any:
        oneway(self.d).setdefault("oneway", "first")
        return str, (self.d["oneway"],)


@pytest.mark.timeout(30)
def test_pickling_an_argument_may_make_calls(any_manager: OnewayManager) -> None:
    d = any_manager.dict()
    oneway(d)["a"] = Asking(d)
    d["b"] = Asking(d)
    assert d.copy() == {"oneway": "first", "a": "first", "b": "first"}


# Results


def test_results_that_would_be_shared_are_not(any_manager: OnewayManager) -> None:
    d, journal = any_manager.dict(a=1), any_manager.Journal()
    before = any_manager._debug_info()
    for _ in range(20):
        oneway(d).__iter__()  # by the loop
        oneway(journal).page()  # by a worker
    assert len(d) == 1
    assert journal.all() == []
    assert any_manager._number_of_objects() == 2
    assert any_manager._debug_info() == before
    oneway(journal).fail_page()
    assert cause_of(failure_of(len, d)).args == ("no page",)
    assert any_manager._number_of_objects() == 2


def test_a_result_that_was_all_that_held_an_object_ends_it(any_manager: OnewayManager) -> None:
    outer = any_manager.dict()
    outer["inner"] = any_manager.list([1])
    oneway(outer).pop("inner")
    assert outer.copy() == {}
    settle(any_manager, 1)


def test_a_result_that_cannot_be_pickled_is_no_failure(manager: OnewayManager) -> None:
    """Nobody wants it; so nobody need know."""
    journal = manager.Journal()
    oneway(journal).note(Unpicklable)
    oneway(manager.Sleeper()).slow(0, 1)
    oneway(journal).__str__()
    assert journal.all() == [Unpicklable]


# Calls that wait


class Wait(NamedTuple):
    make: Callable[[Any], Any]
    prepare: Callable[[Any], Any]
    post: Callable[[Any], Any]
    release: Callable[[Any], Any]


WAITS = {
    "lock": Wait(
        lambda m: m.Lock(), lambda p: p.acquire(), lambda c: c.acquire(), lambda p: p.release()
    ),
    "semaphore": Wait(
        lambda m: m.Semaphore(0), lambda p: None, lambda c: c.acquire(), lambda p: p.release()
    ),
    "full queue": Wait(
        lambda m: m.Queue(1), lambda p: p.put(0), lambda c: c.put(1), lambda p: p.get()
    ),
    "full queue, pickled": Wait(
        lambda m: m.Queue(1), lambda p: p.put(0), lambda c: c.put(Ours), lambda p: p.get()
    ),
    "empty queue": Wait(lambda m: m.Queue(), lambda p: None, lambda c: c.get(), lambda p: p.put(1)),
    "event": Wait(lambda m: m.Event(), lambda p: None, lambda c: c.wait(), lambda p: p.set()),
    "barrier": Wait(lambda m: m.Barrier(2), lambda p: None, lambda c: c.wait(), lambda p: p.wait()),
}


@pytest.mark.parametrize("pinned", [False, True], ids=["loop", "pinned"])
@pytest.mark.parametrize("name", WAITS)
def test_a_call_that_waits_holds_up_those_behind_it(
    manager: OnewayManager, name: str, pinned: bool
) -> None:
    wait = WAITS[name]
    d, shared = manager.dict(), wait.make(manager)
    wait.prepare(shared)

    def client() -> dict[str, int]:
        if pinned:  # a user's class makes the connection a thread's in the server
            assert manager.Journal().all() == []
        wait.post(oneway(shared))
        oneway(d)["oneway"] = 1
        d["ordinary"] = 2
        return d.copy()

    future = posted(manager, client)
    assert d.copy() == {}
    assert not future.done()
    wait.release(shared)
    assert future.result(DEADLINE) == {"oneway": 1, "ordinary": 2}


def test_what_a_call_took_is_held(manager: OnewayManager) -> None:
    lock = manager.Lock()
    lock.acquire()

    def client() -> None:
        oneway(lock).acquire()
        assert lock.acquire(False) is False
        assert not in_thread(lock.acquire, False)
        oneway(lock).release()
        assert lock.acquire(False) is True

    future = posted(manager, client)
    lock.release()
    future.result(DEADLINE)


def test_queue(any_manager: OnewayManager) -> None:
    q = any_manager.Queue()
    for i in range(100):
        oneway(q).put({i: Ours} if i % 9 == 0 else i)
    assert q.qsize() == 100
    assert [q.get() for _ in range(100)] == [{i: Ours} if i % 9 == 0 else i for i in range(100)]
    full = any_manager.Queue(1)
    oneway(full).put("taken")
    oneway(full).put("refused", False)
    oneway(full).put("given up", True, 0.01)
    error = failure_of(full.qsize)
    assert (error.failed, type(cause_of(error)), error.result) == (2, queue.Full, 1)
    assert "Queue.put() of object" in str(error) and "Full" in error.reason
    assert full.get() == "taken"


def test_event_wakes_who_waits(manager: OnewayManager) -> None:
    event, done = manager.Event(), manager.Event()

    def client() -> bool:
        event.wait()
        oneway(done).set()
        return event.is_set()

    future = posted(manager, client)
    oneway(event).set()
    assert future.result(DEADLINE)
    assert done.wait(DEADLINE)


# Failures


def exposing_everything(proxy: Any) -> Any:
    """A proxy of the same object of which nothing is known here; `proxy` has to outlive it."""
    return managers.BaseProxy(proxy._token, "pickle", authkey=KEY, incref=False)


def test_failure_is_raised_by_the_next_call(any_manager: OnewayManager) -> None:
    d = any_manager.dict(a=1)
    oneway(d).pop("nothing")
    oneway(d)["b"] = 2
    error = failure_of(d.get, "b")
    assert (error.failed, error.result) == (1, 2)
    assert type(cause_of(error)) is KeyError
    assert cause_of(error).args == ("nothing",)
    call = f"dict.pop() of object {d._token.id}"
    assert str(error) == f"the one-way call {call} failed: KeyError: 'nothing'"
    assert d.get("a") == 1  # it is not told again


def test_failure_of_a_users_class(any_manager: OnewayManager) -> None:
    journal = any_manager.Journal()
    oneway(journal).fail("of mine")
    error = failure_of(journal.note, {"x": Ours})
    assert (error.failed, error.result) == (1, {"x": Ours})
    assert type(cause_of(error)) is Ours
    assert cause_of(error).args == ("of mine",)
    assert journal.all() == [{"x": Ours}]


def test_failures_are_counted_and_the_first_is_the_cause(any_manager: OnewayManager) -> None:
    d, journal = any_manager.dict(), any_manager.Journal()
    oneway(journal).fail("first")
    for i in range(50):
        oneway(d).pop(i)
        oneway(journal).fail(str(i))
        oneway(d)[i] = i
    error = failure_of(len, d)
    assert (error.failed, error.result) == (101, 50)
    call = f"Journal.fail() of object {journal._token.id}"
    reason = f"{Ours.__module__}.Ours: first"
    assert str(error) == f"the one-way call {call} failed: {reason} (and 100 more after it)"
    assert cause_of(error).args == ("first",)
    oneway(d).pop("later")
    error = failure_of(len, d)
    assert (error.failed, cause_of(error).args) == (1, ("later",))
    assert len(d) == 50


def test_names_that_are_not_exposed(any_manager: OnewayManager) -> None:
    items = any_manager.list()
    with pytest.raises(AttributeError, match="exposes no method 'no_such_method'"):
        oneway(items).no_such_method()
    assert len(items) == 0
    calls = oneway(exposing_everything(items))
    calls.no_such_method()  # the server knows
    calls.append(1)
    error = failure_of(len, items)
    assert (error.failed, error.result) == (1, 1)
    assert type(cause_of(error)) is RemoteError
    assert "method 'no_such_method' of <class 'list'> object is not in" in str(cause_of(error))
    assert "list.no_such_method() of object" in str(error)
    assert len(str(error).splitlines()) == 1


def test_object_that_is_gone(any_manager: OnewayManager) -> None:
    items, gone = any_manager.list([7]), any_manager.list()
    ident = gone._token.id
    calls = oneway(exposing_everything(gone))
    del gone
    settle(any_manager, 1)
    calls.append(1)
    calls.append(2)
    error = failure_of(items.index, 7)
    assert (error.failed, error.result) == (2, 0)
    assert type(cause_of(error)) is RemoteError
    assert f"append() of object {ident} failed: KeyError" in str(error)
    assert "KeyError" in str(cause_of(error))
    assert ident in str(cause_of(error))


def test_error_that_cannot_be_pickled(any_manager: OnewayManager) -> None:
    journal = any_manager.Journal()
    oneway(journal).fail_unpicklable()
    oneway(journal).fail("another")
    error = failure_of(journal.all)
    assert (error.failed, error.result) == (2, [])
    assert type(cause_of(error)) is RemoteError
    assert "Unserializable" in str(cause_of(error))
    assert journal.all() == []


def test_error_that_cannot_be_unpickled(manager: OnewayManager) -> None:
    journal = manager.Journal()
    connection = journal._tls.connection
    oneway(journal).fail_unloadable()
    error = failure_of(journal.note, 3)
    assert (error.failed, error.result) == (1, 3)
    assert type(cause_of(error)) is TypeError
    assert "other" in str(cause_of(error))
    assert "Journal.fail_unloadable() of object" in str(error)
    assert journal.all() == [3]
    assert journal._tls.connection is connection


def test_calls_with_the_wrong_arguments(any_manager: OnewayManager) -> None:
    items = any_manager.list()
    oneway(items).append()
    oneway(items).append(1, 2)
    oneway(items).append(value=1)
    oneway(items).append(1)
    error = failure_of(len, items)
    assert (error.failed, error.result) == (3, 1)
    assert type(cause_of(error)) is TypeError


# The call that tells of failures


def test_it_may_fail_itself(any_manager: OnewayManager) -> None:
    d, journal = any_manager.dict(), any_manager.Journal()
    for call, kind, text in [
        (lambda: d["missing"], KeyError, "missing"),
        (lambda: journal.fail("too"), Ours, "too"),
        (lambda: exposing_everything(d)._callmethod("nothing"), RemoteError, "nothing"),
        (lambda: journal.fail_unpicklable(), RemoteError, "Unserializable"),
    ]:
        oneway(journal).fail("before")
        error = failure_of(call)
        assert (error.failed, cause_of(error).args) == (1, ("before",))
        assert type(error.result) is kind
        assert text in str(error.result)
        assert len(d) == 0


def test_it_may_return_a_proxy(any_manager: OnewayManager) -> None:
    d, journal = any_manager.dict(a=1), any_manager.Journal()
    for call, expected in [(lambda: iter(d), "a"), (lambda: journal.page(), 5)]:
        journal.note(5)
        oneway(d).pop("nothing")
        error = failure_of(call)
        proxy = error.result
        assert any_manager._number_of_objects() == 3
        del error
        assert (next(proxy) if expected == "a" else proxy[0]) == expected
        del proxy
        settle(any_manager, 2)


@pytest.mark.parametrize("cause", [KeyError, queue.Full])
def test_it_may_wait(manager: OnewayManager, cause: type[Exception]) -> None:
    """What is told with it is at hand long before its own result."""
    d, full, q = manager.dict(), manager.Queue(1), manager.Queue(1)
    full.put(1)
    q.put(1)

    def client() -> OnewayError:
        if cause is KeyError:
            oneway(d).pop("nothing")
        else:
            oneway(full).put_nowait(2)
        return failure_of(q.put, {"item": Ours})

    future = posted(manager, client)
    assert q.get() == 1
    error = future.result(DEADLINE)
    assert (error.failed, type(cause_of(error)), error.made) == (1, cause, True)
    assert q.get() == {"item": Ours}


@pytest.mark.parametrize("cause", [KeyError, queue.Full])
@pytest.mark.parametrize("created", [False, True], ids=["", "created"])
def test_what_it_would_take_is_not_taken(
    any_manager: OnewayManager, cause: type[Exception], created: bool
) -> None:
    """Who is told by an exception has no lock to release, and no item to work on."""
    d, full = any_manager.dict(a=1), any_manager.Queue(1)
    lock, condition, permits = any_manager.Lock(), any_manager.Condition(), any_manager.Semaphore()
    q, items = any_manager.Queue(), any_manager.list("z")
    full.put(1)
    q.put("z")
    iterator = iter(d)
    takes = [
        (lock.__enter__, lambda: lock.acquire(False) and not lock.release()),
        (lock.acquire, lambda: lock.acquire(False) and not lock.release()),
        (permits.acquire, lambda: permits.acquire(False) and not permits.release()),
    ]
    # By the time something is created these are steps of the client's, which tell of nothing.
    for call, unchanged in [
        *([] if created else takes),
        (condition.__enter__, lambda: condition.acquire(False) and not condition.release()),
        (q.get, lambda: q.qsize() == 1),
        (q.get_nowait, lambda: q.qsize() == 1),
        (items.pop, lambda: items[:] == ["z"]),
        (lambda: d.pop("a"), lambda: d.copy() == {"a": 1}),
        (lambda: next(iterator), lambda: next(iterator) == "a"),
    ]:
        if cause is KeyError:
            oneway(d).pop("nothing")
        else:
            oneway(full).put_nowait(2)
        if created:
            any_manager.Event()  # its reply brings what has failed
        error = failure_of(call)
        assert (error.failed, type(cause_of(error))) == (1, cause)
        assert (error.result, error.made) == (None, False)
        assert "was not made" in str(error)
        assert in_thread(unchanged)


def test_creating_an_object_tells_of_nothing(any_manager: OnewayManager) -> None:
    """Nor do the manager's own questions; the next call of a method does."""
    d = any_manager.dict(a=1)
    oneway(d).pop("nothing")
    other, journal = any_manager.list([2]), any_manager.Journal()
    assert any_manager._number_of_objects() == 3
    copy = managers.ListProxy(other._token, "pickle", authkey=KEY)  # takes a reference
    del copy
    error = failure_of(len, other)
    assert (error.failed, error.result) == (1, 1)
    assert cause_of(error).args == ("nothing",)
    assert journal.all() == []
    assert d.copy() == {"a": 1}


def test_more_one_way_calls_tell_of_nothing(any_manager: OnewayManager) -> None:
    d = any_manager.dict()
    for i in range(10):
        oneway(d).pop("nothing")
        oneway(d)[i] = i
    assert failure_of(len, d).failed == 10


def test_it_may_be_of_another_proxy_but_not_of_another_manager(manager: OnewayManager) -> None:
    d, value = manager.dict(), manager.Value("i", 3)
    with OnewayManager() as other:
        theirs = other.list([1])
        oneway(d).pop("nothing")
        assert theirs[0] == 1
        oneway(theirs).pop(9)
        assert cause_of(failure_of(value.get)).args == ("nothing",)
        assert type(cause_of(failure_of(theirs.pop))) is IndexError


def test_other_threads_are_told_nothing(any_manager: OnewayManager) -> None:
    d, journal = any_manager.dict(a=1), any_manager.Journal()
    oneway(d).pop("nothing")
    oneway(journal).fail("mine")

    def other() -> tuple[int, list[int]]:
        assert journal.all() == []
        oneway(d)["b"] = 2
        with any_manager.pipeline() as pipe:
            pipe(d).get("b")
        return d["a"], pipe.results

    for _ in range(3):
        assert in_thread(other) == (1, [2])

    def failing() -> None:
        oneway(journal).fail("theirs")  # and nobody asks

    in_thread(failing)
    error = failure_of(len, d)
    assert (error.failed, cause_of(error).args) == (2, ("nothing",))
    assert len(d) == 2


# The same with pipelines


@pytest.mark.parametrize("errors", ["raise", "return"])
def test_pipeline_tells_in_the_place_of_its_first_result(
    any_manager: OnewayManager, errors: Any
) -> None:
    d, journal = any_manager.dict(a=1), any_manager.Journal()
    oneway(d).pop("nothing")
    oneway(journal).fail("second")
    pipe = any_manager.pipeline(errors)
    pipe(d).get("a")
    pipe(journal).note(2)
    pipe(d).get("a", 3)
    if errors == "raise":
        error = failure_of(pipe.execute)
        assert pipe.results[0] is error
    else:
        error = pipe.execute()[0]
    assert (error.failed, error.result) == (2, 1)
    assert cause_of(error).args == ("nothing",)
    assert pipe.results[1:] == [2, 1]
    pipe(d).get("a")
    assert pipe.execute() == [1]
    assert len(d) == 1


def test_pipeline_whose_first_call_fails_too(any_manager: OnewayManager) -> None:
    d, journal = any_manager.dict(a=1), any_manager.Journal()
    oneway(d).pop("nothing")
    with any_manager.pipeline("return") as pipe:
        pipe(journal).fail("itself")
        pipe(d)["other"]
        pipe(d).get("a")
    first, second, third = pipe.results
    assert type(first) is OnewayError
    assert type(first.result) is Ours
    assert (type(second), third) == (KeyError, 1)
    assert len(d) == 1


def test_pipeline_whose_first_result_is_a_proxy(any_manager: OnewayManager) -> None:
    d = any_manager.dict(a=1)
    oneway(d).pop("nothing")
    with any_manager.pipeline("return") as pipe:
        pipe(d).__iter__()
        pipe(d).__iter__()
    assert any_manager._number_of_objects() == 3
    assert next(pipe.results[0].result) == next(pipe.results[1]) == "a"
    pipe.results.clear()
    settle(any_manager, 1)


@pytest.mark.parametrize("first", [Ours, b"x" * 1_000_000], ids=["pickled", "large"])
def test_pipeline_whose_first_result_is(any_manager: OnewayManager, first: Any) -> None:
    d = any_manager.dict(a=first)
    oneway(d).pop("nothing")
    with any_manager.pipeline("return") as pipe:
        for _ in range(5):
            pipe(d).get("a")
    assert type(pipe.results[0]) is OnewayError
    assert pipe.results[0].result == first
    assert pipe.results[1:] == [first] * 4


def test_empty_pipeline_tells_nothing(any_manager: OnewayManager) -> None:
    d = any_manager.dict()
    oneway(d).pop("nothing")
    assert any_manager.pipeline().execute() == []
    assert failure_of(len, d).failed == 1


# Many


@contextlib.contextmanager
def little_memory(manager: OnewayManager) -> Iterator[Callable[[], None]]:
    """What this process and the server have grown by, now and at the end, is little."""
    pids = os.getpid(), manager._process.pid
    before = [rss_bytes(pid) for pid in pids]

    def check() -> None:
        grown = [rss_bytes(pid) - had for pid, had in zip(pids, before, strict=True)]
        # A sanitizer's own memory says nothing: it keeps what has been freed.
        assert max(grown) < 20_000_000 or SANITIZED, grown

    yield check
    check()


def test_slow_methods_hold_the_sender_up(manager: OnewayManager) -> None:
    """Neither side keeps what the other is too slow for."""
    journal = manager.Journal()
    assert journal.served() == 0
    with little_memory(manager):
        work = oneway(journal).work
        for _ in range(100_000):
            work()
        assert journal.served() == 100_000


def test_a_call_that_waits_holds_the_sender_up(manager: OnewayManager) -> None:
    lock, d = manager.Lock(), manager.dict()
    lock.acquire()
    sent = 0

    def client() -> None:
        nonlocal sent
        oneway(lock).acquire()
        for _ in range(1500):
            oneway(d)["x"] = b"x" * 50_000
            sent += 1
        assert len(d) == 1

    seen = -1

    def stuck() -> bool:
        nonlocal seen
        seen, last = sent, seen
        return seen == last

    with little_memory(manager) as check:
        future = posted(manager, client)
        poll(stuck, "no more is sent")
        assert sent < 1500
        check()
        assert not future.done()
        lock.release()
        future.result(DEADLINE)
    assert sent == 1500


def test_failures_do_not_pile_up(manager: OnewayManager) -> None:
    journal = manager.Journal()
    with little_memory(manager):
        for _ in range(300):
            oneway(journal).fail("x" * 200_000)
        assert failure_of(journal.all).failed == 300


# Processes


CALLS_AT_THE_END = 100  # what the sockets hold while nothing is served


def post_and_end(address: str, typeid: str, ident: str, method: str, how: str) -> None:
    """In a process of its own: one-way calls, and then its end."""
    token = managers.Token(typeid, address, ident)
    proxy = managers.AutoProxy(token, "pickle", authkey=KEY)
    if typeid == "Journal":
        oneway(proxy).await_gate()
    call = getattr(oneway(proxy), method)
    for i in range(CALLS_AT_THE_END):
        call(i)
    if how == "exits at once":
        os._exit(0)
    if how == "is killed":
        os.kill(os.getpid(), signal.SIGKILL)


ENDS = ["exits", "exits at once", "is killed"]
METHODS = {"list": "append", "Journal": "note"}


@pytest.fixture(scope="module")
def ending_manager() -> Iterator[OnewayManager]:
    with OnewayManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture(scope="module", autouse=True)
def ending(ending_manager: OnewayManager) -> Iterator[dict[tuple[str, str], tuple[Any, Script]]]:
    """By type and end: an object, and the process that calls it and ends.

    They begin before all tests: one waits for its calls for seconds before it ends.
    """
    found = {}
    with contextlib.ExitStack() as scripts:
        for typeid, how in itertools.product(METHODS, ENDS):
            shared = getattr(ending_manager, typeid)()
            args = (ending_manager.address, typeid, shared._token.id, METHODS[typeid], how)
            script = scripts.enter_context(Script(post_and_end, *args))
            found[typeid, how] = shared, script
        yield found


@pytest.mark.parametrize("how", ENDS)
@pytest.mark.parametrize("typeid", METHODS)
def test_process_that_ends_with_its_calls_unserved(
    ending_manager: OnewayManager,
    ending: dict[tuple[str, str], tuple[Any, Script]],
    typeid: str,
    how: str,
) -> None:
    for _, script in ending.values():
        script.process.wait(DEADLINE)
    shared, script = ending[typeid, how]
    assert script.process.returncode == (-signal.SIGKILL if how == "is killed" else 0)
    ending_manager.Gate().open()
    read = shared._getvalue if typeid == "list" else shared.all
    poll(lambda: len(read()) == CALLS_AT_THE_END, "all calls are served")
    assert read() == list(range(CALLS_AT_THE_END))


def fork_child(items: Any) -> None:
    assert len(items) == 1  # the failure is its parent's
    oneway(items).append("child")
    oneway(items).remove("nothing")
    error = failure_of(len, items)
    assert (error.failed, error.result) == (1, 2)


def test_fork(any_manager: OnewayManager) -> None:
    items = any_manager.list()
    calls = oneway(items)
    calls.append("parent")
    calls.pop(9)
    child = multiprocessing.get_context("fork").Process(target=fork_child, args=(items,))
    child.start()
    child.join(DEADLINE)
    assert child.exitcode == 0
    error = failure_of(items._getvalue)
    assert error.failed == 1
    assert type(cause_of(error)) is IndexError
    assert error.result == ["parent", "child"]


def test_server_that_is_gone() -> None:
    manager = OnewayManager()
    manager.start()
    d = manager.dict()
    oneway(d)["a"] = 1
    assert d["a"] == 1
    manager._process.kill()
    manager._process.join()
    for _ in range(2):
        with pytest.raises((OSError, EOFError)):
            oneway(d)["b"] = 2
            len(d)  # what is sent may have gone before the end was seen
    manager.shutdown()


# What stands for a proxy


def test_recorder_has_the_exposed_methods(manager: OnewayManager) -> None:
    d = manager.dict()
    for calls in (oneway(d), manager.pipeline()(d)):
        for name in type(d)._exposed_:
            assert callable(getattr(calls, name))
        assert calls.get is calls.get
        for name in ("nothing", "append", "_callmethod", "__reversed", "_exposed_"):
            with pytest.raises(AttributeError, match=f"exposes no method {name!r}"):
                getattr(calls, name)
        assert not hasattr(calls, "append")
    calls = oneway(exposing_everything(d))
    assert callable(calls.nothing)


def test_recorder_has_items(any_manager: OnewayManager) -> None:
    d, items = any_manager.dict(), any_manager.list([0, 1, 2])
    calls = oneway(d)
    calls["a"] = 1
    calls["b"] = 2
    del calls["a"]
    calls["b"]
    assert d.copy() == {"b": 2}
    del oneway(items)[0:2]
    oneway(items)[0] = "two"
    oneway(items)[0:0] = ["one"]
    assert items[:] == ["one", "two"]
    oneway(items)[5]
    del oneway(items)[5]
    oneway(items)[5] = 5
    assert failure_of(len, items).failed == 3


def test_a_representation_leaves_what_failed_to_be_told(any_manager: OnewayManager) -> None:
    """It said that it could not be had, and nobody ever heard of the failure."""
    items = any_manager.list()
    for shown in (items, any_manager.Value("i", 5)):
        oneway(items).pop()
        assert "Proxy object, typeid" in repr(shown)
        assert str(shown) in ("[]", "Value('i', 5)")
        assert isinstance(cause_of(failure_of(items.count, 1)), IndexError)
    assert len(items) == 0


def test_what_failed_is_told_by_what_needs_no_call_otherwise(
    shared_manager: OnewayManager,
) -> None:
    """Making an object brought the failure, and steps on shared memory passed it over."""
    items, counter = shared_manager.list(), shared_manager.Counter(5)
    assert counter.get() == 5
    for between in (shared_manager.dict, shared_manager._number_of_objects, items.__str__):
        oneway(items).pop()
        between()
        assert isinstance(cause_of(failure_of(counter.get)), IndexError)
        assert counter.get() == 5


def test_a_counters_text_leaves_what_failed_to_be_told(shared_manager: OnewayManager) -> None:
    items, counter = shared_manager.list(), shared_manager.Counter(5)
    for _ in range(2):
        oneway(items).pop()
        assert (str(counter), str(counter)) == ("5", "5")
        assert isinstance(cause_of(failure_of(counter.get)), IndexError)
        assert counter.get() == 5  # from here on it is at hand
