"""Methods in pipelines: many calls of one become one request, and each has its own result."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from support import in_thread

from fastmgr import RemoteError

MUCH = 600  # more than one request


def test_calls_that_store(engines_manager: Any) -> None:
    """What each replaces is let go, and what each stores is held."""
    shared, items, members = engines_manager.dict(), engines_manager.list(), engines_manager.set()
    inner = engines_manager.list([1])
    with engines_manager.pipeline() as pipe:
        for i in range(MUCH):
            pipe(shared)[i % 100] = inner if i < 100 else i
        for i in range(MUCH):
            pipe(items).append(inner if i % 2 else i)
        for i in range(MUCH):
            pipe(members).add((i, float(i)))
    assert pipe.results == [None] * (3 * MUCH)
    assert shared.copy() == {i % 100: i for i in range(MUCH)}
    assert items[:4:2] == [0, 2] and items[1][:] == [1] and len(items) == MUCH
    assert sorted(members)[1] == (1, 1.0) and type(sorted(members)[1][1]) is float
    items.clear()
    del inner
    gc.collect()
    assert engines_manager._number_of_objects() == 3


def test_calls_that_count(engines_manager: Any) -> None:
    """One that overflows changes nothing, and the others are made."""
    counter, most = engines_manager.Counter(), 2**63 - 1
    with engines_manager.pipeline(errors="return") as pipe:
        for i in range(MUCH):
            pipe(counter).incr(most if i == 300 else 1)
        for _ in range(3):
            pipe(counter).decr(2**53)
    assert pipe.results[:300] == list(range(1, 301))
    assert type(pipe.results[300]) is OverflowError
    assert pipe.results[301:MUCH] == list(range(301, MUCH))
    assert pipe.results[MUCH:] == [MUCH - 1 - 2**53 * i for i in (1, 2, 3)]


def test_calls_that_differ(engines_manager: Any) -> None:
    shared = engines_manager.dict(n=1, text="a")
    with engines_manager.pipeline(errors="return") as pipe:
        pipe(shared).incr("n")
        pipe(shared).incr("n", 2**70)
        pipe(shared).incr("text")
        pipe(shared).incr("text", "b")
        pipe(shared).incr("new", 1, default=5)
        pipe(shared)["k"] = 1
        pipe(shared)[[]] = 1
        pipe(shared)["k"] = 2
    results = [type(one) if isinstance(one, Exception) else one for one in pipe.results]
    assert results == [2, 2 + 2**70, TypeError, "ab", 6, None, TypeError, None]
    assert shared["k"] == 2


def test_calls_of_an_object_that_is_gone(engines_manager: Any) -> None:
    shared = engines_manager.dict()
    shared._close()
    gc.collect()  # the errors of other tests
    assert engines_manager._number_of_objects() == 0
    with engines_manager.pipeline(errors="return") as pipe:
        for i in range(3):
            pipe(shared)[i] = i
    assert [type(one) for one in pipe.results] == [RemoteError] * 3


def test_a_counter_equals_no_number_of_more_bits(engines_manager: Any) -> None:
    """Neither by the bytes that follow it in the server."""
    row = engines_manager.Counters(4)
    assert [row.compare_exchange(i, 2**64, 3) for i in range(4)] == [False] * 4
    assert [row[i] for i in range(4)] == [0] * 4


@pytest.mark.parametrize(
    "wait",
    [
        lambda manager: manager.Queue().get(True, "0"),
        lambda manager: manager.Event().wait("0"),
        lambda manager: manager.Semaphore(0).acquire(True, "0"),
    ],
    ids=["Queue", "Event", "Semaphore"],
)
def test_a_timeout_that_is_text(engines_manager: Any, wait: Any) -> None:
    with pytest.raises(TypeError):
        wait(engines_manager)


def test_a_name_that_is_no_text_of_unicode(engines_manager: Any) -> None:
    name = "\ud800"
    engines_manager.Counter(name=name).incr()
    assert engines_manager.Counter(name=name).value == 1
    assert name in engines_manager.names()
    engines_manager.forget(name)


class Interrupt(Exception):
    """What a signal's handler raises."""


@pytest.mark.parametrize("kind", ["Lock", "RLock", "Semaphore"])
def test_what_was_taken_goes_back_when_a_handler_raises(
    engines_manager: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock, life = getattr(engines_manager, kind)(), engines_manager._session.life
    took, late = life.took, False

    def interrupted(*args: Any) -> None:
        if late:
            took(*args)
        raise Interrupt

    for late in (False, True):  # noqa: B007 (`interrupted` reads it)
        with monkeypatch.context() as patch:
            patch.setattr(life, "took", interrupted)
            with pytest.raises(Interrupt):
                lock.acquire()
        assert in_thread(lock.acquire, False)  # others can have it
        if kind == "RLock":
            lock = engines_manager.RLock()
        else:
            lock.release()


def test_a_release_where_a_handler_has_raised_before(engines_manager: Any) -> None:
    lock, session = engines_manager.Lock(), engines_manager._session
    lock.acquire()
    session.life._held[session.key_of(lock._id)] = {}
    lock.release()
    assert not lock.locked()


def test_what_was_made_is_gone_when_a_handler_raises(
    engines_manager: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(ident: str) -> None:
        raise Interrupt

    before = engines_manager._number_of_objects()
    for kind in ("dict", "Lock", "Counter"):
        with monkeypatch.context() as patch:
            patch.setattr(engines_manager._session.references, "adopt", interrupted)
            with pytest.raises(Interrupt):
                getattr(engines_manager, kind)()
    assert engines_manager._number_of_objects() == before
