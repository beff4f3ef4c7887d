"""Counters, values and arrays on a Valkey server; each may have a name."""

from __future__ import annotations

import array
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.methods import (
    JOINED,
    TRIES,
    Length,
    Method,
    function,
    item_at,
    method,
    near,
    too_contended,
)
from fastmgr.engines.valkey.references import (
    Maker,
    fetch,
    find_or_make,
    gone,
    hold_all,
    make_ident,
    operand,
    release,
    require,
    store,
    take_out,
)
from fastmgr.engines.valkey.values import encode
from fastmgr.kinds import arrays, counters, makers, values
from fastmgr.kinds.rows import Codec

__all__: list[str] = []

#: Typecodes of arrays to which one can add.
INTEGERS = "bBhHiIlLqQ"


def spelled(number: int) -> str:
    """Return a number as a message shows it: `str` may refuse a very long one."""
    bits = number.bit_length()
    return f"{number}" if bits <= 256 else f"an int of {bits} bits"


def fits(number: int) -> bool:
    return -(2**63) <= number < 2**63


def fitting(number: Any) -> int:
    whole = operator.index(number)
    if not fits(whole):
        raise OverflowError(f"{spelled(whole)} does not fit the 64 bits of a counter")
    return whole


def too_much(there: int, sign: str, amount: int) -> OverflowError:
    return OverflowError(
        f"{there} {sign} {spelled(amount)} does not fit the 64 bits of a counter; it is left as "
        "it was"
    )


# -- making -------------------------------------------------------------------------


def make_number(session: Any, typeid: str, suffix: str, state: bytes, *about: Any) -> str:
    """Make an object; `about` are fields and values that say more of it."""
    ident = make_ident(typeid) + suffix
    key = session.key_of(ident)
    hold_all(session, key, (state,), typeid)
    session.function(b"number_make", key, typeid, session.id, state, *about)
    return ident


def make_or_find(
    session: Any,
    name: Any,
    wanted: Any,
    make: Callable[[], str],
    typeid: str,
    add: Callable[[str, Any], None] | None = None,
) -> str:
    """Make an object, or find the one of a name; `wanted` is what a fastmgr server would make.

    `add` adds to what is kept what else is wanted.
    """
    if name is None:
        return make()

    def join(ident: str, kind: str) -> None:
        codec, kept = _CODECS[type(wanted)], None
        try:
            kept = KEPT[kind](session, session.key_of(ident)) if kind in KEPT else None
            if kind != typeid:
                raise TypeError
            part = codec.join(kept, wanted)
        except (TypeError, ValueError) as error:
            here = f"a {kind}" if kept is None else _CODECS[type(kept)].described(kept)
            raise type(error)(
                f"the name {name!r} is in use: {here} is kept there, and "
                f"{codec.described(wanted)} was asked for; manager.forget({name!r}) would drop "
                "what is kept"
            ) from None
        if part is not None and add is not None:
            add(ident, part)

    return find_or_make(session, name, make, join)


