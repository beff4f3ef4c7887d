"""Counters in a row on a Valkey server, by name or by index.

The ident of a row ends with ``.n`` where its counters have names, and else with ``.i``.  Those with
names are a dict of ints in the server, the others an array.
"""

from __future__ import annotations

import array
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from fastmgr.engines.valkey.containers import read_keys
from fastmgr.engines.valkey.errors import ReplyError
from fastmgr.engines.valkey.keys import encode_both, encode_key
from fastmgr.engines.valkey.methods import Method, function, method, near
from fastmgr.engines.valkey.numbers import (
    KEPT,
    fits,
    fitting,
    item_words,
    make_number,
    make_or_find,
    split_name,
    too_much,
)
from fastmgr.engines.valkey.references import Maker, make_ident, require
from fastmgr.engines.valkey.values import encode
from fastmgr.kinds import counters, makers

__all__: list[str] = []

SIZE = 8


def of_word(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def has_names(key: bytes) -> bool:
    return key.endswith(b".n}")


def named_words(session: Any, row: counters.Counters) -> list[bytes]:
    """Return counters that have names as the library's functions take them."""
    words: list[bytes] = []
    for name, value in row.as_dict().items():
        field, original = encode_both(name, session.address)
        words += (field, encode(value), original)
    return words


@method("#create", "Counters")
class MakeCounters(Maker):
    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        name, others = split_name(kwds)
        wanted = makers.Counters(*args, **others)

        def make() -> str:
            if wanted.names is None:
                data = array.array("q", wanted.snapshot()).tobytes()
                return make_number(session, typeid, ".i", data)
            ident = make_ident(typeid) + ".n"
            words = named_words(session, wanted)
            session.function(b"dict_make", session.key_of(ident), typeid, session.id, *words)
            return ident

        def add(ident: str, part: counters.Counters) -> None:
            key = session.key_of(ident)
            if part.names is None:
                session.function(b"array_grow", key, length_of(session, key) + len(part), SIZE)
            else:
                session.function(b"counters_add", key, *named_words(session, part))

        return make_or_find(session, name, wanted, make, typeid, add)


def length_of(session: Any, key: bytes) -> int:
    return session.run([b"STRLEN", key], True) // SIZE


def _kept(session: Any, key: bytes) -> counters.Counters:
    if has_names(key):
        return counters.Counters(read_keys(session, *session.function(b"dict_keys", key)))
    return counters.Counters(length_of(session, key))


KEPT["Counters"] = _kept


def _empty() -> counters.Counters:
    return counters.Counters(0)


class _OfOne(Method):
    """A method of one of the counters."""

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        code, _, text = reply.text.partition(" ")
        if code == "INDEX":
            at = operator.index(args[0])
            return IndexError(f"there is no counter {at}: there are {text}")
        return super().failed(session, key, reply, *args)


@method("__getitem__", "Counters", least=1, most=1, model=_empty, reads=True)
class RowGet(_OfOne):
    def words(self, session: Any, key: bytes, name: Any) -> list[Any]:
        if has_names(key):
            return [b"HGET", key, encode_key(name)]
        return function("array_get", key, near(operator.index(name)), SIZE)

    def finish(self, session: Any, key: bytes, reply: Any, name: Any) -> int:
        if reply is None:
            require(session, key)
            raise KeyError(name)
        if has_names(key):
            return int(reply)
        return of_word(reply)


@method("incr", "Counters", model=_empty, bind=lambda key, amount=1: (key, amount))
class RowIncr(_OfOne):
    sign = "+"

    def words(self, session: Any, key: bytes, name: Any, amount: Any) -> list[Any]:
        step = operator.index(amount)
        step = step if self.sign == "+" else -step
        if has_names(key):
            # Two steps in one where the amount has more than 64 bits, of which the sum has less.
            return function("counters_incr", key, encode_key(name), *pieces(step))
        if step.bit_length() > 64:
            step = 2**64 if step > 0 else -(2**64)  # which fits no sum either
        return item_words("array_incr", key, near(operator.index(name)), "q", step)

    def finish(self, session: Any, key: bytes, reply: Any, name: Any, amount: Any) -> int:
        if has_names(key):
            return int(reply)
        return of_word(reply)

    def failed(self, session: Any, key: bytes, reply: ReplyError, *args: Any) -> Any:
        code, _, text = reply.text.partition(" ")
        if code == "OVERFLOW":
            there = int(text) if has_names(key) else of_word(bytes.fromhex(text))
            return too_much(there, self.sign, operator.index(args[1]))
        return super().failed(session, key, reply, *args)


@method("decr", "Counters", model=_empty, bind=lambda key, amount=1: (key, amount))
class RowDecr(RowIncr):
    sign = "-"


def pieces(step: int) -> list[int]:
    """Return numbers of 64 bits that add up to a step; of a step that fits no sum, as many."""
    if fits(step):
        return [step]
    step = max(-(2**64), min(step, 2**64))
    half = max(-(2**63), min(step, 2**63 - 1))
    rest = step - half
    if fits(rest):
        return [half, rest]
    return [half, half, rest - half]


@method("exchange", "Counters", least=2, most=2, model=_empty)
class RowExchange(_OfOne):
    def words(self, session: Any, key: bytes, name: Any, value: Any) -> list[Any]:
        value = fitting(value)
        if has_names(key):
            return function("dict_exchange", key, encode_key(name), value)
        data = value.to_bytes(SIZE, "little", signed=True)
        return function("array_set", key, near(operator.index(name)), SIZE, data)

    def finish(self, session: Any, key: bytes, reply: Any, name: Any, value: Any) -> Any:
        if has_names(key):
            return int(reply)
        return of_word(reply)


@method("__setitem__", "Counters", least=2, most=2, model=_empty)
class RowSet(RowExchange):
    def finish(self, session: Any, key: bytes, reply: Any, name: Any, value: Any) -> None:
        return None


@method("compare_exchange", "Counters", least=3, most=3, model=_empty)
class RowCompareExchange(_OfOne):
    def words(self, session: Any, key: bytes, name: Any, expected: Any, desired: Any) -> list[Any]:
        expected, desired = operator.index(expected), fitting(desired)
        if has_names(key):
            return function("dict_replace", key, encode_key(name), expected, desired)
        # No counter has a number of more bits; its bytes are more than none.
        old = expected.to_bytes(SIZE, "little", signed=True) if fits(expected) else b""
        new = desired.to_bytes(SIZE, "little", signed=True)
        return function("array_replace", key, near(operator.index(name)), SIZE, old, new)

    def finish(
        self, session: Any, key: bytes, reply: Any, name: Any, expected: Any, desired: Any
    ) -> bool:
        if reply is None:
            raise KeyError(name)
        return bool(reply == 1)


class _OfAll(Method):
    """A method of all counters: the result is computed here, of a copy."""

    reads = True

    def words(self, session: Any, key: bytes, *args: Any) -> list[Any]:
        return function("dict_items" if has_names(key) else "array_items", key)

    def finish(self, session: Any, key: bytes, reply: Any, *args: Any) -> Any:
        if has_names(key):
            fields, values, originals = reply
            names = read_keys(session, fields, originals)
            row = counters.Counters(names, list(map(int, values)))
        else:
            items = array.array("q")
            items.frombytes(reply)
            row = counters.Counters(len(items), items)
        return self.compute(row, *args)

    def compute(self, row: counters.Counters, *args: Any) -> Any:
        return getattr(row, self.name)(*args)


for _name in ["keys", "snapshot", "as_dict", "__len__", "__repr__", "__str__"]:
    method(_name, "Counters", model=_empty)(_OfAll)


@method("__contains__", "Counters", least=1, most=1, model=_empty)
class RowContains(_OfAll):
    def compute(self, row: counters.Counters, *args: Any) -> bool:
        return args[0] in row


@method("#GETVALUE", "Counters", model=_empty)
class RowCopy(_OfAll):
    def compute(self, row: counters.Counters, *args: Any) -> Any:
        return row.snapshot() if row.names is None else row.as_dict()
