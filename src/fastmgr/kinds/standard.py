"""The rows of `SyncManager`, in the order in which it has the types."""

from __future__ import annotations

from fastmgr.kinds.containers import DICT, ITERATOR, LIST, SET
from fastmgr.kinds.makers import ARRAY, COUNTER, COUNTERS, VALUE
from fastmgr.kinds.namespace import NAMESPACE
from fastmgr.kinds.pools import ASYNC_RESULT, POOL
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

__all__ = ["ROWS"]

ROWS = (
    QUEUE, EVENT, LOCK, RLOCK, SEMAPHORE, BOUNDED_SEMAPHORE, CONDITION, BARRIER, POOL,
    LIST, DICT, SET, VALUE, ARRAY, COUNTER, COUNTERS, NAMESPACE,
    # What methods of the above return.
    ITERATOR, ASYNC_RESULT,
)  # fmt: skip
