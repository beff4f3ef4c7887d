"""Sets on a Valkey server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastmgr.engines.valkey.containers import read_keys
from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.keys import decode_key, encode_both, encode_key
from fastmgr.engines.valkey.methods import JOINED, Contains, Length, Method, Steps, function, method
from fastmgr.engines.valkey.references import Maker, make_ident, operand

__all__: list[str] = []

#: The reply to a request that is made for an operation with something that is no set.
UNKNOWN = b"NotImplemented"


def write_set(session: Any, members: Any) -> list[bytes]:
    return [part for member in members for part in encode_both(member, session.address)]


@method("#create", "set")
class MakeSet(Maker):
    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        words = write_set(session, set(*map(operand, args), **kwds))
        ident = make_ident(typeid)
        session.function(b"set_make", session.key_of(ident), typeid, session.id, *words)
        return ident


@method("__contains__", "set", least=1, most=1, model=set)
class SetContains(Contains):
    def words(self, session: Any, key: bytes, member: Any) -> list[Any]:
        # A set is looked for as the frozenset that is equal to it.
        return [b"SISMEMBER", key, encode_key(_as_member(member))]


def _as_member(member: Any) -> Any:
    return frozenset(member) if isinstance(member, set) else member


@method("__len__", "set", model=set, reads=True)
class SetLen(Length):
    command = b"SCARD"


@method("add", "set", least=1, most=1, model=set)
class SetAdd(Method):
    joins = JOINED

    def words(self, session: Any, key: bytes, member: Any) -> list[Any]:
        return function("set_add", key, *encode_both(member, session.address))


@method("discard", "set", least=1, most=1, model=set)
class SetDiscard(Method):
    def words(self, session: Any, key: bytes, member: Any) -> list[Any]:
        return function("set_discard", key, encode_key(_as_member(member)))

    def finish(self, session: Any, key: bytes, reply: Any, member: Any) -> None:
        return None


@method("remove", "set", least=1, most=1, model=set)
class SetRemove(SetDiscard):
    def finish(self, session: Any, key: bytes, reply: Any, member: Any) -> None:
        if not reply:
            raise KeyError(member)


@method("pop", "set", model=set)
class SetPop(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("set_pop", key)

    def finish(self, session: Any, key: bytes, reply: Any) -> Any:
        field, original = reply
        return decode_key(field, original, session.address)

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        if reply.text == "KEY":
            return KeyError("pop from an empty set")
        return super().failed(session, key, reply, *args)


@method("clear", "set", model=set)
class SetClear(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("set_clear", key)


class _SetReading(Method):
    """A method of which the result is computed here, of a copy of the set."""

    reads = True

    def bound(self, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Sequence[Any]:
        if kwds:
            getattr(set(), self.name)(*args, **kwds)
        return args

    def words(self, session: Any, key: bytes, *args: Any) -> list[Any]:
        return function("set_members", key)

    def finish(self, session: Any, key: bytes, reply: Any, *args: Any) -> Any:
        members = set(read_keys(session, *reply))
        return getattr(members, self.name)(*map(operand, args))


for _name in [
    "__and__",
    "__or__",
    "__sub__",
    "__xor__",
    "__rand__",
    "__ror__",
    "__rsub__",
    "__rxor__",
    "__lt__",
    "__le__",
    "__gt__",
    "__ge__",
    "__repr__",
    "__str__",
    "copy",
    "difference",
    "intersection",
    "isdisjoint",
    "issubset",
    "issuperset",
    "symmetric_difference",
    "union",
]:
    method(_name, "set", model=set)(_SetReading)


@method("#GETVALUE", "set", model=set)
class SetCopy(_SetReading):
    def finish(self, session: Any, key: bytes, reply: Any, *args: Any) -> set[Any]:
        return set(read_keys(session, *reply))


@method("__iter__", "set", model=set)
class SetIter(_SetReading):
    def finish(self, session: Any, key: bytes, reply: Any, *args: Any) -> Iterator[Any]:
        return iter(read_keys(session, *reply))


class _SetChanging(Method):
    """A method that changes a set by the members of others: they are computed here.

    Attributes
    ----------
    call : str
        The function that changes the set.
    both : bool
        It takes the members as they were given, too.
    """

    call = ""
    both = True
    binds_again = False
    #: How several operands become one.
    join: Any = staticmethod(lambda *others: set().union(*others))

    def bound(self, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Sequence[Any]:
        args = tuple(map(operand, args))
        result = getattr(set(), self.name)(*args, **kwds or {})
        return (NotImplemented if result is NotImplemented else self.join(*args),)

    def words(self, session: Any, key: bytes, members: Any) -> list[Any]:
        if members is NotImplemented:
            return [b"ECHO", UNKNOWN]
        if self.both:
            return function(self.call, key, *write_set(session, members))
        return function(self.call, key, *map(encode_key, members))

    def finish(self, session: Any, key: bytes, reply: Any) -> Any:
        return NotImplemented if reply == UNKNOWN else None


@method("update", "set")
@method("__ior__", "set")
class SetUpdate(_SetChanging):
    call = "set_add"


@method("symmetric_difference_update", "set")
@method("__ixor__", "set")
class SetToggle(_SetChanging):
    call = "set_toggle"


@method("difference_update", "set")
@method("__isub__", "set")
class SetDiscardAll(_SetChanging):
    call, both = "set_discard", False


@method("intersection_update", "set")
@method("__iand__", "set")
class SetKeep(_SetChanging):
    call, both = "set_keep", False
    join: Any = staticmethod(lambda first, *others: set(first).intersection(*others))


@method("__class_getitem__", "set", least=1, most=1, model=set)
class SetOf(Steps):
    def work(self, session: Any, key: bytes, item: Any) -> Any:
        return set[item]
