"""Time limits of calls: `fastmgr.timeout`."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import pickle
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, in_thread, settle, together
from support.processes import stopped

import fastmgr
from fastmgr.client.limits import dial_limit, limit_is_over, unlimited


@pytest.fixture(scope="module")
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


@contextlib.contextmanager
def raises(applied: bool | None) -> Iterator[None]:
    with pytest.raises(fastmgr.CallTimeout, match=r"fastmgr\.timeout") as raised:
        yield
    assert raised.value.applied is applied


def left() -> float:
    """Seconds until the calls of this context must be done; at most 1,000."""
    return dial_limit(1000.0)


def test_nearest_end_counts() -> None:
    assert left() == 1000
    with fastmgr.timeout(100):
        assert 90 < left() <= 100
        with fastmgr.timeout(500):
            assert 90 < left() <= 100
        with fastmgr.timeout(None), fastmgr.timeout(50):
            assert 40 < left() <= 50
        with unlimited():
            assert left() == 1000
        with unlimited(200):
            assert 190 < left() <= 200
        assert 90 < left() <= 100
    assert left() == 1000


def test_block_is_the_thread_s_and_the_context_s() -> None:
    with fastmgr.timeout(100):
        assert in_thread(left) == 1000
        copy = contextvars.copy_context()
    assert copy.run(left) <= 100
    assert left() == 1000

    async def task(seconds: float) -> tuple[float, float]:
        with fastmgr.timeout(seconds):
            await asyncio.sleep(0)
            return left(), await asyncio.to_thread(left)

    async def main() -> Any:
        return await asyncio.gather(task(100), task(300))

    (one, behind_one), (other, behind_other) = asyncio.run(main())
    assert max(one, behind_one) <= 100 < 290 < min(other, behind_other)


@pytest.mark.parametrize("wrong", ["2", b"2", -1, float("nan"), [], "soon"])
def test_what_is_no_number_of_seconds(wrong: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        fastmgr.timeout(wrong)


def test_error_travels() -> None:
    copy = pickle.loads(pickle.dumps(fastmgr.CallTimeout("why", False)))
    assert (type(copy), str(copy), copy.applied) == (fastmgr.CallTimeout, "why", False)
    assert isinstance(copy, TimeoutError)


def test_no_call_once_the_time_is_over(manager: ProbeManager) -> None:
    values = manager.list([1])
    with fastmgr.timeout(0):
        for call in (
            lambda: values.append(2),
            lambda: fastmgr.oneway(values).append(2),
            lambda: in_a_pipeline(manager, values),
            manager.dict,
            lambda: manager.Value("i", 0).value,
        ):
            with raises(False):
                call()
        assert limit_is_over()
    assert list(values) == [1]


def in_a_pipeline(manager: Any, values: Any) -> None:
    with manager.pipeline() as pipe:
        pipe(values).append(2)


def test_call_that_runs_on_in_the_server(manager: ProbeManager) -> None:
    """It was made; the thread goes on over another connection, and the process holds what it held.

    The server's objects are those of the only connection that this process has.
    """
    sleeper, values = manager.Sleeper(), manager.list([1])  # type: ignore[attr-defined]
    begun = time.monotonic()
    with raises(None), fastmgr.timeout(0.1):
        sleeper.slow(1.0, "late")
    assert time.monotonic() - begun < 1
    assert sleeper.echo("next") == "next"
    assert list(values) == [1]


def test_pipeline_as_a_whole(manager: ProbeManager) -> None:
    lock, queue = manager.Lock(), manager.Queue()
    with raises(None), fastmgr.timeout(0.1), manager.pipeline() as pipe:
        pipe(lock).acquire()
        pipe(queue).get()
    queue.put("item")
    assert lock.acquire(False), "what the pipeline had taken is given back"
    assert queue.get_nowait() == "item"


def test_proxy_in_a_late_reply_is_released(manager: ProbeManager) -> None:
    settle(manager, 0)
    with stopped(manager._process.pid), pytest.raises(TimeoutError), fastmgr.timeout(0.1):
        manager.dict()
    settle(manager, 0)


def test_server_that_stands_still(manager: ProbeManager) -> None:
    """The error comes soon after; the connections that the server has not taken are given up."""
    values, queue = manager.list([1]), manager.Queue()
    with stopped(manager._process.pid):
        begun = time.monotonic()
        with raises(None), fastmgr.timeout(0.1):
            queue.get()
        with raises(False), fastmgr.timeout(0.1):
            len(values)
        assert time.monotonic() - begun < DEADLINE / 3
    assert list(values) == [1]
    queue.put("item")
    assert queue.get(timeout=DEADLINE) == "item"


def test_connection_that_cannot_be_made_in_time(manager: ProbeManager) -> None:
    values = manager.list([1])

    def late() -> None:
        with fastmgr.timeout(0.1):
            values.append(2)

    with stopped(manager._process.pid), raises(False):
        in_thread(late)
    assert list(values) == [1]


def test_what_gives_back_is_made_in_any_case(manager: ProbeManager) -> None:
    for lock in (manager.Lock(), manager.Semaphore(1), manager.Condition()):
        contender = threading.Thread(target=take_and_give, args=(lock,))
        with fastmgr.timeout(0.05), lock:
            contender.start()
            while not limit_is_over():
                time.sleep(0.01)
        contender.join(DEADLINE)
        assert lock.acquire(False), "both have given it back"


def take_and_give(lock: Any) -> None:
    with lock:
        pass


def test_threads_that_go_on_beside_one_that_is_late(manager: ProbeManager) -> None:
    queue, counts = manager.Queue(), manager.dict(n=0)

    def work(number: int) -> None:
        if number == 0:
            for _ in range(20):
                with pytest.raises(fastmgr.CallTimeout), fastmgr.timeout(0.005):
                    queue.get()
        else:
            for _ in range(200):
                counts.incr("n")

    together(3, work)
    assert counts["n"] == 400
