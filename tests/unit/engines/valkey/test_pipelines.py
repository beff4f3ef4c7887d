"""Many calls in one go, and calls that nobody waits for, on a Valkey server."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.hashes import LIBRARY, hash_of, hosted
from support.processes import Script
from support.valkeys import Server, server
from support.waiting import in_thread

from fastmgr import OnewayError, SyncManager, oneway


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with server() as one:
        yield one


@pytest.fixture
def manager(running: Server) -> Iterator[SyncManager]:
    with hosted():
        manager = SyncManager.from_address(running.url())
        manager._session.run(["FLUSHALL"])
        manager._session.run(["FUNCTION", "LOAD", "REPLACE", LIBRARY])
        yield manager
        manager._session.close()


def commands_of(manager: SyncManager, name: str) -> int:
    """How many commands of a name the server has run."""
    info = manager._session.run(["INFO", "commandstats"]).decode()
    lines = [one for one in info.splitlines() if one.startswith(f"cmdstat_{name}:")]
    return int(lines[0].partition("calls=")[2].partition(",")[0]) if lines else 0


def test_results_come_in_order(manager: SyncManager) -> None:
    first, second = hash_of(manager), hash_of(manager, "2")
    with manager.pipeline("return") as pipe:
        one, two = pipe(first), pipe(second)
        one.set("a", "x")
        two.add("n", 5)
        one.get("a")
        one.get("missing")
        one.set("a", None)
        two.twice("n")  # two requests, between the others
        two.add("n", 1)
    results = pipe.results
    assert [results[i] for i in (0, 1, 2, 5, 6)] == [1, 5, "x", 7, 8]
    assert isinstance(results[3], KeyError) and isinstance(results[4], TypeError)


def test_a_first_error_is_raised(manager: SyncManager) -> None:
    pipe = manager.pipeline()
    one = pipe(hash_of(manager))
    one.get("missing")
    one.add("n", 1)
    with pytest.raises(KeyError):
        pipe.execute()
    assert pipe.results[1] == 1
    assert pipe.execute() == []


def test_many_calls(manager: SyncManager) -> None:
    proxy, text = hash_of(manager), "x" * 3000
    with manager.pipeline() as pipe:
        one = pipe(proxy)
        for i in range(3000):
            one.set(i, text)
            one.get(i)
    assert pipe.results == [1, text] * 3000


def test_consecutive_calls_are_joined(manager: SyncManager) -> None:
    """Three at the most; those of another object, or after another call, begin a new request."""
    first, second = hash_of(manager), hash_of(manager, "2")
    before = commands_of(manager, "fcall")
    with manager.pipeline("return") as pipe:
        one, two = pipe(first), pipe(second)
        for field in ("a", "a", "bad", "a", "b"):
            one.joined(field)
        two.joined("a")
        two.joined("bad")
        two.get("a")
        two.joined("a")
        one.joined("a")
        one.joined("alone")
    results: list[Any] = [
        repr(result) if isinstance(result, Exception) else result for result in pipe.results
    ]
    bad = "ValueError('bad field')"
    assert results == [1, 2, bad, 3, 1, 1, bad, "1", 2, 4, 1]
    # Two of the first object, two of the second, one joined in the ordinary way; and both bad ones
    # were made again by themselves.
    assert commands_of(manager, "fcall") - before == 2 + 2 + 1 + 2


def test_consecutive_calls_of_one_function_are_joined(manager: SyncManager) -> None:
    first, second = hash_of(manager), hash_of(manager, "2")
    before = commands_of(manager, "fcall")
    with manager.pipeline("return") as pipe:
        one, two = pipe(first), pipe(second)
        for field in ("a", "a", "bad", None, "a", "b"):
            one.plain(field)
        two.plain("a")
        one.plain("a")
    results: list[Any] = [
        type(result) if isinstance(result, Exception) else result for result in pipe.results
    ]
    assert results == [1, 2, ValueError, TypeError, 3, 1, 1, 4]
    assert commands_of(manager, "fcall") - before == 4


def test_a_call_that_writes_what_it_has_computed_keeps_its_place(manager: SyncManager) -> None:
    with manager.pipeline() as pipe:
        one = pipe(hash_of(manager))
        one.add("n", 3)
        one.doubled("n")
        one.add("n", 1)
    assert pipe.results == [3, 6, 7]


def test_calls_that_are_refused_for_a_while_are_made_in_order(manager: SyncManager) -> None:
    """The last calls of a pipeline are made again; those before calls that were made fail."""
    with manager.pipeline() as pipe:
        one = pipe(hash_of(manager))
        one.add("n", 1)
        one.refused("n")
        one.refused("n")
    assert pipe.results == [1, 2, 3]
    with manager.pipeline("return") as pipe:
        one = pipe(hash_of(manager, "2"))
        one.refused("n")
        one.add("n", 1)
        one.refused("n")
    assert "BUSY" in str(pipe.results[0]) and "was not made" in str(pipe.results[0])
    assert pipe.results[1:] == [1, 2]


def test_an_error_of_a_joined_request_is_each_calls(manager: SyncManager) -> None:
    manager._session.run(["SET", b"{fm:Hash-1}", "a string"])
    with manager.pipeline("return") as pipe:
        one = pipe(hash_of(manager))
        one.joined("a")
        one.joined("b")
    assert len(pipe.results) == 2
    assert all("WRONGTYPE" in str(result) for result in pipe.results)


def test_a_missing_library_is_loaded_and_only_its_calls_made_again(manager: SyncManager) -> None:
    proxy = hash_of(manager)
    with manager.pipeline("return") as pipe:
        one = pipe(proxy)
        one.add("n", 1)
        manager._session.run(["FUNCTION", "FLUSH"])
        one.joined("a")
        one.add("n", 1)
    # The library that is loaded is ours, which lacks the function of the tests.
    assert pipe.results[0] == 1 and pipe.results[2] == 2
    assert "unction not found" in str(pipe.results[1])
    assert b"fastmgr1" in repr(manager._session.run(["FUNCTION", "LIST"])).encode()


# -- calls that nobody waits for ------------------------------------------------------


def test_posted_calls_are_made_in_order(manager: SyncManager) -> None:
    proxy = hash_of(manager)
    posted = oneway(proxy)
    for i in range(2000):
        posted.set("last", i)
    assert proxy.get("last") == "1999"
    assert manager._session.connection().posted == []


def test_replies_to_posted_calls_do_not_pile_up(manager: SyncManager) -> None:
    """The server's replies are read now and then, though no other call is made."""
    manager._session.run(["HSET", b"{fm:Hash-1}", "a", "x" * 10_000])
    posted = oneway(hash_of(manager))
    most = 0
    for _ in range(9000):
        posted.get("a")
        most = max(most, len(manager._session.connection().posted))
    assert most <= 4096


