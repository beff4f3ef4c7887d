"""The rows of process pools, which run in the server as they do anywhere."""

from __future__ import annotations

from multiprocessing import pool

from fastmgr.kinds.rows import Row, declare

__all__ = ["ASYNC_RESULT", "POOL"]

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
