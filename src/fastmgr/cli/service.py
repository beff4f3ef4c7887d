"""A server's process as a service: its signals, and what it reports to who has started it."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
import weakref
from typing import Any

from fastmgr.cli import systemd
from fastmgr.cli.logs import Logs

__all__ = ["Service"]

STOPPING = (signal.SIGTERM, signal.SIGINT)
#: Seconds of the grace that are left when calls are cut off.
CLOSING = 2.0
#: What is read of the signals' pipe, where it is no signal.
STARTED = 0

log = logging.getLogger("fastmgr")

#: The services of this process, for the children that the server's code forks.
_services: weakref.WeakSet[Service] = weakref.WeakSet()


class Service:
    """Serves until a signal or a client ends it; then in order, and within a limit of time.

    Signals arrive in a pipe that the server's loop watches: they are heeded whatever the main
    thread does.

    Parameters
    ----------
    server : Server
    logs : Logs
    grace : float
        Seconds after the signal in which the process ends.
    status : str
        What is reported when the server serves.
    """

    def __init__(self, server: Any, logs: Logs, grace: float, status: str) -> None:
        self.server = server
        self.logs = logs
        self.grace = grace
        self.status = status
        self.stopping = False
        self.signals = 0
        self.reader, self.writer = os.pipe()
        os.set_blocking(self.reader, False)
        os.set_blocking(self.writer, False)

    def run(self) -> int:
        """Serve; return the exit status."""
        engine = self.server._prepare()
        self.server.drain_timeout = max(self.grace - CLOSING, self.grace / 2)
        _services.add(self)
        signal.set_wakeup_fd(self.writer, warn_on_full_buffer=False)
        for number in (*STOPPING, signal.SIGHUP):
            signal.signal(number, self.note)
        os.write(self.writer, bytes((STARTED,)))  # read once the loop runs
        engine.loop.watch(self.reader, self.heed)
        with contextlib.suppress(SystemExit):  # so it ends always
            self.server.serve_forever()
        self.begin_to_stop("a client has asked for it")
        log.info("the server has ended")
        return 0

    def note(self, number: int, frame: object) -> None:
        """End at once if it is the second signal to stop; the first comes by the pipe."""
        if number in STOPPING:
            self.signals += 1
            if self.signals > 1:
                os._exit(128 + number)

    def heed(self) -> None:
        """Do what the signals in the pipe say; the loop calls this."""
        came = os.read(self.reader, 64)
        engine = self.server._engine
        engine.loop.watch(self.reader, self.heed)
        if STARTED in came:
            systemd.report("READY=1", f"STATUS={self.status}")
            if systemd.wants_signs_of_life():
                self.server._each_second(engine, lambda: systemd.report("WATCHDOG=1"))
        # Logs may be slow, and other clients are not to wait for them.
        self.server._workers.submit(self.act, "signals", came)

    def act(self, came: bytes) -> None:
        """Do what signals say, on a worker."""
        for number in came:
            if number == signal.SIGHUP:
                log.info("SIGHUP: %s", self.logs.reopen())
            elif number in STOPPING:
                self.begin_to_stop(signal.Signals(number).name)
                self.server.stop_event.set()

    def begin_to_stop(self, why: str) -> None:
        """Say that the server stops, and see to it that it does in time."""
        if self.stopping:
            return
        self.stopping = True
        systemd.report("STOPPING=1", "STATUS=answers the calls that are under way")
        log.info("%s: the server stops, and answers the calls that are under way", why)
        # What users' code has left may keep the process: threads, and processes it waits for.
        limit = threading.Timer(self.grace, self.give_up)
        limit.daemon = True
        limit.start()

    def give_up(self) -> None:
        """End the process, which has not ended in time."""
        log.warning("the server has not ended within %g s: it is cut off", self.grace)
        os._exit(0)

    def leave(self) -> None:
        """In a child of the server: leave the signals, and what is reported, to the server."""
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as in children of a manager's process
        for fd in (self.reader, self.writer):
            os.close(fd)


class _Mask(threading.local):
    """Which signals this thread, which forks, had blocked before."""

    before: Any = frozenset()


_mask = _Mask()


def _before_fork() -> None:
    # What comes for a child that has not left the pipe yet would be taken for the server's.
    if _services:
        _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, (*STOPPING, signal.SIGHUP))


def _after_fork_in_parent() -> None:
    if _services:
        signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _after_fork_in_child() -> None:
    for service in list(_services):
        service.leave()
        signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)
    _services.clear()


os.register_at_fork(
    before=_before_fork,
    after_in_parent=_after_fork_in_parent,
    after_in_child=_after_fork_in_child,
)
