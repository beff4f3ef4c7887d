"""Proxies: what a client holds in place of a shared object."""

from __future__ import annotations

import array
import collections.abc
import importlib
import time
import types
from collections.abc import Callable, Iterable
from multiprocessing import process, util
from multiprocessing.context import get_spawning_popen
from typing import TYPE_CHECKING, Any, SupportsIndex, TypeVar

from fastmgr.client.asnumber import AsNumber, as_ndarray
from fastmgr.client.cells import CellCore
from fastmgr.client.connections import authkeys
from fastmgr.client.locks import EventCore, LockCore
from fastmgr.client.numbers import ArrayCore, CounterCore, CountersCore, ValueCore
from fastmgr.client.privates import Locals, OnDemand, privates_of, return_reference
from fastmgr.client.proxy import ProxyCore
from fastmgr.client.session import Session
from fastmgr.client.sessions import _sessions, session_with
from fastmgr.kinds.containers import DICT, ITERATOR, LIST, SET
from fastmgr.kinds.makers import ARRAY, COUNTER, COUNTERS, VALUE
from fastmgr.kinds.namespace import NAMESPACE
from fastmgr.kinds.pools import POOL
from fastmgr.kinds.primitives import BARRIER, CONDITION, EVENT, LOCK
from fastmgr.kinds.rows import BY_TYPEID
from fastmgr.link.sockets import is_ours
from fastmgr.stock.dialect import Token, stock_client
from fastmgr.wire.transit import note_transit

if TYPE_CHECKING:
    from threading import Barrier as _Barrier, Condition as _Condition

    from typing_extensions import Self

    from fastmgr._typing import (
        BarrierRecorder,
        BaseListProxy as BaseListProxy,
        BasePoolProxy as BasePoolProxy,
        ConditionRecorder,
        NamespaceRecorder,
        QueueProxy as QueueProxy,
        _BaseDictProxy as _BaseDictProxy,
        _BaseSetProxy as _BaseSetProxy,
    )
    from fastmgr.kinds.namespace import Namespace as _Namespace
else:
    # To a type checker proxies are what the stdlib's stubs say that managers return.
    _Barrier = _Condition = _Namespace = object

__all__ = [
    "AcquirerProxy",
    "ArrayProxy",
    "AutoProxy",
    "BarrierProxy",
    "BaseListProxy",
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
    "NamespaceProxy",
    "PoolProxy",
    "ProcessLocalSet",
    "QueueProxy",
    "RebuildProxy",
    "SetProxy",
    "ValueProxy",
    "as_authkey",
    "authkey_for",
    "session_with",
]


_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")


class ProcessLocalSet(set[Any]):
    """A set that is emptied in the child of a fork."""

    def __init__(self) -> None:
        util.register_after_fork(self, lambda obj: obj.clear())

    def __reduce__(self) -> tuple[type[ProcessLocalSet], tuple[()]]:
        return type(self), ()


# -- keys -----------------------------------------------------------------------


def authkey_for(address: Any) -> bytes:
    """Return the key for a server: the one that opened it before, else the process's."""
    server = _server_here(address)
    if server is not None:
        return server.authkey
    if isinstance(address, list):
        address = tuple(address)
    return authkeys.get(address) or process.current_process().authkey


def as_authkey(key: bytes) -> bytes:
    """Return a key that multiprocessing gives to nobody but a process that it spawns.

    Raises
    ------
    TypeError
        `key` is no bytes.
    """
    if not isinstance(key, (bytes, bytearray, memoryview)):
        # The key is not in the message: it might be a good one but for its type.
        raise TypeError(
            f"an authkey is bytes, not {type(key).__name__}: b'...', or what .encode() returns"
        )
    return process.AuthenticationString(key)  # type: ignore[attr-defined]


def _choose_authkey(address: Any, authkey: bytes | None, manager: Any) -> bytes:
    if authkey is not None:
        return as_authkey(authkey)
    if manager is not None:
        return manager._authkey
    return authkey_for(address)


def _server_here(address: Any) -> Any:
    """The server that runs in this process at `address`, or None."""
    server = getattr(process.current_process(), "_manager_server", None)
    return server if server is not None and server.address == address else None


# -- the base -------------------------------------------------------------------


