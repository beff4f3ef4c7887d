"""Signals that come while a thread is in a call."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from support.waiting import DEADLINE, poll


@contextlib.contextmanager
def signals_when(condition: Callable[[], object], number: int, handler: Any) -> Iterator[None]:
    """Once `condition()` is true, send this thread so many signals, each until it is handled."""
    handled = 0
    here = threading.get_ident()

    def handle(*_: object) -> None:
        nonlocal handled
        handled += 1
        handler()

    def interrupt() -> None:
        poll(condition, "it is time for signals")
        for i in range(number):

            def seen(i: int = i) -> bool:
                # Whoever is not asleep yet may sleep over one.
                if handled <= i:
                    signal.pthread_kill(here, signal.SIGUSR1)
                return handled > i

            poll(seen, "the signal is handled")

    before = signal.signal(signal.SIGUSR1, handle)
    with ThreadPoolExecutor(1) as other:
        future = other.submit(interrupt)
        try:
            yield
        finally:
            future.result(DEADLINE)
            signal.signal(signal.SIGUSR1, before)


class Interrupt(BaseException):
    """As KeyboardInterrupt, but pytest has none of its own."""
