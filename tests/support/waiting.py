"""Waiting: what a test waits for is polled with a deadline; nothing sleeps and hopes."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable
from typing import Any

DEADLINE = 30.0


def poll(condition: Callable[[], object], what: str, timeout: float = DEADLINE) -> None:
    """Wait until `condition()` is true; fail the test, saying `what`, when it does not get so."""
    end = time.monotonic() + timeout
    pause = 0.005
    while not condition():
        assert time.monotonic() < end, f"not within {timeout:g} s: {what}"
        time.sleep(pause)
        pause = min(pause * 1.5, 0.2)


def settle(manager: Any, expected: int) -> None:
    """Wait until the server of `manager` has exactly `expected` shared objects."""
    seen = -1

    def reached() -> bool:
        nonlocal seen
        gc.collect()
        seen = manager._number_of_objects()
        return seen == expected

    try:
        poll(reached, f"{expected} shared objects")
    except AssertionError:
        raise AssertionError(
            f"{seen} shared objects, not {expected}:\n{manager._debug_info()}"
        ) from None


def in_thread(function: Callable[..., Any], *args: Any, timeout: float = DEADLINE) -> Any:
    """The result of `function(*args)` in a thread of its own (so: on a connection of its own)."""
    outcome: list[Any] = []

    def run() -> None:
        try:
            outcome.append((True, function(*args)))
        except BaseException as error:
            outcome.append((False, error))

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(timeout)
    assert outcome, f"{function} did not return within {timeout:g} s"
    good, value = outcome[0]
    if not good:
        raise value
    return value


def together(count: int, work: Callable[[int], Any], timeout: float = DEADLINE) -> list[Any]:
    """What `work(i)` returns in threads of their own, which begin at the same time."""
    ready = threading.Barrier(count)
    results: list[Any] = [None] * count
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            ready.wait(timeout)
            results[number] = work(number)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,), daemon=True) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout)
        assert not thread.is_alive(), "a thread is stuck"
    if failures:
        raise failures[0]
    return results
