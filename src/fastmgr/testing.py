"""For tests of code that uses managers: what clients have left behind in one.

pytest's fixtures (docs/howto/testing.md) look at the end of each test; with another framework call
`left_behind` yourself.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

from fastmgr.basemanager import BaseManager
from fastmgr.client.sessions import scheme_of

__all__ = ["left_behind"]

#: Seconds that a process which has been told to end has until it counts as left behind.
PATIENCE = 3.0

_HELD = re.compile(
    r"^    <(?:Condition\(<)?locked (?:fastmgr\.|_thread\.)?(R?Lock)\b", re.MULTILINE
)


def left_behind(manager: BaseManager, patience: float = PATIENCE) -> list[str]:
    """Say what the clients of a manager have left behind.

    That are locks which are held (not semaphores: another thread may release those), and other
    processes that still are clients of the server.

    Parameters
    ----------
    manager : BaseManager
        A manager that runs, on this host or another.  Of an engine's nothing is said.
    patience : float
        Seconds to wait, at most, until nothing is left: a process that has ended a moment ago is a
        client until the server has noticed.

    Returns
    -------
    list of str
        A sentence for each kind of thing; empty where nothing is left.

    Examples
    --------
    >>> lock = manager.Lock()
    >>> lock.acquire()
    True
    >>> left_behind(manager, patience=0)
    ['a Lock is still held']
    >>> lock.release()
    >>> left_behind(manager)
    []
    """
    if scheme_of(manager.address) is not None:
        return []
    end = time.monotonic() + patience
    while (found := list(_found(manager))) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def _found(manager: BaseManager) -> Iterator[str]:
    held = _HELD.findall(manager._debug_info())
    for kind in sorted(set(held)):
        number = held.count(kind)
        yield f"{number} {kind}s are still held" if number > 1 else f"a {kind} is still held"
    others = manager._session.control("about")["clients"] - 1  # without this process, which asks
    if others > 0:
        yield f"{others} other process{'es are' if others > 1 else ' is'} still connected"
