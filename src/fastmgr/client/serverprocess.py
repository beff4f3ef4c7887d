"""A server's process, as the manager that has started it sees it."""

from __future__ import annotations

import time
from collections.abc import Callable
from multiprocessing import util
from typing import Any

from fastmgr.link.stream import SIGNALS_INTERVAL
from fastmgr.stock.dialect import dispatch

__all__ = ["also_eof", "end_server", "join"]


def join(started: Any, timeout: float | None = None) -> None:
    """Wait for a process to end, and look for signals: another thread may have taken one."""
    end = None if timeout is None else time.monotonic() + timeout
    while started.is_alive():
        left = SIGNALS_INTERVAL if end is None else end - time.monotonic()
        if left <= 0:
            return
        started.join(min(left, SIGNALS_INTERVAL))


def end_server(
    started: Any, address: Any, authkey: bytes, client: Callable[..., Any], timeout: float
) -> None:
    """End a server's process: ask, then terminate, then kill."""
    if not started.is_alive():
        return
    util.info("sending shutdown message to manager")
    try:
        conn = client(address, authkey=authkey)
        try:  # not every serializer's connection is a context manager
            dispatch(conn, None, "shutdown")
        finally:
            conn.close()
    except Exception as error:
        util.debug("shutdown message failed: %s", error)
    join(started, timeout)
    if started.is_alive():
        util.info("manager still alive; terminating it")
        started.terminate()
        join(started, timeout)
        if started.is_alive():
            util.info("manager still alive after terminate; killing it")
            started.kill()
            join(started)


#: The types that are EOFErrors, too, by what they are else.
_and_eof: dict[type[Exception], type[Exception]] = {}


def also_eof(error: Exception) -> Exception:
    """Return why a server cannot start as an `EOFError` too, which is all that the stdlib says."""
    kind = type(error)
    try:
        reduced: Any = error.__reduce__()
        made_by, args = reduced[:2]  # `error.args` has no name of a file
        if made_by is not kind or isinstance(error, EOFError):
            return error
        if kind not in _and_eof:
            names = {
                "__module__": kind.__module__,
                "__reduce__": lambda self: (kind, *kind.__reduce__(self)[1:]),
            }
            _and_eof[kind] = type(kind.__name__, (kind, EOFError), names)
        both = _and_eof[kind](*args)
        both.__dict__.update(error.__dict__)
    except Exception:  # made in another way than other exceptions
        return error
    return both
