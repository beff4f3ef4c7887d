"""What every proxy is: the base of the proxy types, and what makes proxies and unpickles them.

`fastmgr.proxies` has the types themselves, and is where users find these names, too.
"""

from __future__ import annotations

import importlib
import queue
import types
from collections.abc import Callable, Iterable
from multiprocessing import process, util
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any

from fastmgr.client.connections import authkeys
from fastmgr.client.privates import Locals, OnDemand, privates_of, return_reference
from fastmgr.client.proxy import ProxyCore
from fastmgr.client.queues import QueueCore
from fastmgr.client.session import Session
from fastmgr.client.sessions import _sessions, session_with
from fastmgr.kinds.rows import BY_TYPEID
from fastmgr.stock.dialect import Token, stock_client
from fastmgr.wire.opaque import note_transit

if TYPE_CHECKING:
    from fastmgr._typing import QueueProxy as QueueProxy

__all__ = [
    "AutoProxy", "BaseProxy", "MakeProxyType", "ProcessLocalSet", "QueueProxy", "RebuildProxy",
    "as_authkey", "authkey_for", "find_by_name",
]  # fmt: skip

#: The module that users see these names in; `fastmgr.proxies` has this very text as its name, so
#: that a pickle of a proxy, which names the module twice, holds the text once.
SEEN_IN = "fastmgr.proxies"


class ProcessLocalSet(set[Any]):
    """A set that is emptied in the child of a fork: the stdlib's class, for code that has some."""

    def __init__(self) -> None:
        util.register_after_fork(self, lambda obj: obj.clear())

    def __reduce__(self) -> tuple[type[ProcessLocalSet], tuple[()]]:
        return type(self), ()


# -- keys -----------------------------------------------------------------------


def authkey_for(address: Any) -> bytes:
    """Return the key for a server: the one that opened it before, else the process's."""
    server = server_here(address)
    if server is not None:
        return server.authkey
    if isinstance(address, list):
        address = tuple(address)
    found = authkeys.get(address)
    return process.current_process().authkey if found is None else found  # one may be empty


def as_authkey(key: bytes) -> bytes:
    """Return a key that multiprocessing gives to nobody but a process that it spawns."""
    if not isinstance(key, (bytes, bytearray, memoryview)):
        # The key is not in the message: it might be a good one but for its type.
        raise TypeError(
            f"an authkey is bytes, not {type(key).__name__}: b'...', or what .encode() returns"
        )
    return process.AuthenticationString(key)  # type: ignore[attr-defined]


def choose_authkey(address: Any, authkey: bytes | None, manager: Any) -> bytes:
    if authkey is not None:
        return as_authkey(authkey)
    if manager is not None:
        return manager._authkey
    return authkey_for(address)


def server_here(address: Any) -> Any:
    """The server that runs in this process at `address`, or None."""
    server = getattr(process.current_process(), "_manager_server", None)
    return server if server is not None and server.address == address else None


# -- the base -------------------------------------------------------------------


