"""The mailboxes of a process, as they are found in ``/proc``, for the tests that look into them."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import DEADLINE

# As in mailbox.h and channel.pyx.
OPEN, REQUEST, SLEEPS, REPLY = 1, 2, 4, 8
ROOM = 2048 - 16
AFTER = 64
PAGE = 4096
#: A size that nobody writes: it is gone when a message has been in the box.
MARK = 1 << 40

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
