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
    )
)  # fmt: skip

ASYNC_RESULT = declare(Row(typeids=("AsyncResult",)))

ROWS = (
    QUEUE, EVENT, LOCK, RLOCK, SEMAPHORE, BOUNDED_SEMAPHORE, CONDITION, BARRIER, POOL,
    LIST, DICT, SET, VALUE, ARRAY, COUNTER, COUNTERS, NAMESPACE,
    # What methods of the above return.
    ITERATOR, ASYNC_RESULT,
)  # fmt: skip