def split_name(kwds: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    others = dict(kwds)
    return others.pop("name", None), others


#: How objects are described, and compared with what is asked for.
_CODECS: dict[type, Codec] = {
    kind: row.codec
    for kind, row in (
        (counters.Counter, makers.COUNTER),
        (counters.Counters, makers.COUNTERS),
        (values.Value, makers.VALUE),
        (arrays.Array, makers.ARRAY),
    )
    if row.codec is not None
}

#: By a type's id: what makes of an object in the server the one of a fastmgr server, which says how
#: it is described and what it may be joined with; its values are left out.
KEPT: dict[str, Callable[[Any, bytes], Any]] = {}


# -- counters -----------------------------------------------------------------------


@method("#create", "Counter")
class MakeCounter(Maker):
    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        name, others = split_name(kwds)
        wanted = makers.Counter(*args, **others)
        return make_or_find(
            session, name, wanted,
            lambda: make_number(session, typeid, "", encode(wanted.get())),
            typeid,
        )  # fmt: skip


KEPT["Counter"] = lambda session, key: counters.Counter()


@method("get", "Counter", model=counters.Counter, reads=True)
@method("#GETVALUE", "Counter", model=counters.Counter, reads=True)
class CounterGet(Method):
    def words(self, session: Any, key: bytes) -> list[Any]:
        return [b"GET", key]

    def finish(self, session: Any, key: bytes, reply: Any) -> Any:
        if reply is None:
            raise gone(key)
        return fetch(session, reply)


@method("__str__", "Counter", model=counters.Counter, reads=True)
class CounterStr(CounterGet):
    def finish(self, session: Any, key: bytes, reply: Any) -> str:
        return str(super().finish(session, key, reply))


@method("__repr__", "Counter", model=counters.Counter, reads=True)
class CounterRepr(CounterGet):
    def finish(self, session: Any, key: bytes, reply: Any) -> str:
        return f"Counter({super().finish(session, key, reply)})"


@method("incr", "Counter", model=counters.Counter, bind=lambda amount=1: (amount,))
class CounterIncr(Method):
    sign, joins = "+", JOINED

    def words(self, session: Any, key: bytes, amount: Any) -> list[Any]:
        step = self.step(amount)
        return function("counter_incr", key, step) if fits(step) else [b"GET", key]

    def step(self, amount: Any) -> int:
        return operator.index(amount) if self.sign == "+" else -operator.index(amount)

    def finish(self, session: Any, key: bytes, reply: Any, amount: Any) -> Any:
        if type(reply) is list:
            there = reply[0]
            if type(there) is list:
                raise too_much(int(there[0]), self.sign, operator.index(amount))
            return there if type(there) is int else int(there)
        # An amount of more than 64 bits; the sum may have less.
        for _ in range(TRIES):
            if reply is None:
                raise gone(key)
            total = int(reply) + self.step(amount)
            if not fits(total):
                raise too_much(int(reply), self.sign, operator.index(amount))
            found = session.function(b"value_replace", key, reply, total)
            if found == 1:
                return total
            reply = found
        raise too_contended(self.name)


@method("decr", "Counter", model=counters.Counter, bind=lambda amount=1: (amount,))
class CounterDecr(CounterIncr):
    sign = "-"


@method("set", "Counter", least=1, most=1, model=counters.Counter)
class CounterSet(Method):
    def words(self, session: Any, key: bytes, value: Any) -> list[Any]:
        return function("value_set", key, fitting(value))

    def finish(self, session: Any, key: bytes, reply: Any, value: Any) -> None:
        return None


@method("exchange", "Counter", least=1, most=1, model=counters.Counter)
class CounterExchange(Method):
    def words(self, session: Any, key: bytes, value: Any) -> list[Any]:
        return function("value_exchange", key, fitting(value))

    def finish(self, session: Any, key: bytes, reply: Any, value: Any) -> int:
        return int(reply)


@method("compare_exchange", "Counter", least=2, most=2, model=counters.Counter)
class CounterCompareExchange(Method):
    def words(self, session: Any, key: bytes, expected: Any, desired: Any) -> list[Any]:
        return function("value_replace", key, operator.index(expected), fitting(desired))

    def finish(self, session: Any, key: bytes, reply: Any, expected: Any, desired: Any) -> bool:
        return bool(reply == 1)


# -- values -------------------------------------------------------------------------


@method("#create", "Value")
class MakeValue(Maker):
    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        name, others = split_name(kwds)
        wanted = makers.Value(*args, **others)
        about = b"a", encode(wanted._typecode, session.address)
        return make_or_find(
            session, name, wanted,
            lambda: make_number(
                session, typeid, "", encode(wanted.get(), session.address), *about
            ),
            typeid,
        )  # fmt: skip


def typecode_of(session: Any, key: bytes) -> Any:
    code = session.run([b"HGET", key + b":m", b"a"], True)
    if code is None:
        raise gone(key)
    return fetch(session, code)


KEPT["Value"] = lambda session, key: values.Value(typecode_of(session, key), None)


def _empty_value() -> values.Value:
    return values.Value("i", 0)


@method("get", "Value", model=_empty_value, reads=True)
class ValueGet(CounterGet):
    pass


@method("#GETVALUE", "Value", model=_empty_value, reads=True)
class ValueCopy(CounterGet):
    def finish(self, session: Any, key: bytes, reply: Any) -> Any:
        return values.Value(typecode_of(session, key), super().finish(session, key, reply))


@method("__repr__", "Value", model=_empty_value, reads=True)
@method("__str__", "Value", model=_empty_value, reads=True)
class ValueRepr(ValueCopy):
    def finish(self, session: Any, key: bytes, reply: Any) -> str:
        return repr(super().finish(session, key, reply))


@method("set", "Value", least=1, most=1, model=_empty_value)
class ValueSet(Method):
    def words(self, session: Any, key: bytes, value: Any) -> list[Any]:
        return function("value_set", key, store(session, key, value))

    def finish(self, session: Any, key: bytes, reply: Any, value: Any) -> None:
        release(session, key, (reply,))


@method("exchange", "Value", least=1, most=1, model=_empty_value)
class ValueExchange(Method):
    def words(self, session: Any, key: bytes, value: Any) -> list[Any]:
        return function("value_exchange", key, store(session, key, value))

    def finish(self, session: Any, key: bytes, reply: Any, value: Any) -> Any:
        return take_out(session, key, reply)


def swap_value(session: Any, key: bytes, old: bytes, new: bytes) -> bytes | None:
    """Replace a value that has these very bytes; return None, or what is there instead."""
    found = session.function(b"value_replace", key, old, new)
    if found == 1:
        release(session, key, (old,))
        return None
    return found


@method("compare_exchange", "Value", least=2, most=2, model=_empty_value)
class ValueCompareExchange(Method):
    def words(self, session: Any, key: bytes, expected: Any, desired: Any) -> list[Any]:
        old = encode(expected, session.address) if expected == expected else b"-"
        return function("value_replace", key, old, store(session, key, desired))

    def finish(self, session: Any, key: bytes, reply: Any, expected: Any, desired: Any) -> bool:
        if reply == 1:
            release(session, key, (encode(expected, session.address),))
            return True
        new = encode(desired, session.address)
        try:
            for _ in range(TRIES):
                if fetch(session, reply) != expected:
                    release(session, key, (new,))
                    return False
                reply = swap_value(session, key, reply, new)
                if reply is None:
                    return True
            raise too_contended(self.name)
        except OSError:
            raise  # it may have been stored
        except Exception:
            release(session, key, (new,))
            raise


@method("incr", "Value", model=_empty_value, bind=lambda amount=1: (amount,))
class ValueIncr(Method):
    def words(self, session: Any, key: bytes, amount: Any) -> list[Any]:
        if (type(amount) is int and fits(amount)) or type(amount) is float:
            return function("value_incr", key, encode(amount))
        return [b"GET", key]

    def finish(self, session: Any, key: bytes, reply: Any, amount: Any) -> Any:
        if type(reply) is int:
            return reply
        if type(reply) is list:
            reply = reply[0]
        elif type(amount) in (int, float):
            return fetch(session, reply)
        for _ in range(TRIES):
            if reply is None:
                raise gone(key)
            total = fetch(session, reply) + amount
            new = store(session, key, total)
            reply = swap_value(session, key, reply, new)
            if reply is None:
                return total
            release(session, key, (new,))
        raise too_contended("incr")


# -- arrays -------------------------------------------------------------------------
# The ident of an array ends with a dot and the typecode.


@method("#create", "Array")
class MakeArray(Maker):
    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        name, others = split_name(kwds)
        if len(args) > 1:
            args = args[0], operand(args[1]), *args[2:]
        wanted = makers.Array(*args, **others)
        items = wanted[:]
        return make_or_find(
            session, name, wanted,
            lambda: make_number(session, typeid, f".{items.typecode}", items.tobytes()),
            typeid,
        )  # fmt: skip


def empty_array(key: bytes) -> array.array[Any]:
    """Return an array of the typecode that the key of an array tells."""
    return array.array(chr(key[-2]))


def read_array(key: bytes, data: bytes) -> array.array[Any]:
    items = empty_array(key)
    items.frombytes(data)
    return items


def _kept_array(session: Any, key: bytes) -> arrays.Array:
    size = session.run([b"STRLEN", key], True)
    return arrays.Array(chr(key[-2]), read_array(key, bytes(size)))


KEPT["Array"] = _kept_array


def _empty_array() -> Any:
    return array.array("b")


class _ArrayMethod(Method):
    """A method of an array: an index that is out of range has the text `outside`."""

    outside = "array index out of range"

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        if reply.text.startswith("INDEX"):
            return IndexError(self.outside)
        return super().failed(session, key, reply, *args)


@method("__len__", "Array", model=_empty_array, reads=True)
class ArrayLen(Length):
    command = b"STRLEN"

    def finish(self, session: Any, key: bytes, reply: Any) -> int:
        return super().finish(session, key, reply) // empty_array(key).itemsize


@method("__getitem__", "Array", least=1, most=1, model=_empty_array, reads=True)
class ArrayGetItem(_ArrayMethod):
    def words(self, session: Any, key: bytes, index: Any) -> list[Any]:
        if isinstance(index, slice):
            return function("array_items", key)
        at = item_at(index, empty_array(key).__getitem__)
        size = empty_array(key).itemsize
        if at < 0:
            return function("array_get", key, at, size)
        return [b"GETRANGE", key, near(at * size), near(at * size + size - 1)]

    def finish(self, session: Any, key: bytes, reply: Any, index: Any) -> Any:
        items = read_array(key, reply)
        if isinstance(index, slice):
            return items[index]
        if not items:
            require(session, key)
            raise IndexError(self.outside)
        return items[0]


@method("__setitem__", "Array", least=2, most=2, model=_empty_array)
class ArraySetItem(_ArrayMethod):
    outside = "array assignment index out of range"

    def words(self, session: Any, key: bytes, index: Any, value: Any) -> list[Any]:
        if isinstance(index, slice):
            return function("array_items", key)
        one = read_array(key, bytes(empty_array(key).itemsize))
        at = item_at(index, one.__setitem__, value)
        try:
            one[0] = value
        except Exception:
            # That there is no such item comes first, as with an array.
            reply = session.ask(function("array_get", key, at, one.itemsize), True)
            if isinstance(reply, ReplyError):
                raise self.failed(session, key, reply, index, value) from None
            raise
        return function("array_set", key, at, one.itemsize, one.tobytes())

    def finish(self, session: Any, key: bytes, reply: Any, index: Any, value: Any) -> None:
        if not isinstance(index, slice):
            return
        value = operand(value)
        for _ in range(TRIES):
            items = read_array(key, reply)
            items[index] = value
            if session.function(b"array_assign", key, reply, items.tobytes()):
                return
            reply = session.function(b"array_items", key, reads=True)
        raise too_contended(self.name)


def item_words(name: str, key: bytes, at: int, code: str, amount: int) -> list[Any]:
    """Return the request that adds to an item."""
    size = array.array(code).itemsize
    data = amount.to_bytes(size + 1, "little", signed=True)
    return function(name, key, at, size, int(code.islower()), data)


@method("incr", "Array", model=arrays.Array, bind=lambda key, amount=1: (key, amount))
class ArrayIncr(_ArrayMethod):
    def words(self, session: Any, key: bytes, index: Any, amount: Any) -> list[Any]:
        code = chr(key[-2])
        if code not in INTEGERS:
            raise TypeError(f"incr needs an array of integers; this one has the type {code!r}")
        at = item_at(index, empty_array(key).__getitem__)
        amount = operator.index(amount)
        if amount.bit_length() > 8 * empty_array(key).itemsize:
            raise self.overflow(key, amount)
        return item_words("array_incr", key, at, code, amount)

    def overflow(self, key: bytes, amount: Any) -> OverflowError:
        return OverflowError(
            f"the sum with {spelled(operator.index(amount))} does not fit an item of type "
            f"{chr(key[-2])!r}; it is left as it was"
        )

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        if reply.text.startswith("OVERFLOW"):
            return self.overflow(key, args[1])
        return super().failed(session, key, reply, *args)

    def finish(self, session: Any, key: bytes, reply: Any, index: Any, amount: Any) -> int:
        return int(read_array(key, reply)[0])


class _ArrayReading(Method):
    reads = True

    def words(self, session: Any, key: bytes) -> list[Any]:
        return function("array_items", key)


@method("#GETVALUE", "Array", model=_empty_array)
class ArrayCopy(_ArrayReading):
    def finish(self, session: Any, key: bytes, reply: Any) -> array.array[Any]:
        return read_array(key, reply)


@method("__repr__", "Array", model=_empty_array)
@method("__str__", "Array", model=_empty_array)
class ArrayRepr(_ArrayReading):
    def finish(self, session: Any, key: bytes, reply: Any) -> str:
        return repr(read_array(key, reply))
