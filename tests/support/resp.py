"""RESP3 values as a server spells them, and what a parser makes of them: a plain model."""

from __future__ import annotations

from typing import Any, NamedTuple

from fastmgr.engines.valkey.errors import ReplyError


class Value(NamedTuple):
    """A value: the bytes that spell it, and what a parser returns for it."""

    spelled: bytes
    parsed: Any


def line(mark: str, text: object) -> bytes:
    return f"{mark}{text}\r\n".encode()


def number(value: int) -> Value:
    return Value(line(":", value), value)


def blob(data: bytes) -> Value:
    return Value(b"$%d\r\n%s\r\n" % (len(data), data), data)


def error(text: str) -> Value:
    return Value(line("-", text), ReplyError(text.encode()))


def aggregate(mark: str, values: list[Value]) -> Value:
    """An array, a set or a push of values; of a map the keys and values follow each other."""
    count = len(values) // 2 if mark in "%|" else len(values)
    spelled = line(mark, count) + b"".join(value.spelled for value in values)
    parsed: Any = [value.parsed for value in values]
    if mark == "%":
        pairs = list(zip(parsed[::2], parsed[1::2], strict=True))
        try:
            parsed = dict(pairs)
        except TypeError:  # a key that has no hash
            parsed = pairs
    return Value(spelled, parsed)


def with_attribute(about: list[Value], value: Value) -> Value:
    """A value after an attribute, which says something about it."""
    return Value(aggregate("|", about).spelled + value.spelled, value.parsed)


#: A value of each type.
SAMPLES = {
    "number": number(-42),
    "largest number": number(2**63 - 1),
    "smallest number": number(-(2**63)),
    "simple string": Value(b"+OK\r\n", b"OK"),
    "empty simple string": Value(b"+\r\n", b""),
    "error": error("WRONGTYPE Operation against a key"),
    "bulk error": Value(b"!8\r\nFM a\r\nbc\r\n", ReplyError(b"FM a\r\nbc")),
    "bulk string": blob(b"a\r\nb\0"),
    "empty bulk string": blob(b""),
    "null": Value(b"_\r\n", None),
    "null of RESP2": Value(b"$-1\r\n", None),
    "null array of RESP2": Value(b"*-1\r\n", None),
    "true": Value(b"#t\r\n", True),
    "false": Value(b"#f\r\n", False),
    "double": Value(b",1.5e-3\r\n", 0.0015),
    "infinity": Value(b",-inf\r\n", float("-inf")),
    "big number": Value(b"(-%d\r\n" % 10**40, -(10**40)),
    "verbatim string": Value(b"=8\r\ntxt:a\r\nb\r\n", b"a\r\nb"),
    "array": aggregate("*", [number(1), error("ERR x"), blob(b"y")]),
    "empty array": aggregate("*", []),
    "set": aggregate("~", [blob(b"a"), blob(b"b")]),
    "map": aggregate("%", [blob(b"a"), number(1), Value(b"+b\r\n", b"b"), aggregate("*", [])]),
    "map with keys without a hash": aggregate("%", [aggregate("*", [number(1)]), number(2)]),
    "empty map": aggregate("%", []),
    "attribute": with_attribute([blob(b"ttl"), number(3600)], blob(b"value")),
    "empty attribute": with_attribute([], number(3)),
    "nested": aggregate(
        "*",
        [
            aggregate("%", [number(1), aggregate("*", [aggregate("*", []), number(2)])]),
            with_attribute([blob(b"a"), aggregate("*", [number(5)])], number(3)),
            aggregate("~", [aggregate("*", [blob(b"x" * 40)])]),
        ],
    ),
}
