"""Any bytes are a value, the same one again when it is encoded anew, or a `WireError`.

Nothing else: no crash, no other exception, and no more memory than the input can account for.
"""

from __future__ import annotations

import ctypes
import struct
import tracemalloc
from collections import Counter
from collections.abc import Hashable, Iterator
from typing import Any

from common import fuzz, instrumented

with instrumented():
    from fastmgr.wire.codec import WireError, dumps, loads

# The most that two bytes can ask for is an empty set, 216 bytes; what a dict or a set holds is
# rounded up to a power of two, and copied while it grows.
MOST_PER_BYTE = 256
MOST_BESIDES = 1 << 16
PICKLE = 0  # the tag

ATOMS: list[Any] = [
    None,
    True,
    False,
    *(sign * (1 << bits) for bits in (0, 7, 31, 63, 64, 70, 2100) for sign in (1, -1)),
    *(0.0, -0.0, 1.5, float("inf"), float("nan"), 1 - 2j, complex("nan")),
    *("", "text", "é\N{SNOWMAN}\U0001f600", "\0", "x" * 254, "x" * 255, "y" * 600),
    *(b"", b"bytes", b"\xff" * 300),
]
VALUES: list[Any] = [
    *ATOMS,
    *(bytearray(), bytearray(b"a"), (), [], {}, set(), frozenset()),
    tuple(ATOMS),
    list(range(300)),
    dict(zip("abcdef", ATOMS, strict=False)),
    {1: {2: {3: [4, (5, {6})]}}, (7, frozenset({8})): slice(1, None, "x")},
    set(range(40)),
    frozenset({frozenset({frozenset()}), "a", 1.0}),
    [KeyError("k"), IndexError(), ValueError(1, [2]), StopIteration({}), EOFError()],
    slice(slice(1, 2, 3), [], ()),
    {float("nan"): [float("nan")]},
]


def seeds() -> Iterator[bytes]:
    for value in VALUES:
        assert shape(loads(dumps(value), allow_pickle=False)) == shape(value)
        yield dumps(value)
    deep: Any = 1
    for depth in range(32):
        deep = [[deep], (deep,), {1: deep}, {"k": (deep,)}][depth % 4]
        yield dumps(deep)
    yield dumps(object)
    huge = b"\xff" + struct.pack("<Q", 1 << 40)
    claim = b"\xff" + struct.pack("<Q", 3000)
    for value in ((), [], {}, set(), "", b"", bytearray(), 1 << 100):
        yield (dumps(value)[:1] + claim) * 64 + dumps(None) * 3000
        yield dumps(value)[:1] + huge
        yield dumps(value)[:1] * 100


def words() -> Iterator[bytes]:
    for value in ATOMS:
        yield dumps(value)[:16]
    yield b"\xff" + struct.pack("<Q", 255)
    yield b"\xff" + struct.pack("<Q", 1 << 63)


def shape(value: Any) -> Hashable:
    """What is equal only for equal values of equal types, with floats by their bits."""
    kind = type(value)
    if isinstance(value, float):
        return kind, struct.pack("<d", value)
    if isinstance(value, complex):
        return kind, struct.pack("<dd", value.real, value.imag)
    if isinstance(value, (list, tuple)):
        return kind, tuple(map(shape, value))
    if isinstance(value, dict):
        return kind, tuple((shape(key), shape(item)) for key, item in value.items())
    if isinstance(value, (set, frozenset)):
        return kind, frozenset(Counter(map(shape, value)).items())
    if isinstance(value, slice):
        return kind, shape((value.start, value.stop, value.step))
    if isinstance(value, BaseException):
        return kind, shape(value.args), shape(value.__dict__)
    return kind, bytes(value) if isinstance(value, bytearray) else value


def one_input(data: bytes) -> None:
    # Not the bytes object, which ends in a zero more than its length says: reading one byte too
    # many has to be noticed.
    exact = (ctypes.c_char * len(data)).from_buffer_copy(data)
    tracemalloc.reset_peak()
    before, _ = tracemalloc.get_traced_memory()
    try:
        value = loads(exact, allow_pickle=False)
    except WireError:
        value = None
    _, peak = tracemalloc.get_traced_memory()
    assert peak - before <= MOST_PER_BYTE * len(data) + MOST_BESIDES, f"{peak - before} bytes"
    encoded = dumps(value)
    if encoded[0] != PICKLE:
        assert shape(loads(encoded, allow_pickle=False)) == shape(value)


if __name__ == "__main__":
    tracemalloc.start(1)
    fuzz(one_input, seeds(), words())