class BaseProxy(ProxyCore):
    """A base for proxies of shared objects.

    A proxy type of your own names in ``_exposed_`` what may be called, and calls `_callmethod`.

    Parameters
    ----------
    token : Token
        Which object it is.
    serializer : str
        The manager's.
    manager : BaseManager, optional
        Gives the key, and the proxy types of what methods return.
    authkey : bytes, optional
        The server's key, if there is no `manager`; by default that of the process.
    exposed : iterable of str, optional
        Accepted for the sake of proxy types that want it.
    incref : bool
        Whether to take a reference.  A proxy that is unpickled while a process
        is being spawned takes it when the process is ready.
    manager_owned : bool
        The proxy lives in the server itself and holds the object directly.

    Examples
    --------
    >>> class LengthProxy(fastmgr.BaseProxy):
    ...     _exposed_ = ("__len__", "append")
    ...     def __len__(self):
    ...         return self._callmethod("__len__")
    ...     def append(self, item):
    ...         return self._callmethod("append", (item,))
    >>> class Manager(fastmgr.SyncManager):
    ...     pass
    >>> Manager.register("Log", list, LengthProxy)
    >>> with Manager(ctx=fork) as manager:
    ...     log = manager.Log()
    ...     log.append("spam")
    ...     len(log)
    1
    """

    # Kept for code that takes this lock, looks into this dict, or makes calls of its own over a
    # thread's connection; sessions hold what these held.
    _address_to_local = Locals(_sessions)  # type: ignore[assignment]
    _mutex = util.ForkAwareThreadLock()
    _tls = OnDemand(lambda proxy: privates_of(proxy._session_of())[0])
    _idset = OnDemand(lambda proxy: privates_of(proxy._session_of())[1])
    #: What connects to the server in the stdlib's dialect.
    _Client = OnDemand(lambda proxy: stock_client(proxy._serializer))
    _decref = staticmethod(return_reference)

    _isauto: bool
    #: Whether stock peers may have no such proxy type: they make an AutoProxy of it.
    _takes_exposed_along = False

    def __init__(
        self,
        token: Token,
        serializer: str,
        manager: Any = None,
        authkey: bytes | None = None,
        exposed: Iterable[str] | None = None,
        incref: bool = True,
        manager_owned: bool = False,
    ) -> None:
        self._set_token(token)
        self._serializer = serializer
        self._manager = manager
        self._owned_by_manager = manager_owned
        self._authkey = choose_authkey(token.address, authkey, manager)
        if incref:
            self._incref()
        if not incref or type(self)._after_fork is not BaseProxy._after_fork:
            # After a fork the session takes the references of all other proxies.
            util.register_after_fork(self, type(self)._after_fork)

    def _open_session(self) -> Session:
        return session_with(self._token.address, self._serializer, self._authkey)

    def _build_proxy(self, typeid: str, ident: str, exposed: Any, proxytype: str | None) -> Any:
        """Make a proxy of what a method returned: an object shared in its turn."""
        make = _proxytype_of(self._manager, typeid, proxytype)
        token = Token(typeid, self._token.address, ident)
        return make(
            token, self._serializer, manager=self._manager, authkey=self._authkey, exposed=exposed
        )

    def _incref(self) -> None:
        if self._owned_by_manager:
            util.debug("owned_by_manager skipped INCREF of %r", self._token.id)
            return
        self._take_reference()
        util.debug("INCREF %r", self._token.id)

    def _after_fork(self) -> None:
        """Take a reference for this process (in the child of a fork or of a spawn)."""
        self._manager = None
        try:
            self._incref()
        except Exception as error:
            # It may be a proxy of a manager that has been shut down.
            util.info("incref failed: %s", error)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        kwds: dict[str, Any] = {}
        if get_spawning_popen() is not None:
            kwds["authkey"] = self._authkey
        if self._owned_by_manager:
            note_transit(self._referent)
        function: Any = type(self)
        if getattr(self, "_isauto", False):
            function, kwds["exposed"] = AutoProxy, function._exposed_
        elif self._takes_exposed_along:
            kwds["exposed"] = function._exposed_
        return RebuildProxy, (function, self._token, self._serializer, kwds)

    def __deepcopy__(self, memo: Any) -> Any:
        return self._getvalue()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} object, typeid {self._token.typeid!r} at {id(self):#x}>"

    def __str__(self) -> str:
        """Return the referent's representation, or ours where that cannot be had."""
        try:
            return self._callmethod("__repr__")
        except Exception:
            return repr(self)[:-1] + "; '__str__()' failed>"


def _proxytype_of(manager: Any, typeid: str, name: str | None) -> Any:
    """The proxy type for a method's result: the manager's, the server's, or a general one."""
    if manager is not None and typeid in manager._registry:
        return manager._registry[typeid][-1]
    if name is not None:
        try:
            return find_by_name(name)
        except (ImportError, AttributeError) as error:
            util.info("no proxy type %s here (%s); using AutoProxy", name, error)
    row = BY_TYPEID.get(typeid)
    if row is None or row.make is not None or row.proxy is None:
        return AutoProxy
    return find_by_name(row.proxy)  # of what only methods return


def find_by_name(name: str) -> Any:
    """Return what ``module:qualname`` names."""
    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def RebuildProxy(
    func: Callable[..., Any], token: Token, serializer: str, kwds: dict[str, Any]
) -> Any:
    """Unpickle a proxy: what a pickle of one calls.

    Parameters
    ----------
    func : callable
        The proxy's type.
    token : Token
        Which object it is.
    serializer : str
        The manager's.
    kwds : dict
        What else `func` gets.

    Notes
    -----
    In the server that holds the object the proxy is manager-owned: it counts no
    reference but keeps the object alive, as whatever holds the proxy does.
    """
    server = server_here(token.address)
    referent = None
    if server is not None:
        util.debug("Rebuild a proxy owned by manager, token=%r", token)
        referent = server.table.stash(token.id)
        kwds["manager_owned"] = True
    incref = kwds.pop("incref", True)
    inheriting = getattr(process.current_process(), "_inheriting", False)
    proxy = func(token, serializer, incref=incref and not inheriting, **kwds)
    if incref and inheriting and referent is None and isinstance(proxy, BaseProxy):
        proxy._awaits_reference = True
    if referent is not None and isinstance(proxy, BaseProxy):
        proxy._referent = referent
    return proxy


if not TYPE_CHECKING:

    class QueueProxy(QueueCore, BaseProxy):
        """A proxy of a queue: of anything that has the methods of `queue.Queue`.

        On one host small items go from process to process in shared memory.

        Examples
        --------
        >>> jobs = manager.Queue(maxsize=2)
        >>> jobs.put_many(["a", "b"])
        >>> jobs.full()
        True
        >>> jobs.get_many(10)
        ['a', 'b']
        """

        _apart = True
        __class_getitem__ = classmethod(types.GenericAlias)


_QUEUE_METHODS = frozenset(
    ("empty", "full", "get", "get_nowait", "join", "put", "put_nowait", "qsize", "task_done")
)


_MANY = frozenset(("get_many", "put_many"))


class _Hidden:
    """Hides a method that compiled proxies of queues have, and the server's object has not."""

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, obj: object, kind: type) -> Any:
        raise AttributeError(
            f"{kind.__name__!r} object has no attribute {self.name!r}: the server's queue has no "
            "such method; it is none of fastmgr's, or an older one's"
        )


