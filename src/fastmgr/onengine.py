"""What a manager does otherwise whose address is an engine's, and the fastmgr server beside it.

Such a manager has a fastmgr server for the types that were registered with ``engine="local"``.
The server is a child of the process that starts it, and ends with that process, or with its
manager.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from multiprocessing import util
from typing import Any

from fastmgr.basemanager import BaseManager, State
from fastmgr.client.connections import authkeys
from fastmgr.client.sessions import Engine, engine_of, retire_sessions
from fastmgr.stock.dialect import NotHosted

__all__ = ["Beside", "beside_of", "end_with", "host_of", "not_hosted", "start"]


class BesideAddress(str):
    """The address of a server beside an engine; its key is the one for the engine's address.

    So a process that knows the engine's key, and meets a proxy there, can use the proxy.
    """

    __slots__ = ("engine",)

    engine: str

    def __reduce__(self) -> tuple[Any, ...]:
        return _beside_address, (str(self), self.engine)


def _beside_address(path: str, engine: str) -> BesideAddress:
    address = BesideAddress(path)
    address.engine = engine
    if engine in authkeys:
        authkeys.setdefault(path, authkeys[engine])
    return address


def _begin(
    engine: str,
    authkey: bytes,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Begin a server's process.

    It has the keys of the engine's address from now on, for proxies of objects that are there: the
    password came with the address, where the process was spawned.
    """
    authkeys.setdefault(engine, authkey)
    if initializer is not None:
        initializer(*initargs)


class Beside:
    """The server beside an engine, as a manager and its copies see it.

    Attributes
    ----------
    address : address or None
        The server's; None until the server has been started.  A pickle of the manager has it, so
        that the manager's copies in other processes use the same server.
    opened : BaseManager or None
        By what this process reaches the server, if it has done so.
    """

    def __init__(self, address: Any = None) -> None:
        self.address = address
        self.opened: BaseManager | None = None
        self._renew_lock()
        # In the child of a fork the thread that held the lock is not there.
        util.register_after_fork(self, Beside._renew_lock)

    def __reduce__(self) -> tuple[type[Beside], tuple[Any]]:
        return type(self), (self.address,)

    def _renew_lock(self) -> None:
        self._lock = threading.RLock()  # a signal's handler may need the server meanwhile

    def open(
        self,
        owner: BaseManager,
        initializer: Callable[..., object] | None = None,
        initargs: Iterable[Any] = (),
    ) -> BaseManager:
        """Return the manager of the server; start the server if there is none yet.

        Raises
        ------
        AuthenticationError, OSError, EOFError
            The server cannot be started, or cannot be reached by this copy of the manager.
        """
        if self.opened is None:
            with self._lock:
                if self.opened is None:
                    made = self._manager_like(owner)
                    if self.address is None:
                        told = owner.address, owner._authkey, initializer, tuple(initargs)
                        BaseManager.start(made, _begin, told)
                    else:
                        BaseManager.connect(made)
                    return self._keep_first(made, owner)
        return self.opened

    def _keep_first(self, made: BaseManager, owner: BaseManager) -> BaseManager:
        """Keep what was opened first: a signal's handler may have opened another meanwhile."""
        if self.opened is None:
            self.address = made._address = _beside_address(made.address, owner.address)
            self.opened = made
        return self.opened

    def _manager_like(self, owner: BaseManager) -> BaseManager:
        """Return a manager of the owner's class, without what the user's own `__init__` does."""
        made = object.__new__(type(owner))
        BaseManager.__init__(
            made,
            owner.address,  # for None might stand an engine's address
            owner._authkey,
            owner._serializer,
            owner._ctx,
            shutdown_timeout=owner._shutdown_timeout,
            arena=owner._arena,
        )
        made._address = self.address
        return made

    def end(self, state: State) -> None:
        """End the server, if this process has started it; `state` is the owner's."""
        state.value = State.SHUTDOWN
        opened, self.opened = self.opened, None
        if opened is not None and "shutdown" in vars(opened):
            self.address = None  # a manager that connects again has another server
            opened.shutdown()


def beside_of(manager: BaseManager) -> Beside:
    """Return the server beside a manager's engine, which need not have been started."""
    if manager._beside is None:
        vars(manager).setdefault("_beside", Beside())  # another thread may have been first
    return vars(manager)["_beside"]


def start(
    manager: BaseManager,
    engine: Engine,
    initializer: Callable[..., object] | None,
    initargs: Iterable[Any],
) -> None:
    """Have an engine start what serves at the manager's address, and connect to it.

    The initializer runs in the server beside the engine.
    """
    if initializer is not None and not manager._local_types:
        raise ValueError(f"{manager.address!r} is an engine's: no initializer can run there")
    manager._address, stop = engine.start(manager.address, manager._registry, manager._authkey)
    try:
        manager.connect()
        if manager._local_types:
            beside_of(manager).open(manager, initializer, initargs)
        manager.shutdown = util.Finalize(
            manager,
            _stop,
            args=(stop, manager.address, manager._state, manager._beside),
            exitpriority=0,
        )
    except BaseException:
        manager._state.value = State.INITIAL
        stop()
        raise


def _stop(stop: Callable[[], object], address: str, state: State, beside: Beside | None) -> None:
    """Stop the server beside an engine, which may be a client, and what the engine has started."""
    try:
        if beside is not None:
            beside.end(state)
    finally:
        try:
            stop()
        finally:
            state.value = State.SHUTDOWN
            retire_sessions(address)


def end_with(manager: BaseManager) -> None:
    """Have the server beside an engine end with a manager that has connected to the engine."""
    end = beside_of(manager).end
    manager.shutdown = util.Finalize(manager, end, args=(manager._state,), exitpriority=0)


def host_of(manager: BaseManager, typeid: str) -> BaseManager:
    """Return the manager of what hosts a type: that of the server beside the engine, or the same.

    Raises
    ------
    NotHosted
        The engine cannot host the type, and no server beside it is to do that.
    """
    engine = engine_of(manager.address)
    if engine is None:
        return manager
    if typeid in manager._local_types:
        return beside_of(manager).open(manager)
    if not engine.hosts(typeid, manager._registry.get(typeid, (None,))[0]):
        raise not_hosted(
            manager.address,
            typeid,
            f'with register({typeid!r}, ..., engine="local") a fastmgr server beside it does; or '
            "give the manager no address, or that of a fastmgr server",
        )
    return manager


def not_hosted(address: Any, what: str, remedy: str) -> NotHosted:
    """Return the error that says what an engine cannot host, and what to use in its place."""
    return NotHosted(f"{address!r} cannot host a {what}: {remedy}\n")
