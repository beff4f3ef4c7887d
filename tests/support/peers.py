"""Peers that speak the wire by hand, frame by frame, and so can misspeak it."""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle
import socket
import struct
from typing import Any, NamedTuple

from fastmgr.link.handshake import prove
from fastmgr.link.introduction import SESSION_ID_SIZE, Introducer
from fastmgr.memory.segments import map_segment
from fastmgr.wire import codec
from support.frames import (
    HEADER,
    OP_ATTACH,
    OP_CALL,
    OP_CONTROL,
    OP_CREATE,
    OP_FAILED,
    OP_LOCATE,
    OP_RELEASE,
    OP_RETURN,
    PICKLED,
    SEGMENTED,
    TABLE,
    WRITABLE,
    Buffers,
    table,
)
from support.managers import KEY
from support.sockets import Address
from support.waiting import DEADLINE


class RawPeer:
    """A peer that speaks the stdlib's wire frame by frame, and so can misspeak it."""

    def __init__(self, address: Address, patience: float = DEADLINE):
        family = socket.AF_UNIX if isinstance(address, str) else socket.AF_INET
        self.sock = socket.socket(family)
        self.sock.settimeout(patience)
        self.sock.connect(address if isinstance(address, str) else tuple(address))

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()

    def send_frame(self, payload: bytes) -> None:
        self.sock.sendall(struct.pack("!i", len(payload)) + payload)

    def _read(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            try:
                more = self.sock.recv(size - len(data))
            except ConnectionResetError:  # closed while something was unread: the end as well
                more = b""
            if not more:
                raise EOFError(f"{len(data)} of {size} bytes")
            data += more
        return data

    def recv_frame(self) -> bytes:
        (size,) = struct.unpack("!i", self._read(4))
        return self._read(size)

    def frames_until_eof(self) -> list[bytes]:
        """All that the server says until it hangs up."""
        said = []
        while True:
            try:
                said.append(self.recv_frame())
            except EOFError:
                return said

    def answer(self, key: bytes = KEY) -> bytes:
        """Answer the server's challenge; its verdict."""
        challenge = self.recv_frame()
        assert challenge.startswith(b"#CHALLENGE#")
        self.asked = challenge[len(b"#CHALLENGE#") :]
        self.send_frame(mac(key, self.asked))
        return self.recv_frame()

    def challenge(self, key: bytes = KEY, prefix: bytes = b"") -> None:
        """Make the server prove the key too."""
        self.asked_back = message = prefix + os.urandom(40 if prefix else 20)
        self.send_frame(b"#CHALLENGE#" + message)
        answer = self.recv_frame()
        if len(answer) == 16:
            good = hmac.new(key, message, hashlib.md5).digest()
        else:
            good = mac(key, message)
        assert answer == good
        self.send_frame(b"#WELCOME#")

    def login(self, key: bytes = KEY) -> RawPeer:
        assert self.answer(key) == b"#WELCOME#"
        self.challenge(key)
        return self

    def introduce(self, session: bytes, name: str = "by hand") -> Any:
        """Become a client of the fast dialect; what the server says of itself."""

        def proof(role: str, said: bytes) -> bytes:
            return prove(KEY, role, self.asked, self.asked_back, said)

        introducer = Introducer(session, name)
        self.send_frame(introducer.introduce(proof))
        return introducer.read_answer(self.recv_frame())

    def call(self, ident: str | None, method: str, *args: Any, **kwds: Any) -> tuple[str, Any]:
        self.send_frame(pickle.dumps((ident, method, args, kwds)))
        reply: tuple[str, Any] = pickle.loads(self.recv_frame())
        return reply


def mac(key: bytes, message: bytes) -> bytes:
    """The answer to a challenge, in the dialect in which it was put."""
    if message.startswith(b"{sha256}"):
        return b"{sha256}" + hmac.new(key, message, hashlib.sha256).digest()
    return hmac.new(key, message, hashlib.md5).digest()


# Frames by hand


class Reply(NamedTuple):
    op: int
    handle: int
    call: int
    payload: Any


class FastPeer(RawPeer):
    """A peer that speaks the fast dialect frame by frame."""

    def __init__(self, address: Address, session: bytes | None = None) -> None:
        super().__init__(address)
        self.login(KEY)
        self.calls = 0
        self.instance, self.resumed, *_ = self.introduce(session or os.urandom(SESSION_ID_SIZE))

    def send(self, op: int, body: bytes = b"", handle: int = 0, flags: int = 0) -> int:
        self.calls += 1
        self.sock.sendall(HEADER.pack(len(body), handle, self.calls, 0, op, flags) + body)
        return self.calls

    def recv(self) -> Reply:
        size, handle, call, method, op, flags = HEADER.unpack(self._read(HEADER.size))
        assert method in (0, 1)  # whether the server spins
        body = self._read(size)
        assert flags in (0, PICKLED)
        if op == OP_FAILED:  # before the error the call in words: a tag, a size, the text
            body = body[2 + body[1] :]
        return Reply(op, handle, call, codec.loads(body, allow_pickle=flags == PICKLED))

    def recv_reply(self) -> Reply:
        """The next reply, whatever calls without one have failed before."""
        while (reply := self.recv()).op == OP_FAILED:
            pass
        return reply

    def ask(self, op: int, *values: Any, handle: int = 0, flags: int = 0) -> Reply:
        call = self.send(op, b"".join(map(codec.dumps, values)), handle, flags)
        reply = self.recv()
        assert reply.call == call
        return reply

    def create(self, typeid: str, *args: Any, flags: int = 0, **kwds: Any) -> int:
        reply = self.ask(OP_CREATE, typeid, args, kwds or None, flags=flags)
        assert reply.op == OP_RETURN, reply
        return reply.handle

    def method(self, handle: int, name: Any, *args: Any, flags: int = 0) -> Reply:
        return self.ask(OP_CALL, name, args, None, handle=handle, flags=flags)

    def control(self, name: Any, *args: Any) -> Reply:
        return self.ask(OP_CONTROL, name, args, None)

    def handles(self, op: int, *numbers: int) -> int:
        return self.send(op, struct.pack(f"<{len(numbers)}Q", *numbers))

    def ended(self) -> bool:
        """Wait for the server to hang up."""
        try:
            return self.sock.recv(1) == b""
        except ConnectionResetError:
            return True


# Frames by hand


class Frame(NamedTuple):
    op: int
    call: int
    values: bytes
    segments: list[bytes]


class BufferPeer(FastPeer):
    """A peer that cuts its frames itself, and takes those of the server apart."""

    def frame(
        self, handle: int, values: bytes, segments: Buffers = (), flags: int = 0, op: int = OP_CALL
    ) -> bytes:
        self.calls += 1
        body = table(values, segments) + b"".join(segments) if segments else values
        flags |= SEGMENTED if segments else 0
        return HEADER.pack(len(body), handle, self.calls, 0, op, flags) + body

    def _read(self, size: int) -> bytes:
        data = bytearray()
        while len(data) < size:
            more = self.sock.recv(min(size - len(data), 1 << 20))
            if not more:
                raise EOFError(f"{len(data)} of {size} bytes")
            data += more
        return bytes(data)

    def take(self) -> Frame:
        size, _handle, call, _method, op, flags = HEADER.unpack(self._read(HEADER.size))
        body = self._read(size)
        if not flags & SEGMENTED:
            return Frame(op, call, body, [])
        count, length = TABLE.unpack_from(body)
        sizes = struct.unpack_from(f"<{count}Q", body, TABLE.size)
        at = TABLE.size + 8 * count
        values, at = body[at : at + length], at + length
        segments = []
        for size in sizes:
            size &= ~WRITABLE
            segments.append(body[at : at + size])
            at += size
        assert at == len(body)
        return Frame(op, call, values, segments)

    def expect(self, op: int = OP_RETURN) -> Frame:
        """The reply to the last call."""
        reply = self.take()
        assert (reply.op, reply.call) == (op, self.calls), reply
        return reply


class PassedPeer(FastPeer):
    """A peer that asks for cells and segments."""

    def locate(self, handle: int) -> Any:
        call = self.send(OP_LOCATE, handle=handle)
        reply = self.recv()
        assert (reply.op, reply.handle, reply.call) == (OP_RETURN, 0, call)
        return reply.payload

    def attach(self, number: int) -> tuple[Any, int | None]:
        """What is said about a segment, and its descriptor, which is the caller's."""
        call = self.send(OP_ATTACH, handle=number)
        data, passed, _, _ = socket.recv_fds(self.sock, HEADER.size, 1)
        data += self._read(HEADER.size - len(data))
        size, handle, answered, _, op, _ = HEADER.unpack(data)
        reply = Reply(op, handle, answered, codec.loads(self._read(size)))
        assert reply[:3] == (OP_RETURN, 0, call)
        return reply.payload, passed[0] if passed else None

    def segment(self, number: int) -> Any:
        """A segment, mapped."""
        (offset, size, is_file), fd = self.attach(number)
        assert fd is not None
        return map_segment(number, fd, offset, size, is_file)

    def drop(self, handle: int) -> None:
        self.handles(OP_RELEASE, handle, 1)
