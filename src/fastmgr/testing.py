"""For tests of code that uses managers: what clients have left behind in one.

pytest's fixtures (docs/howto/testing.md) look at the end of each test; with another framework call
`left_behind` yourself.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from fastmgr.basemanager import BaseManager
from fastmgr.client.sessions import scheme_of
from fastmgr.monitor import Monitor, NoReport

__all__ = ["left_behind"]

#: Seconds that a process which has been told to end has until it counts as left behind.
PATIENCE = 3.0

#: What must not be held when a test is over.
LOCKS = ("Lock", "RLock", "Condition")


def left_behind(manager: BaseManager, patience: float = PATIENCE) -> list[str]:
    """Say what the clients of a manager have left behind.

    These are locks that are held (not semaphores: another thread may release those), and other
    processes that still are clients of the server.

    Parameters
    ----------
    manager : BaseManager
        A manager that runs.  Nothing is said of one whose server makes no reports: an engine's, or
        the standard library's.
    patience : float
        Seconds to wait, at most, until nothing is left: a process that has ended a moment ago is a
        client until the server has noticed.

    Returns
    -------
    list of str
        A sentence for each lock and process; empty where nothing is left.

    Examples
    --------
    >>> lock = manager.Lock()
    >>> lock.acquire()
    True
    >>> left = left_behind(manager, patience=0)
    >>> left[0].startswith("a Lock is still held by process")
    True
    >>> lock.release()
    >>> left_behind(manager)
    []
    """
    if scheme_of(manager.address) is not None:
        return []
    end = time.monotonic() + patience
    with Monitor(manager.address, authkey=manager._authkey) as monitor:
        try:
            while (found := list(_found(monitor))) and time.monotonic() < end:
                time.sleep(0.01)
        except NoReport:
            return []
    return found


def _found(monitor: Monitor) -> Iterator[str]:
    report = monitor.report()
    for lock in report.locks:
        kind = lock.typeid if lock.name is None else f"{lock.typeid} {lock.name!r}"
        for holder in lock.holders if lock.typeid in LOCKS else ():
            yield f"a {kind} is still held by process {holder.pid}"
    for client in report.clients:
        if client.pid != os.getpid():
            yield f"process {client.pid} ({client.name}) is still connected"
