"""What failed is told with a later call: by which, in which words, and how often."""

from __future__ import annotations

import contextlib
import copy
import gc
import pickle
import queue
import threading
from typing import Any

import pytest
from support import DEADLINE, KEY, in_thread, poll, settle
from support.oneway import (
    Item,
    OnewayManager,
    Ours,
    cause_of,
    exposing_everything,
    failure_of,
    posted,
)

from fastmgr import OnewayError, RemoteError, managers, oneway


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


def test_creating_after_a_failure_that_must_be_pickled(own_manager: Any) -> None:
    """The loop hands the reply to a worker (`undelivered`), which sends it with handle 0."""
    q = own_manager.Queue(1)
    q.put(1)
    oneway(q).put_nowait(2)
    d = own_manager.dict(a=1)
    error = failure_of(d.get, "a")
    assert (type(cause_of(error)), error.result) == (queue.Full, 1)


def test_proxy_after_a_failure_that_must_be_pickled(own_manager: Any) -> None:
    """The same."""
    q, d = own_manager.Queue(1), own_manager.dict(a=1)
    q.put(1)
    oneway(q).put_nowait(2)
    error = failure_of(iter, d)
    assert type(cause_of(error)) is queue.Full
    assert next(error.result) == "a"


def test_failures_before_and_after_an_object_is_created(own_manager: Any) -> None:
    """The second report overwrites the first (`self.failure` in FastChannel.check)."""
    journal = own_manager.Journal()
    oneway(journal).fail("first")
    d = own_manager.dict()
    oneway(journal).fail("second")
    error = failure_of(len, d)
    assert cause_of(error).args == ("first",)
    assert error.failed == 2


def test_oneway_error_can_be_pickled_and_copied() -> None:
    """A process pool whose task raises it hangs in its parent otherwise."""
    for make in (lambda error: pickle.loads(pickle.dumps(error)), copy.copy):
        error = make(OnewayError(2, 5, "dict.pop() of object 1", "KeyError: 1", False))
        assert (error.failed, error.result, error.made) == (2, 5, False)
        assert str(error).startswith(
            "the one-way call dict.pop() of object 1 failed: KeyError: 1 (and 1 more after it); "
        )


def test_failure_that_nobody_asks_for_is_not_dropped_on_the_loop(own_manager: Any) -> None:
    """With its connection goes `Conn.failure`, and with that the frames of the failed call."""
    marking = own_manager.Marking()
    marking.begin()
    in_thread(lambda: oneway(marking).fail())
    poll(marking.ended, "the error is gone")
    assert "loop" not in marking.ended()


def test_failure_does_not_keep_what_the_call_was_given(own_manager: Any) -> None:
    """Its traceback does."""
    marking = own_manager.Marking()
    marking.begin()

    def client() -> None:
        oneway(marking).fail_with(Item())
        gc.collect()
        poll(lambda: in_thread(marking.ended), "the argument is gone")

    try:
        in_thread(client, timeout=2 * DEADLINE)
    finally:
        with contextlib.suppress(OnewayError):
            marking.ended()


def test_stock_server_and_an_argument_that_cannot_be_pickled(stock_manager: Any) -> None:
    """`StockSession.post` has taken the failures known so far, and drops them."""
    d = stock_manager.dict()
    oneway(d).pop("first")
    with pytest.raises(TypeError):
        oneway(d).get(threading.Lock())
    oneway(d).pop("second")
    error = failure_of(len, d)
    assert (error.failed, cause_of(error).args) == (2, ("first",))


def test_stock_server_and_an_error_that_cannot_be_unpickled(stock_manager: Any) -> None:
    """It is raised by the one-way call itself, and the failures before are forgotten."""
    journal = stock_manager.Journal()
    oneway(journal).fail("before")
    oneway(journal).fail_unloadable()
    oneway(journal).fail("after")
    error = failure_of(journal.all)
    assert (error.failed, cause_of(error).args) == (3, ("before",))


def test_failures_are_counted_where_the_first_cannot_be_unpickled(own_manager: Any) -> None:
    """`with_failure` says 1."""
    journal = own_manager.Journal()
    oneway(journal).fail_unloadable()
    oneway(journal).fail("another")
    oneway(journal).fail("another")
    error = failure_of(journal.all)
    assert type(cause_of(error)) is TypeError
    assert error.failed == 3


def test_error_that_holds_a_proxy(own_manager: Any) -> None:
    """Nothing holds the entry until the client has read it, as `in_transit` does of replies."""
    d, inner = own_manager.dict(), own_manager.list([1])
    oneway(d)[inner]
    del inner
    cause = cause_of(failure_of(d.get, 1))
    assert type(cause) is KeyError
    assert cause.args[0][0] == 1


class Asks:
    """Pickling it makes a call of the same thread."""

    def __init__(self, d: Any) -> None:
        self.d = d

    def __reduce__(self) -> Any:
        return int, (len(self.d),)


def test_stock_server_and_a_call_inside_another(stock_manager: Any) -> None:
    """The inner call goes over a connection of its own: failures are told by the next outer one."""
    d = stock_manager.dict()
    oneway(d).pop("nothing")
    oneway(d).update(a=Asks(d))
    error = failure_of(len, d)
    assert (error.failed, error.result, cause_of(error).args) == (1, 1, ("nothing",))
