"""Proxies: what a client holds in place of a shared object."""

from __future__ import annotations

import array
import collections.abc
import time
import types
from collections.abc import Callable
from multiprocessing import util
from typing import TYPE_CHECKING, Any, TypeVar

from fastmgr.baseproxy import (
    SEEN_IN,
    AutoProxy,
    BaseProxy,
    MakeProxyType,
    ProcessLocalSet,
    QueueProxy,
    RebuildProxy,
)
from fastmgr.client.asnumber import AsNumber, as_ndarray
from fastmgr.client.limits import CallTimeout, unlimited
from fastmgr.client.locks import EventCore, LockCore
from fastmgr.client.numbers import ArrayCore, CounterCore, CountersCore, ValueCore
from fastmgr.client.proxy import (
    CellCore,
    ContainerCore,
    DictCore,
    ItemsCore,
    NamespaceCore,
    ProxyCore,
)
from fastmgr.kinds.containers import DICT, ITERATOR, LIST, NAMESPACE, SET
from fastmgr.kinds.makers import ARRAY, COUNTER, COUNTERS, VALUE
from fastmgr.kinds.primitives import BARRIER, CONDITION, EVENT, LOCK
from fastmgr.kinds.rows import Row
from fastmgr.kinds.standard import POOL
from fastmgr.link.sockets import is_ours
from fastmgr.stock.dialect import NotHosted

if TYPE_CHECKING:
    from threading import Barrier as _Barrier, Condition as _Condition

    from typing_extensions import Self

    from fastmgr._typing import (
        BarrierRecorder,
        BaseListProxy as BaseListProxy,
        BasePoolProxy as BasePoolProxy,
        ConditionRecorder,
        NamespaceRecorder,
        _BaseDictProxy as _BaseDictProxy,
        _BaseSetProxy as _BaseSetProxy,
    )
    from fastmgr.kinds.containers import Namespace as _Namespace
else:
    # To a type checker proxies are what the stdlib's stubs say that managers return.
    _Barrier = _Condition = _Namespace = object

__name__ = SEEN_IN

__all__ = [
    "AcquirerProxy", "ArrayProxy", "AutoProxy", "BarrierProxy", "BaseListProxy", "BasePoolProxy",
    "BaseProxy", "ConditionProxy", "CounterProxy", "CountersProxy", "DictProxy", "EventProxy",
    "IteratorProxy", "ListProxy", "MakeProxyType", "NamespaceProxy", "PoolProxy",
    "ProcessLocalSet", "QueueProxy", "RebuildProxy", "SetProxy", "ValueProxy",
]  # fmt: skip


_T = TypeVar("_T")
_K = TypeVar("_K")
_V = TypeVar("_V")

#: Seconds after which a condition's `wait` in a block with a limit looks whether the server lives,
#: while it waits to own the lock again.
OWN_AGAIN = 5.0
#: A connection that has failed.
_BROKEN = (OSError, EOFError)


def _make_base(name: str, row: Row, abstract: Any = None, core: Any = None) -> Any:
    """Make what a proxy type inherits: a row's methods, with the texts that `help` shows.

    A container's is a subclass of an abstract base, and takes parameters.  Methods that its `core`
    has are compiled.
    """
    made = MakeProxyType(name, row.exposed)
    if core is not None:
        compiled = {"__dict__", "__weakref__"}.union(
            *map(vars, core.__mro__[: -len(ProxyCore.__mro__)])
        )
        own = {key: value for key, value in vars(made).items() if key not in compiled}
        made = type(name, (core, *made.__bases__), own)
    made.__doc__ = f"What `{row.label}` proxies inherit: they forward the methods that are exposed."
    made._method_to_typeid_ = row.method_to_typeid
    for method in vars(made).keys() & set(row.exposed):
        if method in row.verbs:  # whose text begins with the signature that the server calls
            text = (row.verbs[method].__doc__ or "").partition("\n\n")[2]
        else:
            text = row.texts.get(method) or getattr(row.make, method).__doc__
        vars(made)[method].__doc__ = text
    if abstract is not None:
        abstract.register(made)
        made.__class_getitem__ = classmethod(types.GenericAlias)
    return made


