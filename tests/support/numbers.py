"""Numbers, what can stand for them, and counters, values and arrays made in each way."""

from __future__ import annotations

import array
import struct
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from hypothesis import HealthCheck, settings, strategies as st

from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters
from fastmgr.kinds.values import Value
from support import ProbeManager

LOW, HIGH = -(2**63), 2**63 - 1
OBJECTS: dict[str, Any] = {one.__name__: one for one in (Array, Counter, Counters, Value)}
quickly = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


class Index:
    """What can stand for an int."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __index__(self) -> int:
        return self.number


class Whole(int):
    """An int of a user's."""


class Real(float):
    """A float of a user's."""


class Thing(NamedTuple):
    """An object of a user's."""

    name: str
    size: int


Make = Callable[..., Any]


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """What a call returns or raises, so that it can be compared."""
    try:
        result = function(*args)
    except Exception as error:
        return type(error), str(error)
    return type(result), repr(result)


def by_server(proxy: Any, name: str, *args: Any) -> Any:
    return proxy._callmethod(name, args)


def by_itself(proxy: Any, name: str, *args: Any) -> Any:
    return getattr(proxy, name)(*args)


ways = st.sampled_from([by_itself, by_server])

# Counters

near = st.integers(-3, 3)
numbers = st.one_of(
    near,
    st.sampled_from([LOW, HIGH, 2**31, 2**32, 2**47, 2**62, -(2**62)]),
    near.map(lambda n: LOW + n),
    near.map(lambda n: HIGH + n),
    st.sampled_from([2**64, 2**65 + 1, -(2**64), 10**30, -(10**30)]),
    st.integers(LOW, HIGH),
)


# Values

EDGE = 2**47
any_float = st.integers(0, 2**64 - 1).map(lambda bits: struct.unpack("<d", struct.pack("<Q", bits)))
objects = st.one_of(
    st.none() | st.booleans(),
    st.integers(-3, 3).map(lambda n: EDGE + n),
    st.integers(-3, 3).map(lambda n: -EDGE + n),
    st.integers(),
    st.integers(LOW, HIGH),
    st.floats(),
    any_float.map(lambda found: found[0]),
    # Words that as a double are NaNs, and as a word of a cell something else.
    st.tuples(st.integers(0xFFF0, 0xFFFF), st.integers(0, 3)).map(
        lambda pair: struct.unpack("<d", struct.pack("<Q", pair[0] << 48 | pair[1]))[0]
    ),
    st.text(max_size=5) | st.binary(max_size=5),
    st.integers().map(Whole),
    st.floats().map(Real),
    st.builds(Thing, st.text(max_size=3), st.integers()),
    st.dictionaries(st.text(max_size=2), st.integers(), max_size=2),
    st.tuples(st.none(), st.integers()),
)


def same(first: Any, second: Any) -> bool:
    """The same type, and the same to the last bit."""
    if type(first) is not type(second):
        return False
    if isinstance(first, float):
        return struct.pack("<d", first) == struct.pack("<d", second)
    return bool(first == second)


# Arrays

INTEGERS = "bBhHiIlLqQ"
CODES = INTEGERS + "fd"
TEXT = "w" if sys.version_info >= (3, 13) else "u"
LIMITS = {
    code: (0, 2 ** (8 * array.array(code).itemsize) - 1)
    if code.isupper()
    else (
        -(2 ** (8 * array.array(code).itemsize - 1)),
        2 ** (8 * array.array(code).itemsize - 1) - 1,
    )
    for code in INTEGERS
}


def mapped_array(make: Make, code: str, items: Any) -> Any:
    """An array whose items are in the cell, if it is a proxy that has one."""
    shared = make("Array", code, items)
    len(shared)
    return shared


def manager_make(manager: ProbeManager) -> Make:
    return lambda kind, *args: getattr(manager, kind)(*args)
