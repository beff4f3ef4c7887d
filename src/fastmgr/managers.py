"""Managers: the processes that hold shared objects, seen from their clients.

This module can stand in for `multiprocessing.managers` name by name, the private
names that programs use included.
"""

from __future__ import annotations

import array
import collections as collections
import os as os
import queue as queue
import signal as signal
import sys as sys
import threading as threading
import time as time
import types as types
from collections.abc import Callable, Iterable
from multiprocessing import (
    connection as connection,
    get_context as get_context,
    pool as pool,
    process as process,
    reduction as reduction,
    util,
)
from multiprocessing.context import (
    ProcessError as ProcessError,
    get_spawning_popen as get_spawning_popen,
)
from multiprocessing.reduction import ForkingPickler
from os import getpid
from traceback import format_exc as format_exc
from typing import TYPE_CHECKING, Any, cast

from fastmgr.basemanager import (
    BaseManager as BaseManager,
    LoadedLater,
    State as State,
    load,
    server_names,
)
from fastmgr.baseproxy import AutoProxy, BaseProxy as BaseProxy, find_by_name
from fastmgr.client.sessions import retire_sessions as retire_sessions, scheme_of
from fastmgr.kinds import standard
from fastmgr.kinds.containers import Array as Array, Namespace as Namespace
from fastmgr.kinds.rows import Row
from fastmgr.proxies import *  # noqa: F403
from fastmgr.proxies import _BaseDictProxy as _BaseDictProxy, _BaseSetProxy as _BaseSetProxy
from fastmgr.stock.dialect import (
    LockLost as LockLost,
    NotHosted as NotHosted,
    RemoteError as RemoteError,
    ServerRestarted as ServerRestarted,
    StaleFence as StaleFence,
    Token as Token,
    convert_to_error as convert_to_error,
    dispatch as dispatch,
    listener_client as listener_client,
)

if TYPE_CHECKING:
    from multiprocessing.managers import SharedMemoryManager as _StockSharedMemoryManager
    from multiprocessing.shared_memory import _SLT

    from fastmgr._typing import CreateMethods
    from fastmgr.kinds.values import Value as Value
    from fastmgr.server.server import (
        Server as Server,
        all_methods as all_methods,
        public_methods as public_methods,
    )
    from fastmgr.server.sharedmemory import (
        SharedMemoryServer as SharedMemoryServer,
        _SharedMemoryTracker as _SharedMemoryTracker,
    )
else:
    _StockSharedMemoryManager = object  # which ours is to a type checker, too
    CreateMethods = object  # what `register` adds

try:
    from multiprocessing import resource_tracker, shared_memory
except ImportError:  # a build without POSIX shared memory
    HAS_SHMEM = False
else:
    HAS_SHMEM = True

__all__ = ["BaseManager", "BaseProxy", "SyncManager", "Token"]  # the stdlib's, for import *

# -- what only a server needs ----------------------------------------------------

if HAS_SHMEM:
    server_names |= dict.fromkeys(
        ("SharedMemoryServer", "_SharedMemoryTracker"), "server.sharedmemory"
    )


def __getattr__(name: str) -> Any:
    if name not in server_names:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = load(name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *server_names})


# What users see has a name that they can import, in whichever room it lives.
for _seen in (
    Array, LockLost, Namespace, NotHosted, RemoteError, ServerRestarted, StaleFence, Token,
    convert_to_error, dispatch,
):  # fmt: skip
    _seen.__module__ = __name__
del _seen


# -- how some types are pickled, here as in the stdlib ----------------------------


def reduce_array(a: array.array[Any]) -> tuple[Callable[..., Any], tuple[str, bytes]]:
    """Pickle an array by its machine representation."""
    return array.array, (a.typecode, a.tobytes())


def rebuild_as_list(obj: Any) -> tuple[type[list[Any]], tuple[list[Any]]]:
    """Pickle a dict's view as the list of what it shows."""
    return list, (list(obj),)


ForkingPickler.register(array.array, reduce_array)
view_types: list[type] = [type({}.items()), type({}.keys()), type({}.values())]
for view_type in view_types:
    ForkingPickler.register(view_type, rebuild_as_list)

# -- managers -----------------------------------------------------------------------


