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

from typing import TYPE_CHECKING, Any

try:
    from fastmgr.client import fast as _fast  # noqa: F401 (can the compiled modules be loaded?)
except ImportError as error:
    raise ImportError(
        f"fastmgr's compiled core cannot be loaded ({error}); install a wheel for this "
        "Python, or build it with a C compiler: pip install --no-binary fastmgr fastmgr"
    ) from error

from fastmgr import managers, proxies
from fastmgr._install import install, installed, uninstall
from fastmgr.client.limits import CallTimeout, timeout
from fastmgr.managers import (
    HAS_SHMEM,
    Array,
    BaseManager,
    LockLost,
    Namespace,
    NotHosted,
    RemoteError,
    ServerRestarted,
    StaleFence,
    State,
    SyncManager,
    Token,
    convert_to_error,
    dispatch,
    listener_client,
)
from fastmgr.monitor import Monitor
from fastmgr.pipeline import OnewayError, Pipeline, oneway
from fastmgr.proxies import *  # noqa: F403

if HAS_SHMEM:
    from fastmgr.managers import SharedMemoryManager as SharedMemoryManager

if TYPE_CHECKING:
    from fastmgr.engines.valkey.errors import (
        ConnectionLost as ConnectionLost,
        LockLost as LockLost,
        PipelineError as PipelineError,
    )
    from fastmgr.managers import (
        Server as Server,
        SharedMemoryServer as SharedMemoryServer,
        Value as Value,
        all_methods as all_methods,
        public_methods as public_methods,
    )

__version__ = "0.1.0"

__all__ = [
    "Array", "BaseManager", "CallTimeout", "LockLost", "Manager", "Monitor", "Namespace",
    "NotHosted", "OnewayError", "Pipeline", "RemoteError", "Server", "ServerRestarted",
    "StaleFence", "State", "SyncManager", "Token", "Value", "all_methods", "convert_to_error",
    "dispatch", "install", "installed", "listener_client", "oneway", "public_methods", "timeout",
    "uninstall",
]  # fmt: skip
__all__ += proxies.__all__
if HAS_SHMEM:
    __all__ += ["SharedMemoryManager", "SharedMemoryServer"]


#: Errors of the Valkey engine, which is loaded when one of them is asked for.
_OF_VALKEY = ("ConnectionLost", "LockLost", "PipelineError")


def __getattr__(name: str) -> Any:
    if name in _OF_VALKEY:
        from fastmgr.engines.valkey import errors

        return getattr(errors, name)
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(managers, name)  # which loads the server's only now


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_OF_VALKEY})


def Manager(ctx: Any = None, *, address: Any = None) -> SyncManager:
    """Return a started `SyncManager`, as `multiprocessing.Manager` does.

    Parameters
    ----------
    ctx : multiprocessing context, optional
        Starts the manager's process; the default context if None.
    address : address, optional
        The manager's; ``valkey://host:port`` for objects on a Valkey server (docs/engines.md).

    Returns
    -------
    SyncManager
        Used in a ``with`` block it is shut down at the end, else with the program.

    Raises
    ------
    OSError, EOFError, ValueError
        As `BaseManager.start` does.

    Examples
    --------
    >>> with fastmgr.Manager() as manager:
    ...     manager.dict(a=1).incr("a")
    2
    """
    manager = SyncManager(address, ctx=ctx)
    manager.start()
    return manager
