"""Threads for the connections that the loop hands off."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import Any

__all__ = ["Workers"]

#: Seconds that a thread without work waits for some before it ends.
LINGER = 5.0

_Job = tuple[Callable[..., Any], str, tuple[Any, ...]]


class Workers:
    """An elastic pool: a job never waits for another to finish.

    A bounded pool would deadlock: the ``put`` that frees N blocked ``get`` calls
    would queue behind them.
    """

    def __init__(self) -> None:
        self._idle: list[queue.SimpleQueue[_Job]] = []

    def submit(self, function: Callable[..., Any], name: str, *args: Any) -> None:
        """Run ``function(*args)`` on a thread called `name`.

        The thread is used again unless the function returns False.
        """
        job = (function, name, args)
        try:
            inbox = self._idle.pop()  # atomic; the last to have become idle is the warmest
        except IndexError:
            inbox = queue.SimpleQueue()
            threading.Thread(target=self._work, args=(inbox,), daemon=True).start()
        inbox.put(job)

    def _work(self, inbox: queue.SimpleQueue[_Job]) -> None:
        thread = threading.current_thread()
        while True:
            try:
                function, thread.name, args = inbox.get(timeout=LINGER)
            except queue.Empty:
                try:
                    self._idle.remove(inbox)
                except ValueError:
                    continue  # taken out by `submit` this moment: a job is on its way
                return
            reusable = function(*args)
            del function, args  # what a job was given must not outlive it here
            if reusable is False:
                return
            self._idle.append(inbox)