def MakeProxyType(
    name: str,
    exposed: Iterable[str],
    _cache: dict[tuple[str, tuple[str, ...]], type[BaseProxy]] = {},  # noqa: B006
) -> Any:
    """Return a proxy type whose methods are the names in `exposed`; the same for the same names.

    Parameters
    ----------
    name : str
        Of the type.
    exposed : iterable of str
        The methods; all of them make calls.

    Returns
    -------
    type
        A subclass of `BaseProxy`.

    Examples
    --------
    >>> StackProxy = fastmgr.MakeProxyType("StackProxy", ["append", "pop"])
    >>> StackProxy._exposed_
    ('append', 'pop')
    """
    exposed = tuple(exposed)
    try:
        return _cache[name, exposed]
    except KeyError:
        pass
    base: type[BaseProxy] = QueueProxy if _QUEUE_METHODS.issubset(exposed) else BaseProxy
    namespace: dict[str, Any] = {
        method: _forward(method, queue.Queue if base is QueueProxy else None)
        for method in exposed
        if base is BaseProxy or method not in vars(QueueCore)
    }
    if base is not BaseProxy:
        namespace.update({name: _Hidden() for name in _MANY.difference(exposed)})
    # Without it the type would be given the module of whichever frame calls us.
    namespace["__module__"] = SEEN_IN
    namespace["_exposed_"] = exposed
    proxytype = type(name, (base,), namespace)
    _cache[name, exposed] = proxytype
    return proxytype


def _forward(name: str, texts_of: type | None) -> Callable[..., Any]:
    def method(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    method.__name__ = method.__qualname__ = name
    method.__doc__ = getattr(getattr(texts_of, name, None), "__doc__", None)
    return method


def AutoProxy(
    token: Token,
    serializer: str,
    manager: Any = None,
    authkey: bytes | None = None,
    exposed: Iterable[str] | None = None,
    incref: bool = True,
    manager_owned: bool = False,
) -> Any:
    """Return a proxy with the methods that the server exposes: it is for types that have no other.

    Parameters
    ----------
    token : Token
        Which object it is.
    serializer : str
        The manager's.
    manager, authkey, incref, manager_owned
        As for `BaseProxy`.
    exposed : iterable of str, optional
        The methods; by default the server is asked.

    Raises
    ------
    RemoteError
        The server has no such object.
    """
    authkey = choose_authkey(token.address, authkey, manager)
    if exposed is None:
        server = server_here(token.address)
        if server is not None:
            exposed = server.get_methods(None, token)
        else:
            session = session_with(token.address, serializer, authkey)
            exposed = session.control("get_methods", (token,))
    proxytype = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy = proxytype(
        token, serializer, manager, authkey, incref=incref, manager_owned=manager_owned
    )
    proxy._isauto = True
    return proxy


for _seen in (AutoProxy, BaseProxy, MakeProxyType, ProcessLocalSet, RebuildProxy):
    _seen.__module__ = SEEN_IN
if not TYPE_CHECKING:
    QueueProxy.__module__ = SEEN_IN
del _seen