def test_a_failure_is_told_by_the_next_call(manager: SyncManager) -> None:
    proxy = hash_of(manager)
    posted = oneway(proxy)
    posted.get("missing")
    posted.set("a", None)
    posted.add("n", 1)
    with pytest.raises(OnewayError, match=r"Hash.get\(\) .*no such field.*1 more") as caught:
        proxy.add("n", 1)
    assert (caught.value.failed, caught.value.result, caught.value.made) == (2, 2, True)
    assert isinstance(caught.value.__cause__, KeyError)
    assert proxy.add("n", 1) == 3


def test_a_failure_is_told_before_something_is_taken(manager: SyncManager) -> None:
    proxy = hash_of(manager)
    proxy.set("a", "x")
    oneway(proxy).get("missing")
    with pytest.raises(OnewayError) as caught:
        proxy.pop("a")
    assert not caught.value.made
    assert proxy.pop("a") == 1


def test_a_failure_is_told_by_a_pipeline(manager: SyncManager) -> None:
    proxy = hash_of(manager)
    oneway(proxy).get("missing")
    with manager.pipeline("return") as pipe:
        one = pipe(proxy)
        one.add("n", 1)
        one.add("n", 1)
    assert isinstance(pipe.results[0], OnewayError)
    assert (pipe.results[0].result, pipe.results[1]) == (1, 2)


def test_a_failure_is_its_threads(manager: SyncManager) -> None:
    proxy = hash_of(manager)
    in_thread(oneway(proxy).get, "missing")
    assert proxy.add("n", 1) == 1


def test_a_posted_call_of_several_requests(manager: SyncManager) -> None:
    proxy = hash_of(manager)
    oneway(proxy).twice("n")
    assert proxy.get("n") == "2"


def post_and_end(address: str) -> None:
    with hosted():
        posted = oneway(hash_of(SyncManager.from_address(address)))
        for _ in range(5000):
            posted.add("n", 1)
        in_thread(posted.add, "n", 1)


def test_a_process_that_ends_waits_until_its_posted_calls_are_served(
    running: Server, manager: SyncManager
) -> None:
    with Script(post_and_end, running.url()) as script:
        assert script.line() is None
        script.finish()
    assert hash_of(manager).get("n") == "5001"
