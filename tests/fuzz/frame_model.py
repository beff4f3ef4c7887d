"""Both framings, spelled out in plain Python."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import NamedTuple

HEADER = struct.Struct("<QQIHBB")
TABLE = struct.Struct("<QQ")
SEGMENTS = 16  # the header's flag for buffers behind the values
WRITABLE = 1 << 63
ADDRESSES = 1 << 64


class Status(IntEnum):
    """The stream's."""

    READY = 1
    PARTIAL = 0
    TOO_LARGE = -3


class Taken(NamedTuple):
    """What taking a frame gives; without one, the size of the largest part that is announced."""

    status: Status
    header: bytes = b""
    body: bytes = b""
    segments: tuple[bytes | bytearray, ...] = ()
    end: int = 0
    largest: int = 0


class Model:
    """The frames of a wire of which the first `sent` bytes have arrived."""

    def __init__(self, wire: bytes, fast: bool, limit: int) -> None:
        self.wire, self.fast, self.limit = wire, fast, limit
        self.sent = self.at = 0

    def refuses(self, size: int) -> bool:
        return size < 0 or 0 < self.limit < size or size >= ADDRESSES - HEADER.size

    def take(self) -> Taken:
        """What taking the frame at hand gives."""
        return self.take_fast() if self.fast else self.take_stock()

    def take_stock(self) -> Taken:
        have, prefix = self.sent - self.at, 4
        if have < prefix:
            return Taken(Status.PARTIAL)
        (size,) = struct.unpack_from("!i", self.wire, self.at)
        if size == -1:
            prefix = 12
            if have < prefix:
                return Taken(Status.PARTIAL)
            (size,) = struct.unpack_from("!q", self.wire, self.at + 4)
        if self.refuses(size):
            return Taken(Status.TOO_LARGE)
        body, end = self.at + prefix, self.at + prefix + size
        if end > self.sent:
            return Taken(Status.PARTIAL, largest=size)
        return Taken(Status.READY, b"", self.wire[body:end], end=end)

    def take_fast(self) -> Taken:
        have, at = self.sent - self.at, self.at + HEADER.size
        if have < HEADER.size:
            return Taken(Status.PARTIAL)
        size, *_, flags = HEADER.unpack_from(self.wire, self.at)
        if self.refuses(size):
            return Taken(Status.TOO_LARGE)
        header, end = self.wire[self.at : at], at + size
        if not flags & SEGMENTS:
            if end > self.sent:
                return Taken(Status.PARTIAL, largest=size)
            return Taken(Status.READY, header, self.wire[at:end], end=end)
        if size < TABLE.size:
            return Taken(Status.TOO_LARGE)
        if have < HEADER.size + TABLE.size:
            return Taken(Status.PARTIAL)
        count, values = TABLE.unpack_from(self.wire, at)
        at += TABLE.size
        body = at + 8 * count
        if count == 0 or body + values > end or count > 16 + (size - TABLE.size) // 65_536:
            return Taken(Status.TOO_LARGE)
        if body + values > self.sent:
            return Taken(Status.PARTIAL, largest=8 * count + values)
        marks = struct.unpack_from(f"<{count}Q", self.wire, at)
        sizes = [mark % WRITABLE for mark in marks]
        if body + values + sum(sizes) != end:
            return Taken(Status.TOO_LARGE)
        if end > self.sent:
            return Taken(Status.PARTIAL, largest=max(sizes))
        segments, at = [], body + values
        for mark, size in zip(marks, sizes, strict=True):
            kind = bytearray if mark >= WRITABLE else bytes
            segments.append(kind(self.wire[at : at + size]))
            at += size
        return Taken(Status.READY, header, self.wire[body : body + values], tuple(segments), end)


def frames(sizes: list[int], fast: bool) -> bytes:
    """A wire of bodies of these sizes; in the stock framing some have the longer prefix."""
    wire = b""
    for i, size in enumerate(sizes):
        if fast:
            wire += HEADER.pack(size, i, i, 0, 1, 0)
        elif i % 3 == 2:
            wire += struct.pack("!iQ", -1, size)
        else:
            wire += struct.pack("!i", size)
        wire += bytes([65 + i % 26]) * size
    return wire


def segmented(values: int, marks: list[int], op: int = 1) -> bytes:
    """A frame of the fast framing with so many bytes of values, and segments."""
    sizes = [mark % WRITABLE for mark in marks]
    table = TABLE.pack(len(marks), values) + struct.pack(f"<{len(marks)}Q", *marks)
    beside = b"".join(bytes([97 + i % 26]) * size for i, size in enumerate(sizes))
    body = table + b"v" * values + beside
    return HEADER.pack(len(body), 1, 2, 0, op, SEGMENTS) + body
