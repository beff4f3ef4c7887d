"""Lists on a Valkey server.

What only Python can compute of a list (a sort, a search by equality) is computed of a copy, and put
in place only if the list still is what was copied.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.methods import (
    FAR,
    JOINED,
    TRIES,
    Length,
    Method,
    Steps,
    function,
    item_at,
    method,
    near,
    too_contended,
)
from fastmgr.engines.valkey.references import (
    Maker,
    fetch,
    hold,
    hold_all,
    make_ident,
    operand,
    release,
    require,
    store,
    take_out,
)
from fastmgr.engines.valkey.values import encode
from fastmgr.kinds.verbs import ListVerbs

__all__: list[str] = []


class _Empty(list[Any]):
    """A list that also has our verb: it raises what that raises for wrong arguments."""

    def incr(self, *args: Any, **kwds: Any) -> Any:
        return ListVerbs.incr([0], *args, **kwds)


def write_list(session: Any, key: bytes, items: Any, typeid: str | None = None) -> list[bytes]:
    words = [encode(item, session.address) for item in items]
    hold_all(session, key, words, typeid)
    return words


def read_list(session: Any, items: Sequence[bytes]) -> list[Any]:
    return [fetch(session, item) for item in items]


def bounds(part: slice) -> list[Any] | None:
    """Return how the library is told a slice of step 1; None for another step."""
    if part.step is not None and operator.index(part.step) != 1:
        return None
    return ["" if end is None else near(operator.index(end)) for end in (part.start, part.stop)]


@method("#create", "list")
class MakeList(Maker):
    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        items: list[Any] = list(*map(operand, args), **kwds)
        ident = make_ident(typeid)
        key = session.key_of(ident)
        words = write_list(session, key, items, typeid)
        session.function(b"list_make", key, typeid, session.id, *words)
        return ident


# -- reading ----------------------------------------------------------------------


@method("__getitem__", "list", least=1, most=1, model=list, reads=True)
class ListGetItem(Method):
    def words(self, session: Any, key: bytes, index: Any) -> list[Any]:
        if type(index) is int and -FAR <= index <= FAR:
            return [b"LINDEX", key, index]
        if not isinstance(index, slice):
            return [b"LINDEX", key, item_at(index, [].__getitem__)]
        ends = bounds(index)
        if ends is None:
            return [b"LRANGE", key, 0, -1]
        start, stop = ends
        if stop == 0:
            return [b"LRANGE", key, 1, 0]  # nothing
        return [b"LRANGE", key, start or 0, -1 if stop == "" else stop - 1]

    def finish(self, session: Any, key: bytes, reply: Any, index: Any) -> Any:
        if reply is None:
            require(session, key)
            raise IndexError("list index out of range")
        if type(reply) is bytes:
            return fetch(session, reply)
        if not reply:
            require(session, key)
        items = read_list(session, reply)
        return items if bounds(index) is not None else items[index]


@method("__len__", "list", model=list, reads=True)
class ListLen(Length):
    command = b"LLEN"


class _ListReading(Method):
    """A method of which the result is computed here, of a copy of the list."""

    reads = True
    least, most = 0, 3

    def words(self, session: Any, key: bytes, *args: Any) -> list[Any]:
        return [b"LRANGE", key, 0, -1]

    def finish(self, session: Any, key: bytes, reply: Any, *args: Any) -> Any:
        if not reply:
            require(session, key)
        return self.compute(read_list(session, reply), *args)

    def compute(self, items: list[Any], *args: Any) -> Any:
        return getattr(items, self.name)(*args)


for _name in [
    "__contains__",
    "__repr__",
    "__str__",
    "__mul__",
    "__rmul__",
    "copy",
    "count",
    "index",
]:
    method(_name, "list", model=list)(_ListReading)


@method("#GETVALUE", "list", most=0, model=list)
class ListCopy(_ListReading):
    def compute(self, items: list[Any], *args: Any) -> list[Any]:
        return items


@method("__add__", "list", least=1, most=1, model=list)
class ListAdd(_ListReading):
    def compute(self, items: list[Any], *args: Any) -> Any:
        return items + operand(args[0])


@method("__reversed__", "list", most=0, model=list)
class ListReversed(_ListReading):
    def compute(self, items: list[Any], *args: Any) -> Iterator[Any]:
        return iter(items[::-1])


# -- changing ---------------------------------------------------------------------


class _Storing(Method):
    """A method whose last argument is stored."""

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        release(session, key, (encode(args[-1], session.address),))
        return super().failed(session, key, reply, *args)


@method("append", "list", least=1, most=1, model=list)
class ListAppend(_Storing):
    joins = JOINED

    def words(self, session: Any, key: bytes, item: Any) -> list[Any]:
        return function("list_append", key, store(session, key, item))


@method("insert", "list", least=2, most=2, model=list)
class ListInsert(_Storing):
    def words(self, session: Any, key: bytes, index: Any, item: Any) -> list[Any]:
        [item].insert(index, item)  # raises what that would raise
        at = operator.index(index)
        return function("list_insert", key, near(at), store(session, key, item))


@method("extend", "list", model=list)
class ListExtend(Method):
    binds_again = False

    def bound(self, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Sequence[Any]:
        if len(args) == 1 and type(args[0]) is list and not kwds:
            return args
        items: list[Any] = []
        items.extend(*map(operand, args), **kwds or {})
        return (items,)

    def words(self, session: Any, key: bytes, items: Any) -> list[Any]:
        return function("list_append", key, *write_list(session, key, items))


@method("pop", "list", most=1, model=list)
class ListPop(Method):
    def words(self, session: Any, key: bytes, index: Any = -1) -> list[Any]:
        return function("list_pop", key, item_at(index, [0].pop))

    def finish(self, session: Any, key: bytes, reply: Any, index: Any = -1) -> Any:
        return take_out(session, key, reply)


@method("reverse", "list", model=list)
class ListReverse(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("list_reverse", key)


@method("clear", "list", model=list)
class ListClear(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("list_clear", key)

    def finish(self, session: Any, key: bytes, reply: Any) -> None:
        release(session, key, reply)


#: What a list becomes: all its items, those among them that were stored for it, those that went.
Change = tuple[list[bytes], list[bytes], list[bytes]]


def assign(
    session: Any, key: bytes, name: str, compute: Callable[[list[Any], list[bytes]], Change]
) -> None:
    """Replace a list by what `compute` makes of its items, read and as they are."""
    for _ in range(TRIES):
        version, old = session.function(b"list_items", key, reads=True)
        new, added, removed = compute(read_list(session, old), old)
        if session.function(b"list_assign", key, version, len(old), *new):
            return release(session, key, removed)
        release(session, key, added)
    raise too_contended(name)


@method("__setitem__", "list", least=2, most=2, model=list)
class ListSetItem(_Storing):
    def words(self, session: Any, key: bytes, index: Any, item: Any) -> list[Any]:
        if isinstance(index, slice):
            ends = bounds(index)
            if ends is None:
                return [b"LLEN", key]  # what there is to do is done when the reply is there
            copy: list[Any] = []
            copy[:] = operand(item)  # raises what that would raise
            return function("list_splice", key, *ends, *write_list(session, key, copy))
        at = item_at(index, [].__setitem__, item)
        return function("list_set", key, at, store(session, key, item))

    def finish(self, session: Any, key: bytes, reply: Any, index: Any, item: Any) -> None:
        if not isinstance(index, slice):
            return release(session, key, (reply,))
        if bounds(index) is not None:
            return release(session, key, reply)
        given = list(operand(item))

        def compute(items: list[Any], data: list[bytes]) -> Change:
            new: list[Any] = list(data)
            removed = data[index]
            new[index] = given  # raises what that would raise
            added = write_list(session, key, given)
            new[index] = added
            return new, added, removed

        assign(session, key, self.name, compute)


@method("__delitem__", "list", least=1, most=1, model=list)
class ListDelItem(Method):
    def words(self, session: Any, key: bytes, index: Any) -> list[Any]:
        if isinstance(index, slice):
            ends = bounds(index)
            return [b"LLEN", key] if ends is None else function("list_splice", key, *ends)
        return function("list_delete", key, item_at(index, [].__delitem__))

    def finish(self, session: Any, key: bytes, reply: Any, index: Any) -> None:
        if type(reply) is list:
            return release(session, key, reply)

        def compute(items: list[Any], data: list[bytes]) -> Change:
            new = list(data)
            del new[index]
            return new, [], data[index]

        assign(session, key, self.name, compute)


@method("sort", "list", model=list)
class ListSort(Steps):
    """The key function runs here, once for each item of each attempt."""

    def bound(self, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Sequence[Any]:
        [].sort(*args, **kwds or {})  # raises what that would raise
        return (kwds or {},)

    def work(self, session: Any, key: bytes, kwds: Mapping[str, Any]) -> None:
        by = kwds.get("key") or (lambda item: item)

        def compute(items: list[Any], data: list[bytes]) -> Change:
            order = sorted(
                range(len(items)), key=lambda i: by(items[i]), reverse=kwds.get("reverse", False)
            )
            return [data[i] for i in order], [], []

        assign(session, key, "sort", compute)


@method("remove", "list", least=1, most=1, model=list)
class ListRemove(Steps):
    def work(self, session: Any, key: bytes, item: Any) -> None:
        for _ in range(TRIES):
            version, data = session.function(b"list_items", key, reads=True)
            items = read_list(session, data)
            try:
                at = items.index(item)
            except ValueError:
                raise ValueError("list.remove(x): x not in list") from None
            if session.function(b"list_remove", key, version, len(data), at):
                return release(session, key, data[at : at + 1])
        raise too_contended("remove")


@method("__imul__", "list", least=1, most=1, model=list)
class ListImul(Steps):
    def work(self, session: Any, key: bytes, times: Any) -> None:
        [].__imul__(times)  # raises what that would raise
        times = operator.index(times)

        def compute(items: list[Any], data: list[bytes]) -> Change:
            new = data * times
            added = data * (times - 1)
            for item in added:
                if item[:1] == b"R":
                    hold(session, key, item)
            return new, added, [] if times > 0 else data

        assign(session, key, "__imul__", compute)


@method(
    "incr",
    "list",
    model=_Empty,
    bind=lambda key=None, amount=1, default=None: (key, amount),
)
class ListIncr(Method):
    def words(self, session: Any, key: bytes, index: Any, amount: Any) -> list[Any]:
        at = item_at(index, [].__getitem__)
        if (type(amount) is int and -(2**63) <= amount < 2**63) or type(amount) is float:
            return function("list_incr", key, at, encode(amount))
        return [b"LRANGE", key, at, at]

    def finish(self, session: Any, key: bytes, reply: Any, index: Any, amount: Any) -> Any:
        if type(reply) is bytes:
            return fetch(session, reply)
        at = near(operator.index(index))
        for _ in range(TRIES):
            if not reply:
                require(session, key)
                raise IndexError("list index out of range")
            old = reply[0]
            total = fetch(session, old) + amount
            new = store(session, key, total)
            if session.function(b"list_replace", key, at, old, new):
                release(session, key, (old,))
                return total
            release(session, key, (new,))
            reply = session.run([b"LRANGE", key, at, at], True)
        raise too_contended("incr")