class BaseProxy(ProxyCore):
    """A base for proxies of shared objects.

    Parameters
    ----------
    token : Token
    serializer : str
    manager : BaseManager, optional
        Gives the key, and the proxy types of what methods return.
    authkey : bytes, optional
    exposed : iterable of str, optional
        Accepted for the sake of proxy types that want it.
    incref : bool
        Whether to take a reference.  A proxy that is unpickled while a process
        is being spawned takes it when the process is ready.
    manager_owned : bool
        The proxy lives in the server itself and holds the object directly.
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
        self._authkey = _choose_authkey(token.address, authkey, manager)
        if incref:
            self._incref()
        if not incref or type(self)._after_fork is not BaseProxy._after_fork:
            # Others are looked after by their session.
            util.register_after_fork(self, type(self)._after_fork)

    def _open_session(self) -> Session:
        return session_with(self._token.address, self._serializer, self._authkey)

    def _build_proxy(self, typeid: str, ident: str, exposed: Any, proxytype: str | None) -> Any:
        """Make a proxy of what a method returned: an object shared in its turn."""
        make = _proxytype_of(self._manager, typeid, proxytype)
        token = Token(typeid, self._token.address, ident)
        return make(
            token,
            self._serializer,
            manager=self._manager,
            authkey=self._authkey,
            exposed=exposed,
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
        elif isinstance(self, SetProxy):
            # A stock peer without a SetProxy makes an AutoProxy of it.
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
    """Return what ``module:qualname`` names.

    Raises
    ------
    ImportError, AttributeError
        There is nothing of that name.
    """
    module, _, qualname = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in qualname.split("."):
        found = getattr(found, part)
    return found


def RebuildProxy(
    func: Callable[..., Any], token: Token, serializer: str, kwds: dict[str, Any]
) -> Any:
    """Unpickle a proxy.

    In the server that holds the object the proxy is manager-owned: it counts no
    reference but keeps the object alive, as whatever holds the proxy does.
    """
    server = _server_here(token.address)
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


#: A connection that has failed.
_BROKEN = (OSError, EOFError)

# -- proxy types ------------------------------------------------------------------


if not TYPE_CHECKING:

    class QueueProxy(BaseProxy):
        """A proxy of a queue: of anything that has the methods of `queue.Queue`."""

        __class_getitem__ = classmethod(types.GenericAlias)


_QUEUE_METHODS = frozenset(
    ("empty", "full", "get", "get_nowait", "join", "put", "put_nowait", "qsize", "task_done")
)


def MakeProxyType(
    name: str,
    exposed: Iterable[str],
    _cache: dict[tuple[str, tuple[str, ...]], type[BaseProxy]] = {},  # noqa: B006
) -> Any:
    """Return a proxy type whose methods are the names in `exposed`."""
    exposed = tuple(exposed)
    try:
        return _cache[name, exposed]
    except KeyError:
        pass
    namespace: dict[str, Any] = {method: _forward(method) for method in exposed}
    # Without it the type would be given the module of whichever frame calls us.
    namespace["__module__"] = __name__
    namespace["_exposed_"] = exposed
    base: type[BaseProxy] = QueueProxy if _QUEUE_METHODS.issubset(exposed) else BaseProxy
    proxytype = type(name, (base,), namespace)
    _cache[name, exposed] = proxytype
    return proxytype


def _forward(name: str) -> Callable[..., Any]:
    def method(self: BaseProxy, /, *args: Any, **kwds: Any) -> Any:
        return self._callmethod(name, args, kwds)

    method.__name__ = method.__qualname__ = name
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
    """Return a proxy with the methods that the server exposes (or those of `exposed`)."""
    authkey = _choose_authkey(token.address, authkey, manager)
    if exposed is None:
        server = _server_here(token.address)
        if server is not None:
            exposed = server.get_methods(None, token)
        else:
            session = session_with(token.address, serializer, authkey)
            exposed = session.control("get_methods", (token,))
    proxytype = MakeProxyType(f"AutoProxy[{token.typeid}]", exposed)
    proxy = proxytype(
        token,
        serializer,
        manager=manager,
        authkey=authkey,
        incref=incref,
        manager_owned=manager_owned,
    )
    proxy._isauto = True
    return proxy


class IteratorProxy(BaseProxy):
    """A proxy of an iterator or generator."""

    _exposed_ = ITERATOR.exposed

    def __iter__(self) -> IteratorProxy:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        return self._callmethod("close", args)


class AcquirerProxy(LockCore, BaseProxy):
    """A proxy of a lock or semaphore."""

    _exposed_ = LOCK.exposed


class ConditionProxy(AcquirerProxy, _Condition):
    """A proxy of a condition variable."""

    if TYPE_CHECKING:
        _recorder_: ConditionRecorder

    _exposed_ = CONDITION.exposed
    _has_cell = False  # its waiters are the server's in any case

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification; however it ends, the lock is the thread's again."""
        session = self._session_of()
        before = session.lost_connection()
        try:
            return self._callmethod("wait", (timeout,))
        except BaseException as error:
            lost = session.lost_connection()
            if lost not in (None, before) and (lost.interrupted or isinstance(error, _BROKEN)):
                self._own_again()
            raise

    def _own_again(self) -> None:
        how: dict[str, Any] = {"restoring": True}
        raised: BaseException | None = None
        while True:
            try:
                self._callmethod("acquire", (), how)
                break
            except BaseException as error:
                if isinstance(error, _BROKEN) and self._session_of().is_lost(error):
                    util.info("the manager is gone, and its lock with it: %s", error)
                    break
                if not isinstance(error, Exception) or not is_ours(error):
                    raised = error  # of a signal's handler: the lock comes first
                elif isinstance(error, TypeError) and how:
                    how = {}  # of a server, or over a lock, that cannot do that
                else:
                    raise
        if raised is not None:
            raise raised

    def notify(self, n: int = 1) -> None:
        return self._callmethod("notify", (n,))

    def notify_all(self) -> None:
        return self._callmethod("notify_all")

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate`, called here, is true; return its last value."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                break
            self.wait(remaining)
        return result


class EventProxy(EventCore, BaseProxy):
    """A proxy of an event."""

    _exposed_ = EVENT.exposed

    def set(self) -> None:
        return self._callmethod("set")

    def clear(self) -> None:
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> bool:
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy, _Barrier):
    """A proxy of a barrier."""

    if TYPE_CHECKING:
        _recorder_: BarrierRecorder

    _exposed_ = BARRIER.exposed

    def wait(self, timeout: float | None = None) -> int:
        return self._callmethod("wait", (timeout,))

    def abort(self) -> None:
        return self._callmethod("abort")

    def reset(self) -> None:
        return self._callmethod("reset")

    @property
    def parties(self) -> int:
        return self._callmethod("__getattribute__", ("parties",))

    @property
    def n_waiting(self) -> int:
        return self._callmethod("__getattribute__", ("n_waiting",))

    @property
    def broken(self) -> bool:
        return self._callmethod("__getattribute__", ("broken",))


class NamespaceProxy(BaseProxy, _Namespace):
    """A proxy of a namespace; names that begin with ``_`` are the proxy's own."""

    if TYPE_CHECKING:
        _recorder_: NamespaceRecorder

    _exposed_ = NAMESPACE.exposed

    def incr(self, name: str, amount: Any = 1, **default: Any) -> Any:
        """Add to an attribute in one step and return the sum.

        Parameters
        ----------
        name : str
        amount : number
        default : number, optional
            What a missing attribute counts as; 0 by default, as with a dict.
        """
        return self._callmethod("incr", (name, amount), default)

    def __getattr__(self, key: str) -> Any:
        if key.startswith("_"):
            return object.__getattribute__(self, key)
        callmethod = object.__getattribute__(self, "_callmethod")
        return callmethod("__getattribute__", (key,))

    def __setattr__(self, key: str, value: Any) -> None:
        if key.startswith("_"):
            return object.__setattr__(self, key, value)
        callmethod = object.__getattribute__(self, "_callmethod")
        return callmethod("__setattr__", (key, value))

    def __delattr__(self, key: str) -> None:
        if key.startswith("_"):
            return object.__delattr__(self, key)
        callmethod = object.__getattribute__(self, "_callmethod")
        return callmethod("__delattr__", (key,))


class _Telling(CellCore, BaseProxy):
    """A proxy whose representation tells what its cell holds, where that takes no call."""

    def __repr__(self) -> str:
        seen = self._seen()
        if seen is None:
            return super().__repr__()
        return f"<{type(self).__name__} {seen}, typeid {self._token.typeid!r}>"


class ValueProxy(ValueCore[_T], _Telling):
    """A proxy of a `Value`."""

    _exposed_ = VALUE.exposed
    _gains = VALUE.gains


if not TYPE_CHECKING:
    BaseListProxy = MakeProxyType("BaseListProxy", LIST.exposed)
    BaseListProxy.__class_getitem__ = classmethod(types.GenericAlias)


class ListProxy(BaseListProxy[_T]):
    """A proxy of a list.

    ``incr(index, amount=1)`` adds to an item in one step and returns the sum.

    It has no ``__iter__``: iterating asks for one index after the other, so that
    changes made meanwhile are seen, as in a list.
    """

    def __iadd__(self, value: Iterable[_T]) -> Self:  # type: ignore[override]
        self._callmethod("extend", (value,))
        return self

    def __imul__(self, value: SupportsIndex) -> Self:  # type: ignore[override]
        self._callmethod("__imul__", (value,))
        return self


collections.abc.MutableSequence.register(BaseListProxy)

if not TYPE_CHECKING:
    _BaseDictProxy = MakeProxyType("_BaseDictProxy", DICT.exposed)
    _BaseDictProxy._method_to_typeid_ = DICT.method_to_typeid
    _BaseDictProxy.__class_getitem__ = classmethod(types.GenericAlias)


class DictProxy(_BaseDictProxy[_K, _V]):
    """A proxy of a dict.

    Three methods do in one step what otherwise takes a lock: ``incr(key,
    amount=1, default=0)`` returns the sum, ``exchange(key, value)`` what the
    value was, ``compare_exchange(key, expected, desired)`` whether it was set.
    """

    _gains = DICT.gains

    def __ior__(self, value: Any) -> Self:  # type: ignore[override,misc]
        self._callmethod("__ior__", (value,))
        return self


collections.abc.MutableMapping.register(_BaseDictProxy)

if not TYPE_CHECKING:
    _BaseSetProxy = MakeProxyType("_BaseSetProxy", SET.exposed)
    _BaseSetProxy.__class_getitem__ = classmethod(types.GenericAlias)


class SetProxy(_BaseSetProxy[_T]):
    """A proxy of a set."""

    def __ior__(self, value: Any) -> Self:  # type: ignore[override,misc]
        self._callmethod("__ior__", (value,))
        return self

    def __iand__(self, value: Any) -> Self:  # type: ignore[override,misc]
        self._callmethod("__iand__", (value,))
        return self

    def __ixor__(self, value: Any) -> Self:  # type: ignore[override,misc]
        self._callmethod("__ixor__", (value,))
        return self

    def __isub__(self, value: Any) -> Self:  # type: ignore[override,misc]
        self._callmethod("__isub__", (value,))
        return self


collections.abc.MutableSet.register(_BaseSetProxy)


class ArrayProxy(ArrayCore[_T], _Telling):
    """A proxy of an array.

    Where the array is in memory that is shared with this process it is a buffer, too:
    ``memoryview(proxy)`` and ``numpy.asarray(proxy)`` are writable views of the items.
    Elsewhere `numpy.asarray` makes a copy that cannot be written to.
    """

    _exposed_ = ARRAY.exposed

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy, where there is no buffer: a copy, which cannot be written to."""
        return as_ndarray(self[:], dtype, copy)


class CounterProxy(CounterCore, AsNumber, _Telling):
    """A proxy of a counter: an integer of 64 bits.

    In an expression it is the number that the counter has at the moment.
    """

    _exposed_ = COUNTER.exposed
    _gains = COUNTER.gains

    def __iadd__(self, amount: int) -> Self:  # type: ignore[misc]  # the sum is an int
        self.incr(amount)
        return self

    def __isub__(self, amount: int) -> Self:  # type: ignore[misc]
        self.decr(amount)
        return self

    def __str__(self) -> str:
        """Return the number, or our representation where that cannot be had."""
        seen = self._seen()
        if seen is not None:
            return seen
        try:
            return self._callmethod("__str__")
        except Exception:
            return repr(self)


class CountersProxy(CountersCore[_K], _Telling):
    """A proxy of counters in a row: integers of 64 bits, by name or by index."""

    _exposed_ = COUNTERS.exposed

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy: the values of all, which cannot be written to."""
        return as_ndarray(array.array("q", self.snapshot()), dtype, copy)


if not TYPE_CHECKING:
    BasePoolProxy = MakeProxyType("PoolProxy", POOL.exposed)
    BasePoolProxy._method_to_typeid_ = POOL.method_to_typeid


class PoolProxy(BasePoolProxy):
    """A proxy of a process pool that runs in the server."""

    def __enter__(self) -> PoolProxy:
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.terminate()
