"""Messages: a header before its values, and a table before large buffers."""

from __future__ import annotations

import struct

from model.compiled import compiled
from support import TESTS

probes = compiled("probes", TESTS / "support")

HEADER = struct.Struct("<QQIHBB")
FLAG_BUFFERS = 16
WRITABLE = 1 << 63
LARGE = 1 << 16


def test_header_stands_before_the_values() -> None:
    writer = probes.WriterProbe()
    start = writer.begin()
    writer.put([1, "two"])
    writer.seal(start, op=1, handle=2**60, call=7, method=3, flags=4)
    size, *fields = HEADER.unpack_from(writer.data)
    assert (start, size, fields) == (HEADER.size, len(writer.data) - start, [2**60, 7, 3, 1, 4])
    assert probes.read(writer.data[start:]) == [1, "two"]


def test_table_says_what_comes_behind_the_values() -> None:
    writer = probes.WriterProbe(out_of_band=True)
    start = writer.begin()
    writer.put([b"x" * LARGE, bytearray(LARGE + 1)])
    values = writer.data[start:]
    writer.seal(start, op=1)
    size, *_, flags = HEADER.unpack_from(writer.data)
    assert flags == FLAG_BUFFERS
    assert size == len(writer.data) - start + 2 * LARGE + 1
    table = struct.unpack_from("<QQQQ", writer.data, start)
    assert table == (2, len(values), LARGE, LARGE + 1 | WRITABLE)
    assert writer.data[start + 32 :] == values


def test_messages_follow_each_other() -> None:
    writer = probes.WriterProbe()
    first = writer.begin()
    writer.put(1)
    writer.seal(first, op=1, call=1)
    whole = writer.data
    second = writer.begin()
    writer.put("two")
    writer.undo(second)
    assert writer.data == whole
    second = writer.begin()
    writer.put("three")
    writer.seal(second, op=2, call=2)
    assert writer.data[: len(whole)] == whole
    assert HEADER.unpack_from(writer.data, len(whole))[:3] == (len("three") + 2, 0, 2)
