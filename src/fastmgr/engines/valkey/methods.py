"""What the methods of containers and numbers have in common."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from fastmgr.engines.valkey.commands import METHODS, Command, Procedure
from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.references import require
from fastmgr.stock.dialect import RemoteError

__all__ = [
    "FAR", "JOINED", "TRIES", "Contains", "Length", "Method", "Steps", "function", "item_at",
    "method", "near", "refuse", "too_contended",
]  # fmt: skip

#: How often a client computes anew what others have made out of date.
TRIES = 1000

#: How many calls of a pipeline may be one: each takes the server a microsecond or two, in which it
#: serves nobody else.
JOINED = 250

#: An index that nothing has.
FAR = 2**61
#: Python refuses an index of an item that is as large.
TOO_FAR = 2**63

_M = TypeVar("_M", bound="type[Command | Procedure]")


def function(name: str, key: bytes, *args: Any) -> list[Any]:
    """Return the request that calls a function of our library."""
    return [b"FCALL", b"fm1_" + name.encode(), b"1", key, *args]


def near(index: int) -> int:
    """Return an index as the server can read it: of those that are too large, one that is."""
    return max(-FAR, min(index, FAR))


def item_at(index: Any, find: Callable[..., Any], *args: Any) -> int:
    """Return the index of an item as the server can read it.

    `find`, of an empty object, raises what is wrong with another index.
    """
    try:
        at = operator.index(index)
    except TypeError:
        at = TOO_FAR
    if not -TOO_FAR <= at < TOO_FAR:
        find(index, *args)
        raise IndexError(f"{index!r} is no index")
    return near(at)


def refuse(model: Any, name: str, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> None:
    """Raise what the method of `model`, an empty object, raises for arguments that do not fit."""
    getattr(model, name)(*args, **kwds or {})
    raise TypeError(f"{name}() got arguments that do not fit: {args!r}, {kwds!r}")


def too_contended(name: str) -> RuntimeError:
    return RuntimeError(
        f"{name}(): others have changed the object each of {TRIES:,} times that a result was "
        "ready; hold a lock meanwhile"
    )


class _Bound:
    """How the arguments of a method are taken apart.

    Attributes
    ----------
    name : str
    model : callable
        Makes an object whose method of the name raises the error for wrong arguments.
    least, most : int
        How many arguments there may be.
    bind : callable, optional
        Takes the arguments, also those with keywords, and returns all of them in order.
    """

    name = ""
    model: Any = None
    least = most = 0
    bind: Callable[..., tuple[Any, ...]] | None = None

    def bound(self, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Sequence[Any]:
        if self.bind is not None:
            try:
                return self.bind(*args, **kwds or {})
            except TypeError:
                refuse(self.model(), self.name, args, kwds)
        if kwds or not self.least <= len(args) <= self.most:
            refuse(self.model(), self.name, args, kwds)
        return args


class Method(_Bound, Command):
    """A method that is one request: `words` makes it of the arguments, `finish` reads the reply.

    Attributes
    ----------
    binds_again : bool
        `finish` and `failed` get the arguments.  False where an argument may be an iterator, which
        can be read once.
    """

    binds_again = True

    def words(self, session: Any, key: bytes, *args: Any) -> list[Any]:
        raise NotImplementedError

    def finish(self, session: Any, key: bytes, reply: Any, *args: Any) -> Any:
        return reply

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        """Return the exception for an error reply; the arguments are those of `words`."""
        return super().failure(reply, key, args, None, session)

    def request(
        self, key: bytes, args: Sequence[Any], kwds: Mapping[str, Any] | None, session: Any
    ) -> list[Any]:
        return self.words(session, key, *self.bound(args, kwds))

    def result(
        self,
        reply: Any,
        key: bytes,
        args: Sequence[Any],
        kwds: Mapping[str, Any] | None,
        session: Any,
    ) -> Any:
        args = self.bound(args, kwds) if self.binds_again else ()
        for _ in range(TRIES):
            try:
                return self.finish(session, key, reply, *args)
            except RemoteError:
                if not self.reads:
                    raise
                # An object may be gone that a value contains a proxy of: if the container has let
                # go of the value meanwhile, what it has now counts.
                again = session.run(self.words(session, key, *args), True)
                if again == reply:
                    raise
                reply = again
        raise too_contended(self.name)

    def failure(
        self,
        reply: ReplyError,
        key: bytes,
        args: Sequence[Any],
        kwds: Mapping[str, Any] | None,
        session: Any,
    ) -> BaseException:
        args = self.bound(args, kwds) if self.binds_again else ()
        return self.failed(session, key, reply, *args)


class Steps(_Bound, Procedure):
    """A method of several requests: `work` makes them."""

    def work(self, session: Any, key: bytes, *args: Any) -> Any:
        raise NotImplementedError

    def __call__(
        self, session: Any, key: bytes, args: Sequence[Any], kwds: Mapping[str, Any] | None
    ) -> Any:
        return self.work(session, key, *self.bound(args, kwds))


def method(name: str, *typeids: str, **attributes: Any) -> Callable[[_M], _M]:
    """Return a decorator that enters a method of types into the table."""

    def enter(kind: _M) -> _M:
        for typeid in typeids:
            one: Any = kind()
            one.name = name
            for attribute, value in attributes.items():
                setattr(one, attribute, value)
            METHODS.setdefault(typeid, {})[name] = one
        return kind

    return enter


class Contains(Method):
    """Whether something is there; what is gone has nothing."""

    reads = True

    def finish(self, session: Any, key: bytes, reply: Any, sought: Any) -> bool:
        if not reply:
            require(session, key)
        return bool(reply)


class Length(Method):
    """The length of what a command counts, which is 0 for what is empty and for what is gone."""

    command = b""

    def words(self, session: Any, key: bytes) -> list[Any]:
        return [self.command, key]

    def finish(self, session: Any, key: bytes, reply: Any) -> int:
        if not reply:
            require(session, key)
        return int(reply)