if not TYPE_CHECKING:
    _sequence, _mapping, _set = (
        collections.abc.MutableSequence,
        collections.abc.MutableMapping,
        collections.abc.MutableSet,
    )
    BaseListProxy = _make_base("BaseListProxy", LIST, _sequence, ItemsCore)
    _BaseDictProxy = _make_base("_BaseDictProxy", DICT, _mapping, DictCore)
    _BaseSetProxy = _make_base("_BaseSetProxy", SET, _set, ContainerCore)
    BasePoolProxy = _make_base("PoolProxy", POOL)


def _in_place(operator: str, method: str) -> Callable[[BaseProxy, Any], BaseProxy]:
    """Make an operator that changes the referent by a method, and returns the proxy."""

    def operate(self: BaseProxy, value: Any) -> BaseProxy:
        self._callmethod(method, (value,))
        return self

    operate.__name__ = operate.__qualname__ = operator
    return operate


def _attribute(name: str) -> property:
    """Make a property that is an attribute of the referent."""
    text = f"As `threading.Barrier.{name}`, at this moment."
    return property(lambda self: self._callmethod("__getattribute__", (name,)), doc=text)


class IteratorProxy(BaseProxy):
    """A proxy of an iterator or generator: what a method that is registered so returns.

    Each step is a call.

    Examples
    --------
    >>> class Manager(fastmgr.SyncManager):
    ...     pass
    >>> class Squares:
    ...     def up_to(self, n):
    ...         return (i * i for i in range(n))
    >>> Manager.register("Squares", Squares, method_to_typeid={"up_to": "Iterator"})
    >>> with Manager(ctx=fork) as manager:
    ...     list(manager.Squares().up_to(4))
    [0, 1, 4, 9]
    """

    _exposed_ = ITERATOR.exposed

    def __iter__(self) -> IteratorProxy:
        return self

    def __next__(self, *args: Any) -> Any:
        return self._callmethod("__next__", args)

    def send(self, *args: Any) -> Any:
        """Send a value into the generator, and return what it yields next."""
        return self._callmethod("send", args)

    def throw(self, *args: Any) -> Any:
        """Raise an exception in the generator, and return what it yields next."""
        return self._callmethod("throw", args)

    def close(self, *args: Any) -> Any:
        """End the generator, as where it waits GeneratorExit is raised."""
        return self._callmethod("close", args)


class AcquirerProxy(LockCore, BaseProxy):
    """A proxy of a lock or semaphore.

    On one host it works on shared memory, and asks the server only where it has to wait, or where
    somebody waits for it.  What a process holds that dies is handed on.

    Examples
    --------
    >>> lock = manager.Lock()
    >>> lock.acquire(timeout=2)
    True
    >>> lock.release()
    """

    _exposed_ = LOCK.exposed

    @property
    def fence(self) -> int:
        """The number of the grant by which this process holds the lock: it grows with each grant.

        Only a lock on an engine has one: a server of ours hands a lock on when the holder is dead,
        and not before.
        """
        return self._on_engine().fence(self)

    def fenced(self) -> Any:
        """Return a block in which what this thread changes is refused once it is too late.

        That is when a later holder of this lock has changed the same object in such a block; then
        `StaleFence` is raised.  It is for a holder that may have lost its lock without knowing.

            with lock, lock.fenced():
                d["k"] = v
        """
        return self._on_engine().fenced(self)

    def _on_engine(self) -> Any:
        session = self._session_of()
        if not hasattr(session, "fenced"):
            raise NotHosted("a lock of a fastmgr server has no fence: only one on an engine has\n")
        return session


