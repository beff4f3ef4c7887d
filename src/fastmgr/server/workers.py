"""Threads for the connections that the loop hands off."""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable
from multiprocessing import util
from typing import Any

__all__ = ["Workers", "leave_if_copied"]

#: Seconds that a thread without work waits for some before it ends.
LINGER = 5.0

_Job = tuple[Callable[..., Any], str, tuple[Any, ...]]


def leave_if_copied(pid: int) -> None:
    """End this process if it is not `pid` but a fork of it, which a server's job has made and left.

    The copy has nobody to serve; its exit handlers are about what is the server's.
    """
    if os.getpid() != pid:
        util._flush_std_streams()  # type: ignore[attr-defined]
        os._exit(0)


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
        pid = os.getpid()
        while True:
            try:
                function, thread.name, args = inbox.get(timeout=LINGER)
            except queue.Empty:
                try:
                    self._idle.remove(inbox)
                except ValueError:
                    continue  # taken out by `submit` this moment: a job is on its way
                return
            try:
                reusable = function(*args)
            finally:
                leave_if_copied(pid)
            del function, args  # what a job was given must not outlive it here
            if reusable is False:
                return
            self._idle.append(inbox)
