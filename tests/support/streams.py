"""A stream and the socket at its other end, and frames of the stdlib's framing."""

from __future__ import annotations

import fcntl
import socket
import struct
import termios

from fastmgr.link.stream import Stream
from support import DEADLINE

Ends = tuple[Stream, socket.socket]


def open_ends(limit: int = 0) -> Ends:
    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE)
    return Stream(ours.detach(), limit), theirs


def short_form(body: bytes) -> bytes:
    return struct.pack("!i", len(body)) + body


def long_form(body: bytes) -> bytes:
    return struct.pack("!iQ", -1, len(body)) + body


def unread(stream: Stream) -> int:
    """How many bytes wait in the kernel."""
    (count,) = struct.unpack("i", fcntl.ioctl(stream.fileno(), termios.FIONREAD, b"\0" * 4))
    return int(count)


def read_exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"{len(data)} of {size} bytes"
        data += more
    return data