class ConditionProxy(AcquirerProxy, _Condition):
    """A proxy of a condition variable, and of its lock.

    Examples
    --------
    >>> ready, condition = manager.Value("b", False), manager.Condition()
    >>> with condition:
    ...     ready.value = True
    ...     condition.notify_all()
    >>> with condition:
    ...     condition.wait_for(ready.get, timeout=2)
    True
    """

    if TYPE_CHECKING:
        _recorder_: ConditionRecorder

    _exposed_ = CONDITION.exposed
    _has_cell = False  # its waiters are the server's in any case

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for a notification, `timeout` seconds at most; return whether there was one.

        However it ends, the lock is the thread's again.
        """
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
                with unlimited(OWN_AGAIN):
                    self._callmethod("acquire", (), how)
                break
            except BaseException as error:
                if isinstance(error, CallTimeout) and error.applied is None:
                    continue  # others hold it, and it is to be the thread's before anything else
                if isinstance(error, _BROKEN) and self._session_of().is_lost(error):
                    util.info("the manager is gone, and its lock with it: %s", error)
                    break
                if not isinstance(error, Exception) or not is_ours(error):
                    raised = error  # a signal's handler raised it: the lock comes first
                elif isinstance(error, TypeError) and how:
                    how = {}  # the server, or the lock, does not know `restoring`
                else:
                    raise
        if raised is not None:
            raise raised

    def notify(self, n: int = 1) -> None:
        """Wake `n` of those who wait, at most; as in `threading` the lock must be held."""
        return self._callmethod("notify", (n,))

    def notify_all(self) -> None:
        """Wake all who wait; as in `threading` the lock must be held."""
        return self._callmethod("notify_all")

    def wait_for(self, predicate: Callable[[], Any], timeout: float | None = None) -> Any:
        """Wait until `predicate` is true, `timeout` seconds at most; return what it returned last.

        It is called in this process.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while not (result := predicate()):
            remaining = None if deadline is None else deadline - time.monotonic()
            if remaining is not None and remaining <= 0:
                break
            self.wait(remaining)
        return result


