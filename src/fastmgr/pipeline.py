"""Many calls in one go."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NoReturn, TypeVar, overload

from fastmgr.client.proxy import OnewayError, Posting, Recording
from fastmgr.client.session import Session
from fastmgr.proxies import BaseProxy

if TYPE_CHECKING:
    from fastmgr._typing import Recorded

__all__ = ["OnewayError", "Pipeline", "oneway"]

_P = TypeVar("_P")
_R = TypeVar("_R")


def _require_proxy(proxy: Any) -> None:
    if not isinstance(proxy, BaseProxy):
        shown = repr(proxy) if isinstance(proxy, Recorder) else f"a {type(proxy).__name__}"
        raise TypeError(f"a manager's proxy is needed, not {shown}")


class Pipeline:
    """Collects calls of any proxies of one manager, and makes them together.

    The calls are served in order; those of other clients may come in between.

    A block that ends without `execute` executes what is left; its results are in
    `results`.  A block left by an exception makes no call.

    Parameters
    ----------
    session : Session
        The manager's.
    errors : {'raise', 'return'}
        Whether the first error is raised once all calls have been made, or each
        stands in its call's place among the results.

    Examples
    --------
    >>> counts = manager.dict()
    >>> with manager.pipeline() as pipe:
    ...     recorded = pipe(counts)
    ...     recorded.incr("a")
    ...     recorded["b"] = 1
    ...     recorded.get("c", 0)
    ...     pipe.execute()
    [1, None, 0]
    """

    def __init__(self, session: Session, errors: Literal["raise", "return"] = "raise") -> None:
        if errors not in ("raise", "return"):
            raise ValueError(f"errors={errors!r}: 'raise' or 'return' is needed")
        self._session = session
        self._errors = errors
        self._calls: list[Any] = []
        #: What the last `execute` returned.
        self.results: list[Any] = []

    @overload
    def __call__(self, proxy: Recorded[_R]) -> _R: ...
    @overload
    def __call__(self, proxy: _P) -> _P: ...
    def __call__(self, proxy: Any) -> Any:
        """Return an object whose methods record calls.

        Parameters
        ----------
        proxy : BaseProxy
            Which object they are calls of.

        Raises
        ------
        TypeError
            It is no proxy.
        ValueError
            It is a proxy of another manager, or of one that has been shut down.
        """
        _require_proxy(proxy)
        session = proxy._session_of()
        if session is not self._session:
            for one, what in (session, repr(proxy)), (self._session, "the pipeline"):
                if one.retired:
                    at = f"{what} belongs to the manager at {one.address!r}"
                    raise ValueError(f"{at}, which has been shut down")
            raise ValueError(
                f"{proxy!r} belongs to the manager at {proxy._token.address!r}, "
                f"the pipeline to the one at {self._session.address!r}"
            )
        return Recorder(proxy, partial(Recording, self._calls, proxy))

    def __len__(self) -> int:
        return len(self._calls) // 4

    def __repr__(self) -> str:
        calls = f"{len(self)} calls to the manager at {self._session.address!r}"
        return f"<{type(self).__name__} of {calls}>"

    def execute(self) -> list[Any]:
        """Make the calls recorded so far; return their results in order.

        Raises
        ------
        Exception
            The first that a call raised, with ``errors='raise'``; all calls have
            been made all the same.
        OSError, EOFError
            The connection failed; how many calls were made is unknown.
        """
        calls = self._calls[:]
        self._calls.clear()
        first: Exception | None = None
        results, others = self._session.pipeline(calls)
        for i in others:
            try:
                results[i] = calls[4 * i]._settle(results[i])
            except Exception as error:
                first = first or error
                results[i] = error
        self.results = results
        if first is not None and self._errors == "raise":
            raise first
        return results

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, exc_type: object, *exc_info: object) -> None:
        if exc_type is None and self._calls:
            self.execute()


@overload
def oneway(proxy: Recorded[_R]) -> _R: ...
@overload
def oneway(proxy: _P) -> _P: ...
def oneway(proxy: Any) -> Any:
    """Return an object whose methods call `proxy`'s without waiting for the result.

    ``oneway(d).update(a=1)`` has sent the call when it returns, which takes longer where the
    server is behind.  The server serves the calls of a thread in order, and drops what they
    return.  If one fails, the same thread's next ordinary call of that manager raises
    `OnewayError`; so does a pipeline, in place of its first result.  The call is made all the
    same, but not one that takes something (``acquire``, ``get`` of a queue, ``pop``).  A process
    that ends in order waits up to five seconds for its one-way calls to be served.  With a server
    of the stdlib each call takes its round trip.

    Parameters
    ----------
    proxy : BaseProxy
        Which object they are calls of.

    Returns
    -------
    object
        With the methods that the proxy may call; they return None.

    Raises
    ------
    TypeError
        It is no proxy.
    OSError, EOFError
        By the methods: the connection failed.

    Examples
    --------
    >>> counts = manager.dict()
    >>> fastmgr.oneway(counts).incr("spam")
    >>> counts["spam"]
    1
    """
    _require_proxy(proxy)
    return Recorder(proxy, partial(Posting, proxy))


#: What can be said of a recorder without calling a method by name, as statements can. Where the
#: value is what matters (``in``, ``for``, ``len()``, ``+``, ...) there is a TypeError.
_STATEMENTS = ("__getitem__", "__setitem__", "__delitem__")


@functools.lru_cache(maxsize=256)
def _found_in_class(exposed: tuple[str, ...]) -> list[str]:
    """The names that a recorder's class has too: `__getattr__` is not asked for those."""
    return ["__repr__", "__str__", *(name for name in exposed if hasattr(Recorder, name))]