class SyncManager(BaseManager, CreateMethods):
    """A manager of the types that threads share and synchronize by.

    `fastmgr.Manager` returns a started one.  Without an address it has the engine's that the
    environment variable ``FASTMGR_ADDRESS`` names, if there is one.  Its parameters are those of
    `BaseManager`.

    Examples
    --------
    >>> with fastmgr.SyncManager(("127.0.0.1", 0), authkey=b"secret") as manager:
    ...     queue = manager.Queue()
    ...     other = fastmgr.SyncManager.from_address(manager.address, b"secret")
    ...     queue.put(other.list("ab")[:])
    ...     queue.get()
    ['a', 'b']
    """

    _uses_environment = True

    def wait_for_replicas(self, number: int = 1, timeout: float = 10.0) -> int:
        """Wait until replicas of the server have all that this thread has changed.

        A replica that has it may still lose it: it need not have written it to its disk.

        Parameters
        ----------
        number : int
            Of replicas, of each primary of a cluster.
        timeout : float
            Seconds to wait at most.

        Returns
        -------
        int
            How many replicas have it: fewer than `number` where the time was over.

        Raises
        ------
        ConnectionLost
            Nobody knows, for a connection by which the thread may have changed something is gone,
            or another server has become the primary.  It is raised once.
        NotHosted
            It is a fastmgr server, which has no replicas.
        """
        if scheme_of(self._address) is None:
            raise NotHosted(f"{self._address!r} has no replicas: a fastmgr server has none\n")
        return self._session.control("wait_for_replicas", (number, timeout))


def register_rows(manager: type[BaseManager], rows: Iterable[Row]) -> None:
    """Register the types of rows with a class of managers, each under all of its ids."""
    for row in rows:
        proxytype = AutoProxy if row.proxy is None else find_by_name(row.proxy)
        for typeid in row.typeids:
            manager.register(
                typeid, row.make, proxytype, row.exposed, row.method_to_typeid, row.make is not None
            )
            if typeid in row.texts:
                vars(manager)[typeid].__doc__ = row.texts[typeid]


register_rows(SyncManager, standard.ROWS)

# -- shared memory --------------------------------------------------------------------

if HAS_SHMEM:
    __all__ += ["SharedMemoryManager"]

    class SharedMemoryManager(BaseManager, _StockSharedMemoryManager):
        """A manager whose server unlinks the shared memory it was told of.

        Leaving its ``with`` block, or `shutdown`, frees every segment.  Its parameters are those
        of `BaseManager`.

        Examples
        --------
        >>> with fastmgr.SharedMemoryManager() as memory:
        ...     block = memory.SharedMemory(size=100)
        ...     block.buf[0] = 7
        ...     numbers = memory.ShareableList([1, 2])
        ...     numbers[0] = block.buf[0]
        ...     block.close()
        ...     list(numbers)
        [7, 2]
        """

        _Server = cast("type[SharedMemoryServer]", LoadedLater("SharedMemoryServer"))

        if TYPE_CHECKING:

            def get_server(self) -> SharedMemoryServer: ...

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            # Before the server starts, so that it shares our resource tracker and
            # neither of the two believes that segments have leaked.
            resource_tracker.ensure_running()
            super().__init__(*args, **kwargs)
            util.debug("%s created by pid %d", type(self).__name__, getpid())

        def __setstate__(self, state: dict[str, Any]) -> None:
            resource_tracker.ensure_running()
            super().__setstate__(state)

        def __del__(self) -> None:
            util.debug("%s.__del__ by pid %d", type(self).__name__, getpid())

        def SharedMemory(self, size: int) -> shared_memory.SharedMemory:
            """Return a new segment of shared memory.

            Parameters
            ----------
            size : int
                Bytes, at least; the system may round it up.

            Returns
            -------
            multiprocessing.shared_memory.SharedMemory

            Raises
            ------
            ValueError
                `size` is not positive.
            """
            self._require_server("SharedMemory")
            segment = shared_memory.SharedMemory(None, create=True, size=size)
            self._track(segment)
            return segment

        def ShareableList(
            self, sequence: Iterable[_SLT] | None
        ) -> shared_memory.ShareableList[_SLT]:
            """Return a new list in shared memory.

            Parameters
            ----------
            sequence : iterable, optional
                Its items: None, bools, ints of 64 bits, floats, str, bytes.  Their number stays.

            Returns
            -------
            multiprocessing.shared_memory.ShareableList
            """
            self._require_server("ShareableList")
            made: shared_memory.ShareableList[_SLT] = shared_memory.ShareableList(sequence)
            self._track(made.shm)
            return made

        def _require_server(self, what: str) -> None:
            """Make sure that the server is there, before anything is made for it."""
            if scheme_of(self._address) is not None:
                from fastmgr.onengine import not_hosted

                raise not_hosted(
                    self._address, what, "use a manager with no address, or a fastmgr server's"
                )
            self._session.control("dummy")

        def _track(self, segment: shared_memory.SharedMemory) -> None:
            try:
                self._session.control("track_segment", (segment.name,))
            except BaseException:
                segment.unlink()
                raise
