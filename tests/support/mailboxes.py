"""The mailboxes of a process, as they are found in ``/proc``, for the tests that look into them."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastmgr.link.introduction import SESSION_ID_SIZE
from fastmgr.managers import BaseProxy
from fastmgr.wire import codec
from support import (
    DEADLINE,
    KEY,
    Address,
    RawPeer,
    poll,
)
from support.frames import HEADER, OP_ATTACH, OP_CALL, OP_INCREF, OP_RELEASE, OP_RETURN, PICKLED

# As in mailbox.h and channel.pyx.
OPEN, REQUEST, SLEEPS, REPLY = 1, 2, 4, 8
ROOM = 2048 - 16
AFTER = 64
PAGE = 4096
MAILBOX = 0x7FFFFFFF  # its number as a segment
#: A size that nobody writes: it is gone when a message has been in the box.
MARK = 1 << 40

#: In processes that look into mailboxes each read is a call.
BaseProxy._keeps = False

Call = Callable[[], Any]


def boxes(pid: int | str = "self") -> dict[str, int]:
    """Where the mailboxes of a process are, by their inodes: an address may be used again."""
    found = {}
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        if "memfd:fastmgr" in line:
            place, _, _, _, inode, *_ = line.split()
            start, end = (int(part, 16) for part in place.split("-"))
            if end - start == PAGE:
                found[inode] = start
    return found


class Box:
    """The mailbox of the calling thread's channel."""

    def __init__(self, start: int) -> None:
        self.start = start

    @property
    def state(self) -> int:
        return ctypes.c_uint64.from_address(self.start).value

    @state.setter
    def state(self, state: int) -> None:
        """Only while neither side is at work."""
        ctypes.c_uint64.from_address(self.start).value = state

    @property
    def size(self) -> int:
        return ctypes.c_uint64.from_address(self.start + 8).value

    @size.setter
    def size(self, size: int) -> None:
        ctypes.c_uint64.from_address(self.start + 8).value = size

    @property
    def message(self) -> bytes:
        return ctypes.string_at(self.start + 16, ROOM)

    def clear(self) -> None:
        """Wipe the message; only while no call is under way."""
        ctypes.memset(self.start + 16, 0, ROOM)

    def carries(self, call: Call) -> tuple[Any, bool]:
        """What the call returns, and whether it went by mail."""
        self.size = MARK
        result = call()
        return result, self.size != MARK

    def until_carried(self, call: Call, before: Call | None = None) -> Any:
        """Make a call until it has gone by mail: it does when the server is awake by chance.

        Behind what gets no reply, as releases do not, nothing goes by mail until a call has been
        answered: `before` may make one.
        """
        # Without a pause: after looking in vain for long a side sleeps at once the next many times.
        end = time.monotonic() + 2 * DEADLINE
        while time.monotonic() < end:
            if before is not None:
                before()
            result, by_mail = self.carries(call)
            if by_mail:
                return result
        raise AssertionError("no call goes by mail")


def fresh_box(proxy: Any) -> Box:
    """The mailbox of a new channel of the calling thread; no other thread may begin one."""
    known = boxes()
    proxy._connect()
    for _ in range(2 * AFTER):
        proxy._callmethod("__len__")
        new = [start for inode, start in boxes().items() if inode not in known]
        if new:
            (start,) = new
            return Box(start)
    raise AssertionError("no mailbox")


class MailPeer(RawPeer):
    """A peer that speaks the fast dialect by hand, also by mail."""

    def __init__(self, address: Address) -> None:
        super().__init__(address)
        self.login(KEY)
        self.calls = 0
        assert self.introduce(os.urandom(SESSION_ID_SIZE)) is not None

    def frame(self, op: int, body: bytes = b"", handle: int = 0, flags: int = 0) -> bytes:
        self.calls += 1
        return HEADER.pack(len(body), handle, self.calls, 0, op, flags) + body

    def call(self, proxy: Any, name: str, *args: Any, flags: int = 0) -> bytes:  # type: ignore[override]
        body = b"".join(map(codec.dumps, (name, args, None)))
        return self.frame(OP_CALL, body, int(proxy._token.id, 16), flags)

    def reply(self) -> Any:
        """The value of the next reply over the socket."""
        size, _, call, _, op, flags = HEADER.unpack(self._read(HEADER.size))
        assert (op, call) == (OP_RETURN, self.calls)
        return codec.loads(self._read(size), allow_pickle=bool(flags & PICKLED))

    def hold(self, *proxies: Any) -> None:
        """Have references, as a client does."""
        handles = [int(proxy._token.id, 16) for proxy in proxies]
        body = struct.pack(f"<{len(handles)}Q", *handles)
        self.sock.sendall(self.frame(OP_INCREF, body))
        assert self.reply() == {}  # none is missing

    def attach(self, number: int = MAILBOX) -> tuple[Any, int | None]:
        """What is said about a segment, and its descriptor."""
        self.sock.sendall(self.frame(OP_ATTACH, handle=number))
        data, passed, _, _ = socket.recv_fds(self.sock, HEADER.size, 1)
        data += self._read(HEADER.size - len(data))
        size, _, call, _, op, _ = HEADER.unpack(data)
        assert (op, call) == (OP_RETURN, self.calls)
        return codec.loads(self._read(size)), passed[0] if passed else None

    def map_mailbox(self) -> None:
        about, fd = self.attach()
        assert about is not None and fd is not None
        self.memory = mmap.mmap(fd, 16 + ROOM)
        os.close(fd)
        self.words = (ctypes.c_uint64 * 2).from_buffer(self.memory)

    def nudge(self) -> None:
        """Have the server look at this connection: releases of nothing get no reply."""
        with contextlib.suppress(OSError):  # it may have hung up
            self.sock.sendall(self.frame(OP_RELEASE))
            self.calls -= 1

    def put(self, message: bytes, state: int = OPEN | REQUEST, size: int | None = None) -> None:
        """Write a message and then a state, whatever the server makes of it."""
        assert len(message) <= ROOM
        self.memory[16 : 16 + len(message)] = message
        self.words[1] = len(message) if size is None else size
        self.words[0] = state

    def by_mail(self, message: bytes) -> Any:
        """Post a call as a client would, and take the value of the reply."""
        self.put(message)

        def answered() -> bool:
            if not self.words[0] & REPLY:
                self.nudge()
            return bool(self.words[0] & REPLY)

        poll(answered, "a reply by mail")
        frame = bytes(self.memory[16 : 16 + self.words[1]])
        self.words[0] = OPEN
        size, _, call, _, op, flags = HEADER.unpack_from(frame)
        assert (op, call, len(frame)) == (OP_RETURN, self.calls, HEADER.size + size)
        return codec.loads(frame[HEADER.size :], allow_pickle=bool(flags & PICKLED))

    def hung_up(self) -> bool:
        """Whether the server has closed the connection; what it says is thrown away."""
        self.sock.setblocking(False)
        try:
            while self.sock.recv(65536):
                pass
            return True
        except BlockingIOError:
            return False
        except ConnectionError:
            return True
        finally:
            self.sock.settimeout(DEADLINE)
