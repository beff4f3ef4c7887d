"""Frames of the fast dialect, put together and taken apart by hand."""

from __future__ import annotations

import struct
from collections.abc import Sequence

from fastmgr.wire.codec import dumps
from support.values import LIST, TUPLE

# As in stream.pxd and codec.pyx; written out, for they are the wire's.
HEADER = struct.Struct("<QQIHBB")
PICKLED, ANONYMOUS, CARRIED, SEGMENTED, ONEWAY = 1, 2, 8, 16, 32
OP_CALL, OP_CREATE, OP_CONTROL, OP_INCREF, OP_RELEASE, OP_GOODBYE, OP_LOCATE, OP_ATTACH = range(
    1, 9
)
OP_RETURN, OP_ERROR, OP_TRACEBACK, OP_PROXY, OP_UNSERIALIZABLE, OP_FAILED = range(16, 22)
TABLE = struct.Struct("<QQ")
WRITABLE = 1 << 63
BUFFERED, SEGMENT = 20, 21
OUTSIDE = bytes([SEGMENT])  # a value that is in a segment

Buffers = Sequence[bytes | bytearray]


def table(values: bytes, segments: Buffers) -> bytes:
    sizes = [len(s) | (WRITABLE if isinstance(s, bytearray) else 0) for s in segments]
    head = TABLE.pack(len(segments), len(values))
    return head + struct.pack(f"<{len(sizes)}Q", *sizes) + values


def request(method: str, *args: bytes) -> bytes:
    """The values of a call whose arguments are encoded already."""
    return dumps(method) + bytes([TUPLE, len(args)]) + b"".join(args) + dumps(None)


def list_of(*items: bytes) -> bytes:
    return bytes([LIST, len(items)]) + b"".join(items)