class Recorder:
    """Stands for a proxy whose calls return nothing: those of a pipeline, and one-way calls."""

    # A copy or an unpickler may ask for attributes of one that is not yet made.
    _proxy: Any = None
    _method_of: Callable[[str], Callable[..., None]]
    _exposed: tuple[str, ...] | None = ()

    def __init__(self, proxy: BaseProxy, method_of: Callable[[str], Callable[..., None]]) -> None:
        names: Iterable[str] | None = getattr(proxy, "_exposed_", None)
        exposed = None if names is None else tuple(names)
        # Called by name, each of these is a method of the referent.
        own = _found_in_class(_STATEMENTS if exposed is None else exposed)
        self.__dict__.update({name: method_of(name) for name in own})
        self.__dict__.update(_proxy=proxy, _method_of=method_of, _exposed=exposed)

    def __getattr__(self, name: str) -> Callable[..., None]:
        if self._exposed is not None and name not in self._exposed:
            raise AttributeError(f"{self._shown()} exposes no method {name!r}")
        method = self.__dict__[name] = self._method_of(name)  # found without us from now on
        return method

    def __setattr__(self, name: str, value: Any) -> None:
        self._attribute("__setattr__", name)(value)

    def __delattr__(self, name: str) -> None:
        self._attribute("__delattr__", name)()

    def _attribute(self, verb: str, name: str) -> Callable[..., None]:
        """The method that sets or deletes an attribute of the referent."""
        exposed = ("set",) if self._exposed is None else self._exposed
        if verb in exposed and not name.startswith("_"):  # a proxy keeps those to itself
            return partial(self._method_of(verb), name)
        value = verb == "__setattr__" and name == "value" and "set" in exposed
        if value and hasattr(type(self._proxy), "value"):  # a Value's, a Counter's
            return self._method_of("set")
        done = "set" if verb == "__setattr__" else "deleted"
        raise AttributeError(f"{self._shown()} has no attribute {name!r} that can be {done}")

    def _statement(self, name: str) -> Callable[..., None]:
        method: Callable[..., None] | None = self.__dict__.get(name)
        if method is None:
            raise TypeError(f"{self._shown()} exposes no method {name!r}")
        return method

    def __getitem__(self, key: Any) -> None:
        self._statement("__getitem__")(key)

    def __setitem__(self, key: Any, value: Any) -> None:
        self._statement("__setitem__")(key, value)

    def __delitem__(self, key: Any) -> None:
        self._statement("__delitem__")(key)

    # Without these Python asks `__getitem__` for one item after the other, until it raises.
    __iter__ = None
    __reversed__ = None
    __contains__ = None

    def __bool__(self) -> bool:
        if hasattr(type(self._proxy), "__bool__") or hasattr(type(self._proxy), "__len__"):
            raise self._asked("has no truth value")
        return True

    def __eq__(self, other: object) -> bool:
        kind: Any = type(self._proxy)
        if self is not other and kind.__eq__ is not object.__eq__:
            raise self._asked("cannot be compared")
        return self is other

    __hash__ = object.__hash__

    def _asked(self, why: str) -> TypeError:
        return TypeError(f"{self!r} {why}, for its calls return nothing: ask the proxy")

    def __copy__(self) -> Recorder:
        return type(self)(self._proxy, self._method_of)

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError(
            f"{self!r} is one process's and cannot be pickled or copied deeply: pass the proxy"
        )

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *(self._exposed or ())})

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._shown()}>"

    def _shown(self) -> str:
        """The proxy, without asking the server for anything."""
        return BaseProxy.__repr__(self._proxy)
