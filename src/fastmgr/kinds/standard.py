"""The rows of `SyncManager`, in the order in which it has the types; process pools among them."""

from __future__ import annotations

from multiprocessing import pool

from fastmgr.kinds.containers import DICT, ITERATOR, LIST, NAMESPACE, SET
from fastmgr.kinds.makers import ARRAY, COUNTER, COUNTERS, VALUE
from fastmgr.kinds.primitives import (
    BARRIER,
    BOUNDED_SEMAPHORE,
    CONDITION,
    EVENT,
    LOCK,
    QUEUE,
    RLOCK,
    SEMAPHORE,
)
from fastmgr.kinds.rows import Row, declare

__all__ = ["ASYNC_RESULT", "POOL", "ROWS"]

POOL = declare(
    Row(
        typeids=("Pool",),
        make=pool.Pool,
        types=(pool.Pool,),
        proxy="fastmgr.proxies:PoolProxy",
        exposed=(
            "apply", "apply_async", "close", "imap", "imap_unordered", "join", "map",
            "map_async", "starmap", "starmap_async", "terminate",
        ),
        method_to_typeid={
            "apply_async": "AsyncResult",
            "map_async": "AsyncResult",
            "starmap_async": "AsyncResult",
            "imap": "Iterator",
            "imap_unordered": "Iterator",
        },
        texts={
            "Pool": """Return a process pool that runs in the server, as `multiprocessing.Pool`.

Parameters
----------
processes : int, optional
    How many; by default one for each processor.
initializer : callable, optional
    What each process calls first, with `initargs`.
initargs : tuple
maxtasksperchild : int, optional
    After so many tasks a process is replaced by a new one; by default never.
context : multiprocessing context, optional
    Starts the processes.

Returns
-------
PoolProxy

Examples
--------
>>> with manager.Pool(1) as pool:
...     pool.map(abs, [-1, 2])
[1, 2]
""",
            "close": "Take no more tasks; the processes end when those there are have been done.",
            "join": "Wait until the processes have ended; call `close` or `terminate` first.",
            "terminate": "End the processes at once; tasks that are not done are dropped.",
        },
    )
)  # fmt: skip

ASYNC_RESULT = declare(Row(typeids=("AsyncResult",)))

ROWS = (
    QUEUE, EVENT, LOCK, RLOCK, SEMAPHORE, BOUNDED_SEMAPHORE, CONDITION, BARRIER, POOL,
    LIST, DICT, SET, VALUE, ARRAY, COUNTER, COUNTERS, NAMESPACE,
    # What methods of the above return.
    ITERATOR, ASYNC_RESULT,
)  # fmt: skip