class EventProxy(EventCore, BaseProxy):
    """A proxy of an event.  On one host to ask ``is_set`` makes no call.

    Examples
    --------
    >>> event = manager.Event()
    >>> event.set()
    >>> event.is_set()
    True
    """

    _exposed_ = EVENT.exposed

    def set(self) -> None:
        """Set the event: all who wait go on, and nobody waits until it is cleared."""
        return self._callmethod("set")

    def clear(self) -> None:
        """Clear the event: those who come from now on wait."""
        return self._callmethod("clear")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the event is set, `timeout` seconds at most; return whether it is."""
        return self._callmethod("wait", (timeout,))


class BarrierProxy(BaseProxy, _Barrier):
    """A proxy of a barrier.

    Examples
    --------
    >>> barrier = manager.Barrier(1)
    >>> barrier.wait(timeout=2)
    0
    >>> barrier.parties, barrier.n_waiting, barrier.broken
    (1, 0, False)
    """

    if TYPE_CHECKING:
        _recorder_: BarrierRecorder

    _exposed_ = BARRIER.exposed

    def wait(self, timeout: float | None = None) -> int:
        """Wait until all parties have come; return this one's number, from 0.

        After `timeout` seconds the barrier is broken: `threading.BrokenBarrierError`, for all.
        """
        return self._callmethod("wait", (timeout,))

    def abort(self) -> None:
        """Break the barrier: all who wait raise `threading.BrokenBarrierError`."""
        return self._callmethod("abort")

    def reset(self) -> None:
        """Make the barrier new; all who wait raise `threading.BrokenBarrierError`."""
        return self._callmethod("reset")

    if not TYPE_CHECKING:  # which knows of them by `threading.Barrier`
        parties, n_waiting, broken = map(_attribute, ("parties", "n_waiting", "broken"))


class NamespaceProxy(NamespaceCore, BaseProxy, _Namespace):
    """A proxy of a namespace; names that begin with ``_`` are the proxy's own.

    Examples
    --------
    >>> shared = manager.Namespace(done=0)
    >>> shared.incr("done")
    1
    >>> shared.done
    1
    """

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

    def __setattr__(self, key: str, value: Any) -> None:
        if key.startswith("_"):
            return object.__setattr__(self, key, value)
        return self._callmethod("__setattr__", (key, value))

    def __delattr__(self, key: str) -> None:
        if key.startswith("_"):
            return object.__delattr__(self, key)
        return self._callmethod("__delattr__", (key,))


class _Telling(CellCore, BaseProxy):
    """A proxy whose representation tells what its cell holds, where that takes no call."""

    def __repr__(self) -> str:
        seen = self._seen()
        if seen is None:
            return super().__repr__()
        return f"<{type(self).__name__} {seen}, typeid {self._token.typeid!r}>"


class ValueProxy(ValueCore[_T], _Telling):
    """A proxy of a value.

    On one host it works on shared memory, while the value is None, a bool, a float or an int of
    48 bits.  ``v.value += 1`` is a read and a write, between which others may write: use ``incr``.

    Examples
    --------
    >>> total = manager.Value("i", 40)
    >>> total.incr(2)
    42
    >>> total.value
    42
    """

    _exposed_ = VALUE.exposed
    _gains = VALUE.gains


class ListProxy(BaseListProxy[_T]):
    """A proxy of a list.

    ``incr(index, amount=1)`` adds to an item in one step and returns the sum.

    It has no ``__iter__``: iterating asks for one index after the other, so that
    changes made meanwhile are seen, as in a list.

    Examples
    --------
    >>> scores = manager.list([1, 2])
    >>> scores.incr(0, 10)
    11
    >>> scores += [3]
    >>> scores[:]
    [11, 2, 3]
    """

    if not TYPE_CHECKING:
        __iadd__ = _in_place("__iadd__", "extend")
        __imul__ = _in_place("__imul__", "__imul__")


class DictProxy(_BaseDictProxy[_K, _V]):
    """A proxy of a dict.

    Three methods do in one step what otherwise takes a lock: ``incr(key,
    amount=1, default=0)`` returns the sum, ``exchange(key, value)`` what the
    value was, ``compare_exchange(key, expected, desired)`` whether it was set.

    Examples
    --------
    >>> state = manager.dict(job="new")
    >>> state.compare_exchange("job", "new", "taken")
    True
    >>> state["job"]
    'taken'
    """

    _gains = DICT.gains

    if not TYPE_CHECKING:
        __ior__ = _in_place("__ior__", "__ior__")


class SetProxy(_BaseSetProxy[_T]):
    """A proxy of a set.

    Examples
    --------
    >>> seen = manager.set("ab")
    >>> seen |= {"c"}
    >>> sorted(seen)
    ['a', 'b', 'c']
    """

    _takes_exposed_along = True

    if not TYPE_CHECKING:
        __ior__ = _in_place("__ior__", "__ior__")
        __iand__ = _in_place("__iand__", "__iand__")
        __ixor__ = _in_place("__ixor__", "__ixor__")
        __isub__ = _in_place("__isub__", "__isub__")


class ArrayProxy(ArrayCore[_T], _Telling):
    """A proxy of an array.

    Where the array is in memory that is shared with this process it is a buffer, too:
    ``memoryview(proxy)`` and ``numpy.asarray(proxy)`` are writable views of the items.
    Elsewhere `numpy.asarray` makes a copy that cannot be written to.

    Examples
    --------
    >>> numbers = manager.Array("i", [1, 2, 3])
    >>> numbers.incr(0, 10)
    11
    >>> numbers[:2]
    array('i', [11, 2])
    """

    _exposed_ = ARRAY.exposed

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy, where there is no buffer: a copy, which cannot be written to."""
        return as_ndarray(self[:], dtype, copy)


class CounterProxy(CounterCore, AsNumber, _Telling):
    """A proxy of a counter: an integer of 64 bits.

    In an expression it is the number that the counter has at the moment.

    Examples
    --------
    >>> hits = manager.Counter(5)
    >>> hits.incr(), hits.decr(2), hits > 3
    (6, 4, True)
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
    """A proxy of counters in a row: integers of 64 bits, by name or by index.

    Examples
    --------
    >>> row = manager.Counters(2)
    >>> row.incr(1)
    1
    >>> row.snapshot()
    [0, 1]
    """

    _exposed_ = COUNTERS.exposed

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Any:
        """For numpy: the values of all, which cannot be written to."""
        return as_ndarray(array.array("q", self.snapshot()), dtype, copy)


class PoolProxy(BasePoolProxy):
    """A proxy of a process pool that runs in the server.

    Functions and arguments are pickled on their way to it, and once more to its processes.

    Examples
    --------
    >>> with manager.Pool(1) as pool:
    ...     pool.apply(max, (1, 2))
    2
    """

    def __enter__(self) -> PoolProxy:
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.terminate()
