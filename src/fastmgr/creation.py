"""The methods by which a manager creates objects, and what its registry has of a type."""

from __future__ import annotations

import threading
import types
from collections.abc import Callable, Iterable
from multiprocessing import util
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastmgr.basemanager import BaseManager

__all__ = ["Read", "creating", "method_that_creates"]


class _Creating(threading.local):
    """Whether this thread is in a create method, and the reference that its proxy takes over.

    Whatever is raised on the way, a reference that nobody has taken over is returned.
    """

    depth = 0
    reference: Any = None


creating = _Creating()


class Read(tuple[Any, Any, Any, Any]):
    """What a registry has of a type some of whose methods only read."""

    readers: frozenset[str]

    def __new__(cls, registered: tuple[Any, Any, Any, Any], readers: Iterable[str] = ()) -> Read:
        made = super().__new__(cls, registered)
        if isinstance(readers, str):
            raise TypeError(f"readers={readers!r}: names in a list or tuple are needed")
        made.readers = frozenset(readers)
        return made


class _Parameters:
    """What `help` and `inspect.signature` find behind a create method: what it has to be given.

    Only when they ask: to import `inspect` takes half as long as to import all of fastmgr.
    """

    def __init__(self, maker: Callable[..., Any]) -> None:
        self.__wrapped__ = maker

    @property
    def __signature__(self) -> Any:
        from inspect import Parameter, Signature, signature

        kept = Parameter("self", Parameter.POSITIONAL_ONLY)
        try:
            return Signature([kept, *signature(self.__wrapped__).parameters.values()])
        except (TypeError, ValueError):  # as of `dict`, or of what has an odd `__signature__`
            return signature(lambda self, /, *args, **kwds: None)


def method_that_creates(typeid: str, maker: Any, proxytype: Callable[..., Any]) -> Any:
    """Return the method of a manager that has the server make an object, and returns a proxy."""

    def create(self: BaseManager, /, *args: Any, **kwds: Any) -> Any:
        util.debug("requesting creation of a shared %r object", typeid)
        outer = creating.depth, creating.reference
        try:
            creating.depth += 1
            token, exposed = self._create(typeid, *args, **kwds)
            creating.depth = outer[0]
            return proxytype(
                token, self._serializer, manager=self, authkey=self._authkey, exposed=exposed
            )
        finally:
            # The proxy took it, unless it is a user's own that takes none.
            creating.depth, creating.reference = outer

    method: Any = create
    method.__name__, method.__annotations__ = typeid, {}
    method.__module__ = "fastmgr.managers"  # where users find managers
    if isinstance(maker, (type, types.FunctionType)):
        method.__doc__ = maker.__doc__
        method.__wrapped__ = _Parameters(maker)
    return method
