"""Dicts, namespaces and sets on a Valkey server.

Each method is one command or one function of our library, so nobody comes between.  Two kinds of
methods take more: what only Python can compute is computed here from what was read, and put in
place only if nobody has changed that meanwhile, else computed again; and of an operand that is
itself a proxy a copy is read first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.keys import decode_key, encode_both, encode_key
from fastmgr.engines.valkey.methods import (
    JOINED,
    TRIES,
    Contains,
    Length,
    Method,
    Steps,
    function,
    method,
    too_contended,
)
from fastmgr.engines.valkey.references import (
    Maker,
    fetch,
    hold_all,
    make_ident,
    operand,
    release,
    require,
    store,
    take_out,
)
from fastmgr.engines.valkey.values import encode
from fastmgr.kinds.containers import Namespace
from fastmgr.kinds.verbs import DictVerbs, NamespaceVerbs

MISSING: Any = object()


class _Empty(dict[Any, Any]):
    """A dict that also has our verbs: it raises what these raise for wrong arguments."""

    def incr(self, *args: Any, **kwds: Any) -> Any:
        return DictVerbs.incr({}, *args, **kwds)

    def exchange(self, *args: Any, **kwds: Any) -> Any:
        return DictVerbs.exchange({}, *args, **kwds)

    def compare_exchange(self, *args: Any, **kwds: Any) -> Any:
        return DictVerbs.compare_exchange({}, *args, **kwds)


def pairs(flat: Any) -> dict[bytes, bytes]:
    """Return a hash that a function has returned."""
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=False))


def read_keys(session: Any, fields: Sequence[bytes], originals: Any) -> list[Any]:
    """Return the keys that have the fields; `originals` are those that the fields do not tell."""
    if not originals:
        return [decode_key(field) for field in fields]
    kept = pairs(originals)
    return [decode_key(field, kept.get(field), session.address) for field in fields]


def read_dict(session: Any, reply: Any) -> dict[Any, Any]:
    fields, values, originals = reply
    keys = read_keys(session, fields, originals)
    return dict(zip(keys, [fetch(session, value) for value in values], strict=False))


def write_dict(
    session: Any, key: bytes, items: Mapping[Any, Any], typeid: str | None = None
) -> list[bytes]:
    """Return the items of a dict as the library's functions take them; see `hold_all`."""
    words: list[bytes] = []
    for name in items:
        field, original = encode_both(name, session.address)
        words += (field, b"", original)
    words[1::3] = [encode(value, session.address) for value in items.values()]
    hold_all(session, key, words[1::3], typeid)
    return words


# -- dicts ------------------------------------------------------------------------


@method("#create", "dict")
class MakeDict(Maker):
    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        items = self.items(args, kwds)
        ident = make_ident(typeid)
        key = session.key_of(ident)
        words = write_dict(session, key, items, typeid)
        session.function(b"dict_make", key, typeid, session.id, *words)
        return ident

    def items(self, args: Sequence[Any], kwds: Mapping[str, Any]) -> dict[Any, Any]:
        return dict(*map(operand, args), **kwds)


@method("get", "dict", least=1, most=2, model=dict, reads=True)
class DictGet(Method):
    def words(self, session: Any, key: bytes, name: Any, default: Any = None) -> list[Any]:
        return [b"HGET", key, encode_key(name)]

    def finish(self, session: Any, key: bytes, reply: Any, name: Any, default: Any = None) -> Any:
        if reply is None:
            require(session, key)
            return self.missing(name, default)
        return fetch(session, reply)

    def missing(self, name: Any, default: Any) -> Any:
        return default


@method("__getitem__", "dict", least=1, most=1, model=dict, reads=True)
class DictGetItem(DictGet):
    def missing(self, name: Any, default: Any) -> Any:
        raise KeyError(name)


@method("__contains__", "dict", least=1, most=1, model=dict)
class DictContains(Contains):
    def words(self, session: Any, key: bytes, name: Any) -> list[Any]:
        return [b"HEXISTS", key, encode_key(name)]


@method("__len__", "dict", model=dict, reads=True)
class DictLen(Length):
    command = b"HLEN"


class _Storing(Method):
    """A method that stores a value; what was taken for it is returned where that fails."""

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        value = encode(args[1] if len(args) > 1 else None, session.address)
        release(session, key, (value,))
        return super().failed(session, key, reply, *args)


