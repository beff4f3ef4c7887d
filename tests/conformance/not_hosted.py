"""CPython's tests that cannot pass where a Valkey or Redis server keeps the objects, and why.

The key is `Class.method`, or `Class` for all of its tests.  Each has a reason, and what its failure
says: one that passes, or fails otherwise, is an error of the run.
"""

from __future__ import annotations

POOL = "a pool starts processes beside its server, and the server runs no code of ours"
INITIALIZER = "an initializer runs in the process that `start` starts: here that is no Python"

NOT_HOSTED = {
    "WithManagerTestPool": (POOL, "cannot host a Pool"),
    "TestSyncManagerTypes.test_pool": (POOL, "cannot host a Pool"),
    "TestInitializers.test_manager_initializer": (INITIALIZER, "no initializer can run there"),
}
