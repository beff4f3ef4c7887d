"""The format of a file of named objects (2, little-endian).

The file is a header of one line of 64 bytes, ``magic`` and ``end``, and records up to ``end``.  A
record is a line that says what the record is and how long its three parts are, then the name, what
else has to be known (JSON), and the data, each filled up to a line.  A record is written whole
before ``end`` is moved behind it, so a server that is killed leaves a whole record or none.
Records stay where they are for good, for clients have mapped them.  A record that is forgotten
becomes filling.

Format 1 had no rows of counters that grow, and is read as well.

Clients can write anywhere in the file, so every length is checked.  Nothing here knows a file, a
segment or an object: it is all done on bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, NamedTuple

__all__ = [
    "CUT", "FAMILY", "FILLING", "HEADER", "LINE", "MAGIC", "NONSENSE", "PREDECESSOR", "RECORD",
    "Draft", "Record", "lines", "nonsense", "read", "write_filling",
]  # fmt: skip

FAMILY = b"fmarena"
MAGIC = FAMILY + b"2"
PREDECESSOR = FAMILY + b"1"
#: Of a file that was cut while a server used it.
CUT = b"fmcutoff"
LINE = 64
HEADER = struct.Struct("<8sQ")
#: Its kind (`rows.Codec` has the numbers), and the lengths of name, what else is known, and data.
RECORD = struct.Struct("<QQQQ")
#: The number of a record that says nothing.
FILLING = 0

#: What reading what somebody scribbled may raise.
NONSENSE = (ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError)


class Record(NamedTuple):
    """One record that is not filling."""

    at: int
    number: int
    name: str
    about: Any
    #: Where the data begins, and how many bytes it has.
    data_at: int
    size: int


def lines(size: int) -> int:
    """Return the bytes of as many lines as so many bytes take."""
    return (size + LINE - 1) // LINE * LINE


def nonsense(at: int, error: BaseException) -> ValueError:
    """Return what is raised for a record that cannot be understood."""
    return ValueError(f"the record at {at} says nonsense ({error})")


def read(data: memoryview, end: int) -> Iterator[Record]:
    """Read the records behind the header, up to `end` in `data`; ValueError if they are none."""
    at = LINE
    while at < end:
        number, *sizes = RECORD.unpack_from(data, at)
        parts = [at + LINE]
        for size in sizes:
            parts.append(parts[-1] + lines(size))
        if parts[-1] > end:
            raise ValueError(f"the record at {at} does not end in it")
        if number != FILLING:
            name_at, about_at, data_at, _next = parts
            try:
                name = str(data[name_at : name_at + sizes[0]], "utf-8")
                about = json.loads(bytes(data[about_at : about_at + sizes[1]]))
            except NONSENSE as error:
                raise nonsense(at, error) from error
            yield Record(at, number, name, about, data_at, sizes[2])
        at = parts[-1]


class Draft:
    """A record that is to be written, with data that is written by others."""

    def __init__(self, number: int, name: str, about: Any, size: int) -> None:
        self._parts = name.encode(), json.dumps(about).encode()
        self._head = RECORD.pack(number, *map(len, self._parts), size)
        #: Where its data begins, from where it begins itself; and where the next record does.
        self.data_at = LINE + sum(lines(len(part)) for part in self._parts)
        self.end = self.data_at + lines(size)

    def write(self, data: memoryview, at: int) -> None:
        """Write all but the record's data."""
        for part in (self._head, *self._parts):
            data[at : at + len(part)] = part
            at += lines(len(part))


def write_filling(data: memoryview, at: int, size: int) -> None:
    """Fill what no record has room in, of at least a line."""
    RECORD.pack_into(data, at, FILLING, 0, 0, size - LINE)