@method("__setitem__", "dict", least=2, most=2, model=dict)
class DictSetItem(_Storing):
    joins = JOINED

    def words(self, session: Any, key: bytes, name: Any, value: Any) -> list[Any]:
        field, original = encode_both(name, session.address)
        return function("dict_set", key, field, store(session, key, value), original)

    def finish(self, session: Any, key: bytes, reply: Any, name: Any, value: Any) -> None:
        release(session, key, reply)


@method("__delitem__", "dict", least=1, most=1, model=dict)
class DictDelItem(Method):
    def words(self, session: Any, key: bytes, name: Any) -> list[Any]:
        return function("dict_delete", key, encode_key(name))

    def finish(self, session: Any, key: bytes, reply: Any, name: Any) -> None:
        release(session, key, (reply,))


@method("pop", "dict", least=1, most=2, model=dict)
class DictPop(Method):
    def words(self, session: Any, key: bytes, name: Any, default: Any = None) -> list[Any]:
        return function("dict_pop", key, encode_key(name))

    def finish(
        self, session: Any, key: bytes, reply: Any, name: Any, default: Any = MISSING
    ) -> Any:
        if reply is not None:
            return take_out(session, key, reply)
        if default is MISSING:
            raise KeyError(name)
        return default


@method("popitem", "dict", model=dict)
class DictPopItem(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("dict_popitem", key)

    def finish(self, session: Any, key: bytes, reply: Any) -> Any:
        if reply is None:
            raise KeyError("popitem(): dictionary is empty")
        field, value, original = reply
        return decode_key(field, original, session.address), take_out(session, key, value)


@method("setdefault", "dict", least=1, most=2, model=dict)
class DictSetDefault(_Storing):
    def words(self, session: Any, key: bytes, name: Any, default: Any = None) -> list[Any]:
        field, original = encode_both(name, session.address)
        return function("dict_setdefault", key, field, store(session, key, default), original)

    def finish(self, session: Any, key: bytes, reply: Any, name: Any, default: Any = None) -> Any:
        if reply is None:
            return default
        release(session, key, (encode(default, session.address),))
        return fetch(session, reply)


@method("exchange", "dict", model=_Empty, bind=lambda key, value: (key, value))
class DictExchange(_Storing):
    def words(self, session: Any, key: bytes, name: Any, value: Any) -> list[Any]:
        return function("dict_exchange", key, encode_key(name), store(session, key, value))

    def finish(self, session: Any, key: bytes, reply: Any, name: Any, value: Any) -> Any:
        return take_out(session, key, reply)


def _swap(
    session: Any, key: bytes, name: Any, old: bytes | None, new: bytes
) -> tuple[bool, bytes | None]:
    """Replace a value that has these very bytes; return whether it was, else what is there."""
    field, original = encode_both(name, session.address)
    reply = session.function(b"dict_replace", key, field, old or b"", new, original)
    if reply == 1:
        release(session, key, (old,))
        return True, None
    return False, reply


@method(
    "compare_exchange",
    "dict",
    model=_Empty,
    bind=lambda key, expected, desired: (key, expected, desired),
)
class DictCompareExchange(Method):
    def words(self, session: Any, key: bytes, name: Any, expected: Any, desired: Any) -> list[Any]:
        # A value that is not equal to itself must not be found by its bytes.
        old = encode(expected, session.address) if expected == expected else b"-"
        new = store(session, key, desired)
        return function("dict_replace", key, encode_key(name), old, new, b"")

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        release(session, key, (encode(args[2], session.address),))
        return super().failed(session, key, reply, *args)

    def finish(
        self, session: Any, key: bytes, reply: Any, name: Any, expected: Any, desired: Any
    ) -> bool:
        if reply == 1:
            release(session, key, (encode(expected, session.address),))
            return True
        new = encode(desired, session.address)
        try:
            for _ in range(TRIES):
                if reply is None:
                    raise KeyError(name)
                if fetch(session, reply) != expected:
                    release(session, key, (new,))
                    return False
                # Equal, but of other bytes.
                done, reply = _swap(session, key, name, reply, new)
                if done:
                    return True
            raise too_contended(self.name)
        except OSError:
            raise  # it may have been stored
        except Exception:
            release(session, key, (new,))
            raise


def add_here(
    session: Any, key: bytes, name: Any, old: bytes | None, amount: Any, default: Any
) -> Any:
    """Add as Python adds; put the sum in place of the value that was added to."""
    for _ in range(TRIES):
        total = (default if old is None else fetch(session, old)) + amount
        new = store(session, key, total)
        done, old = _swap(session, key, name, old, new)
        if done:
            return total
        release(session, key, (new,))
    raise too_contended("incr")


def is_quick(name: Any, amount: Any, default: Any) -> bool:
    """Whether the server can add, if it has a number."""
    return (
        ((type(amount) is int and -(2**63) <= amount < 2**63) or type(amount) is float)
        and default is MISSING
        and (type(name) is str or type(name) is int or not encode_both(name)[1])
    )


@method(
    "incr",
    "dict",
    model=_Empty,
    bind=lambda key=None, amount=1, default=MISSING: (key, amount, default),
)
class DictIncr(Method):
    def words(self, session: Any, key: bytes, name: Any, amount: Any, default: Any) -> list[Any]:
        field = encode_key(name)
        if is_quick(name, amount, default):
            return function("dict_incr", key, field, encode(amount))
        return [b"HGET", key, field]

    def finish(
        self, session: Any, key: bytes, reply: Any, name: Any, amount: Any, default: Any
    ) -> Any:
        if type(reply) is list:
            reply = reply[0]
            if type(reply) is not list:
                return reply if type(reply) is int else fetch(session, reply)
            reply = reply[0] if reply else None
        return add_here(session, key, name, reply, amount, 0 if default is MISSING else default)


@method("update", "dict", model=dict)
class DictUpdate(Method):
    binds_again = False

    def bound(self, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Sequence[Any]:
        items: dict[Any, Any] = {}
        items.update(*map(operand, args), **kwds or {})
        return (items,)

    def words(self, session: Any, key: bytes, items: dict[Any, Any]) -> list[Any]:
        return function("dict_update", key, *write_dict(session, key, items))

    def finish(self, session: Any, key: bytes, reply: Any) -> None:
        release(session, key, reply)


@method("__ior__", "dict", model=dict)
class DictIor(DictUpdate):
    def bound(self, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Sequence[Any]:
        items: dict[Any, Any] = {}
        items.__ior__(*map(operand, args), **kwds or {})
        return (items,)


@method("clear", "dict", model=dict)
class DictClear(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("dict_clear", key)

    def finish(self, session: Any, key: bytes, reply: Any) -> None:
        release(session, key, reply)


class _DictReading(Method):
    reads = True

    def words(self, session: Any, key: bytes, *args: Any) -> list[Any]:
        return function("dict_items", key)

    def finish(self, session: Any, key: bytes, reply: Any, *args: Any) -> Any:
        return read_dict(session, reply)


method("copy", "dict", model=dict)(_DictReading)
method("#GETVALUE", "dict", model=dict)(_DictReading)


@method("items", "dict", model=dict)
class DictItems(_DictReading):
    def finish(self, session: Any, key: bytes, reply: Any) -> list[tuple[Any, Any]]:
        return list(read_dict(session, reply).items())


@method("__repr__", "dict", model=dict)
@method("__str__", "dict", model=dict)
class DictRepr(_DictReading):
    def finish(self, session: Any, key: bytes, reply: Any) -> str:
        return repr(read_dict(session, reply))


@method("__or__", "dict", least=1, most=1, model=dict)
class DictOr(_DictReading):
    def finish(self, session: Any, key: bytes, reply: Any, other: Any) -> Any:
        return read_dict(session, reply).__or__(operand(other))


@method("__ror__", "dict", least=1, most=1, model=dict)
class DictRor(_DictReading):
    def finish(self, session: Any, key: bytes, reply: Any, other: Any) -> Any:
        return read_dict(session, reply).__ror__(operand(other))


@method("keys", "dict", model=dict, reads=True)
class DictKeys(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("dict_keys", key)

    def finish(self, session: Any, key: bytes, reply: Any) -> Any:
        return read_keys(session, *reply)


class KeysOf(Iterator[Any]):
    """The keys of a dict as of one moment; that the dict grows or shrinks is an error.

    A request for the dict's size goes before each of the first keys, then before some of the
    others, and behind the last.
    """

    OFTEN, SELDOM = 8, 64

    def __init__(self, session: Any, key: bytes, keys: list[Any]) -> None:
        self.session, self.key, self.keys = session, key, keys
        self.at = 0

    def __next__(self) -> Any:
        at, length = self.at, len(self.keys)
        if (at < self.OFTEN or at % self.SELDOM == 0 or at == length) and self.session.run(
            [b"HLEN", self.key], True
        ) != length:
            raise RuntimeError("dictionary changed size during iteration")
        if at == length:
            raise StopIteration
        self.at += 1
        return self.keys[at]


@method("__iter__", "dict", model=dict, reads=True)
class DictIter(DictKeys):
    def finish(self, session: Any, key: bytes, reply: Any) -> Iterator[Any]:
        return KeysOf(session, key, read_keys(session, *reply))


@method("__reversed__", "dict", model=dict, reads=True)
class DictReversed(DictKeys):
    def finish(self, session: Any, key: bytes, reply: Any) -> Iterator[Any]:
        return iter(read_keys(session, *reply)[::-1])


@method("values", "dict", model=dict, reads=True)
class DictValues(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("dict_values", key)

    def finish(self, session: Any, key: bytes, reply: Any) -> list[Any]:
        return [fetch(session, value) for value in reply]


@method("fromkeys", "dict", least=1, most=2, model=dict)
class DictFromKeys(Steps):
    def work(self, session: Any, key: bytes, keys: Any, value: Any = None) -> dict[Any, Any]:
        return dict.fromkeys(operand(keys), value)


# -- namespaces -------------------------------------------------------------------
# As dicts, with the names as keys.


class _EmptyNamespace(Namespace):
    """A namespace that also has our verb, without being an attribute that values hide."""

    def incr(self, *args: Any, **kwds: Any) -> Any:
        return NamespaceVerbs.incr(Namespace(), *args, **kwds)


@method("#create", "Namespace")
class MakeNamespace(MakeDict):
    def items(self, args: Sequence[Any], kwds: Mapping[str, Any]) -> dict[Any, Any]:
        return vars(Namespace(*args, **kwds))


@method("__getattribute__", "Namespace", least=1, most=1, model=Namespace, reads=True)
class NamespaceGet(Method):
    def words(self, session: Any, key: bytes, name: Any) -> list[Any]:
        if type(name) is str and name[:2] != "__":
            return [b"HGET", key, encode_key(name)]
        return function("dict_items", key)

    def finish(self, session: Any, key: bytes, reply: Any, name: Any) -> Any:
        if reply is None:
            require(session, key)
            return getattr(Namespace(), name)  # which has what all objects have, and says the rest
        if type(reply) is list:
            return getattr(Namespace(**read_dict(session, reply)), name)
        return fetch(session, reply)


@method("__setattr__", "Namespace", least=2, most=2, model=Namespace)
class NamespaceSet(DictSetItem):
    def words(self, session: Any, key: bytes, name: Any, value: Any) -> list[Any]:
        setattr(Namespace(), name, value)  # raises what that would raise
        return super().words(session, key, name, value)


@method("__delattr__", "Namespace", least=1, most=1, model=Namespace)
class NamespaceDelete(DictDelItem):
    def words(self, session: Any, key: bytes, name: Any) -> list[Any]:
        delattr(Namespace(**{name: None}), name)
        return super().words(session, key, name)

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        if reply.text.startswith("KEY"):
            try:
                delattr(Namespace(), args[0])
            except AttributeError as error:
                return error.with_traceback(None)
        return super().failed(session, key, reply, *args)


@method(
    "incr",
    "Namespace",
    model=_EmptyNamespace,
    bind=lambda key=None, amount=1, default=MISSING: (key, amount, default),
)
class NamespaceIncr(DictIncr):
    def words(self, session: Any, key: bytes, name: Any, amount: Any, default: Any) -> list[Any]:
        getattr(Namespace(), name, 0)  # raises what that would raise
        return super().words(session, key, name, amount, default)


def read_namespace(session: Any, reply: Any) -> Namespace:
    made = Namespace()
    vars(made).update(read_dict(session, reply))
    return made


@method("#GETVALUE", "Namespace", model=Namespace)
class NamespaceCopy(_DictReading):
    def finish(self, session: Any, key: bytes, reply: Any) -> Namespace:
        return read_namespace(session, reply)


@method("__repr__", "Namespace", model=Namespace)
@method("__str__", "Namespace", model=Namespace)
class NamespaceRepr(_DictReading):
    def finish(self, session: Any, key: bytes, reply: Any) -> str:
        return repr(read_namespace(session, reply))
