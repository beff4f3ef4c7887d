"""A drop-in for `multiprocessing.managers` whose hot path is compiled.

Change one import and keep the rest::

    from fastmgr import Manager

    with Manager() as manager:
        counts = manager.dict()

or let every use of the stdlib's managers in this process be ours::

    import fastmgr
    fastmgr.install()
"""

from __future__ import annotations

from typing import Any

try:
    from fastmgr import _core as _core
except ImportError as error:
    raise ImportError(
        f"fastmgr's compiled core cannot be loaded ({error}); install a wheel for this "
        "Python, or build it with a C compiler: pip install --no-binary fastmgr fastmgr"
    ) from error

from fastmgr._install import install, installed, uninstall
from fastmgr.managers import (
    HAS_SHMEM,
    AcquirerProxy,
    Array,
    ArrayProxy,
    AutoProxy,
    BarrierProxy,
    BaseListProxy,
    BaseManager,
    BasePoolProxy,
    BaseProxy,
    ConditionProxy,
    CounterProxy,
    CountersProxy,
    DictProxy,
    EventProxy,
    IteratorProxy,
    ListProxy,
    MakeProxyType,
    Namespace,
    NamespaceProxy,
    PoolProxy,
    ProcessLocalSet,
    QueueProxy,
    RebuildProxy,
    RemoteError,
    Server,
    SetProxy,
    State,
    SyncManager,
    Token,
    Value,
    ValueProxy,
    all_methods,
    convert_to_error,
    dispatch,
    listener_client,
    public_methods,
)
from fastmgr.pipeline import OnewayError, Pipeline, oneway

if HAS_SHMEM:
    from fastmgr.managers import (
        SharedMemoryManager as SharedMemoryManager,
        SharedMemoryServer as SharedMemoryServer,
    )

__version__ = "0.1.0"

__all__ = [
    "AcquirerProxy",
    "Array",
    "ArrayProxy",
    "AutoProxy",
    "BarrierProxy",
    "BaseListProxy",
    "BaseManager",
    "BasePoolProxy",
    "BaseProxy",
    "ConditionProxy",
    "CounterProxy",
    "CountersProxy",
    "DictProxy",
    "EventProxy",
    "IteratorProxy",
    "ListProxy",
    "MakeProxyType",
    "Manager",
    "Namespace",
    "NamespaceProxy",
    "OnewayError",
    "Pipeline",
    "PoolProxy",
    "ProcessLocalSet",
    "QueueProxy",
    "RebuildProxy",
    "RemoteError",
    "Server",
    "SetProxy",
    "State",
    "SyncManager",
    "Token",
    "Value",
    "ValueProxy",
    "all_methods",
    "convert_to_error",
    "dispatch",
    "install",
    "installed",
    "listener_client",
    "oneway",
    "public_methods",
    "uninstall",
]
if HAS_SHMEM:
    __all__ += ["SharedMemoryManager", "SharedMemoryServer"]


def Manager(ctx: Any = None) -> SyncManager:
    """Return a started `SyncManager`, as `multiprocessing.Manager` does.

    Parameters
    ----------
    ctx : multiprocessing context, optional
        Starts the manager's process; the default context if None.
    """
    manager = SyncManager(ctx=ctx)
    manager.start()
    return manager
