"""Whatever a client writes into a queue's memory, others may miss items, and nothing worse.

The server's code and a client's work on one ring.  Nothing beside it is touched, no bytes in it are
unpickled, nobody looks for ever, and afterwards the queue is one that works.

An input is a byte, which chooses how long the queue may get, and steps: each a byte, and what that
step takes.
"""

from __future__ import annotations

import contextlib
import os
import queue
import struct
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from common import fuzz, instrumented
from fuzz_cells import attach, fenced, unfence
from rings import HEAD, IS_GONE, IS_PLACED, IS_SIDE, OWNER_BITS, Memory

os.environ["FASTMGR_RING_SIZE"] = "4096"

with instrumented():
    from fastmgr.kinds.queues import Queue

    from fastmgr.client.queues import QueueCore
    from fastmgr.memory.arena import Arena, settle
    from fastmgr.wire.codec import dumps

MAXSIZES = (0, 3, 50, 0)
MOMENT = 1e-6  # seconds
STRANGER, LOCAL = 77 << 24, 1 << 55
OWNERS = (0, STRANGER, 0, 5 << 24, 0, LOCAL | 1, 0, OWNER_BITS)
COPIES = (64, 128)  # where the copies of the state are
STATE = struct.Struct("<5Q")  # how many items and flags, where, bytes, tasks, most bytes
LARGEST = 512  # bytes of an item that the ring takes
MOST_ITEMS = 4096 // 8


class Evil:
    """Unpickled, it leaves a trace."""

    traces: ClassVar[list[int]] = []

    def __reduce__(self) -> Any:
        return Evil.traces.append, (1,)


# A few are the server's: too large for the ring, or for nobody but pickle.
VALUES: list[Any] = [
    *(None, 7, -1.5, "text", b"bytes", (1, [2, {"k": {3}}]), "", 1 << 70),
    *("x" * 100, "y" * (LARGEST - 8), "z" * LARGEST, b"large" * 300, object, slice(1, None)),
]


class Client(QueueCore):
    """A proxy whose calls go to the queue itself."""

    server: Queue

    def _callmethod(self, name: str, args: Any = (), kwds: Any = None) -> Any:
        return getattr(self.server, name)(*args, **kwds or {})


arena = Arena()
arena.open()


class Run:
    """One queue, and the bytes that say what becomes of it."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 1
        self.queue = Queue(MAXSIZES[data[0] % len(MAXSIZES)])
        self.client = Client.__new__(Client)
        self.client.server = self.queue
        self.place()

    def place(self) -> None:
        """Give the queue a ring, if it has none, and tell the client."""
        for segment in arena.segments.values():
            unfence(segment)
        if settle(self.queue, arena):
            attach(self.client, self.queue)
            self.bytes = fenced(self.queue)
            self.memory = Memory(self.bytes)

    def take(self, size: int) -> bytes:
        taken = self.data[self.at : self.at + size]
        self.at += size
        return taken.ljust(size, b"\0")

    def byte(self) -> int:
        return self.take(1)[0]

    def value(self) -> Any:
        return VALUES[self.byte() % len(VALUES)]

    # -- what those do who use the queue ---------------------------------------

    def client_steps(self) -> list[Callable[[], Any]]:
        q, value, byte = self.client, self.value, self.byte
        return [
            lambda: q.put(value(), False),
            lambda: q.get(False),
            lambda: q.put_nowait(value()),
            lambda: q.get_nowait(),
            lambda: q.put_many([value()] * (byte() % 32), False),
            lambda: q.get_many(byte(), False),
            lambda: q.get_many(byte(), True, MOMENT),
            lambda: q.get(True, MOMENT),
            lambda: q.put(value(), True, MOMENT),
            lambda: q.task_done(),
            lambda: (q.qsize(), q.empty(), q.full()),
        ]

    def server_steps(self) -> list[Callable[[], Any]]:
        q, value, byte = self.queue, self.value, self.byte
        return [
            lambda: q.put(value(), False),
            lambda: q.get(False),
            lambda: q.put_many([value()] * (byte() % 32), False),
            lambda: q.get_many(byte(), False),
            lambda: q.get_many(byte(), True, MOMENT),
            lambda: q.put(value(), True, MOMENT),
            lambda: q.task_done(),
            lambda: (q.qsize(), q.empty(), q.full(), str(q)),
            self.place,
        ]

    # -- what one does that writes into the memory -------------------------------

    def scribbler_steps(self) -> list[Callable[[], Any]]:
        return [
            self.write_anywhere, self.write_state, self.write_state, self.write_slot,
            self.write_size, self.write_size, self.put_bytes, self.put_bytes,
        ]  # fmt: skip

    def write_anywhere(self) -> None:
        offset, size = struct.unpack("<HB", self.take(3))
        data = self.take(size)
        offset %= len(self.bytes) - size
        self.bytes[offset : offset + size] = data

    def write_state(self) -> None:
        which = self.byte()
        at = COPIES[which & 1] + 8 * (which // 2 % 5)
        self.bytes[at : at + 8] = self.take(8)

    def write_slot(self) -> None:
        kind = self.byte()
        bits = [bit for i, bit in enumerate((IS_PLACED, IS_SIDE, IS_GONE)) if kind >> i & 1]
        self.memory.slot = sum(bits) | OWNERS[kind >> 3 & 7]

    def write_size(self) -> None:
        """Say how long the first item is."""
        _, head, *_ = self.memory.state()
        at = HEAD + head % (len(self.bytes) - HEAD - 8)
        self.bytes[at : at + 8] = self.take(8)

    def put_bytes(self) -> None:
        """Put an item that need not be a value."""
        self.memory.put(STRANGER, self.take(self.byte()))

    # -- all together ---------------------------------------------------------------

    def is_taken(self) -> bool:
        """Whether a client would look at the slot for a second before it asks the server."""
        word: int = self.memory.slot
        return bool(word & OWNER_BITS and word & IS_PLACED and not word & IS_GONE)

    def drive(self) -> None:
        clients, servers = self.client_steps(), self.server_steps()
        steps = clients + servers + self.scribbler_steps()
        while self.at < len(self.data):
            step = steps[self.byte() % len(steps)]
            if step in clients and self.is_taken():
                self.end_turns()
            # What is no value is an error of whoever gets it, as pickle's would be.
            with contextlib.suppress(queue.Empty, queue.Full, ValueError):
                step()

    def end_turns(self) -> None:
        """Have the server do something: it ends a ring that somebody keeps for himself."""
        with contextlib.suppress(ValueError):
            self.queue.task_done()

    def check(self) -> None:
        """The queue works, wherever its items are now."""
        self.end_turns()
        for _ in range(MOST_ITEMS + 32 * len(self.data)):
            try:
                self.queue.get_nowait()
            except queue.Empty:
                break
        else:
            raise AssertionError("the queue does not become empty")
        self.place()
        for put, get in ((self.client, self.queue), (self.queue, self.client)):
            for item in VALUES[:3]:
                put.put(item, False)
            assert (self.client.qsize(), self.queue.qsize()) == (3, 3)
            assert [get.get(False) for _ in range(3)] == VALUES[:3]
        assert not Evil.traces, "bytes of the ring were unpickled"

    def end(self) -> None:
        for segment in arena.segments.values():
            unfence(segment)
        self.bytes, self.memory = memoryview(bytearray()), None


def one_input(data: bytes) -> None:
    if not data:
        return
    run = Run(data)
    try:
        run.drive()
        run.check()
    finally:
        run.end()


N_CLIENT, N_SERVER = 11, 9
PUT, GET, PUT_MANY, GET_MANY, DONE, SIZE = b"\0", b"\1", b"\4", b"\5", b"\x09", b"\x0a"
SERVER = [bytes([N_CLIENT + i]) for i in range(N_SERVER)]
ANYWHERE, COPY, SLOT, LENGTH, RAW = (bytes([N_CLIENT + N_SERVER + i]) for i in (0, 1, 3, 4, 6))
NUMBERS = (0, 1, 7, 8, 16, 64, 255, 256, 512, 520, 4088, 4096, 1 << 32, 1 << 63, (1 << 64) - 8)


def seeds() -> Iterator[bytes]:
    puts = b"".join(PUT + bytes([i]) for i in range(len(VALUES)))
    many = PUT_MANY + bytes([1, 200]) + SERVER[2] + bytes([8, 90])
    gets = (GET + SERVER[1] + GET_MANY + b"\4" + SERVER[3] + b"\5" + SIZE + DONE) * 3
    place = SERVER[8]
    for maxsize in range(3):
        yield bytes([maxsize]) + puts + gets + puts + SERVER[7] + gets
        yield bytes([maxsize]) + many + gets + many + gets
        for kind in range(64):
            yield bytes([maxsize]) + puts + SLOT + bytes([kind]) + gets + place + puts + gets
    for number in NUMBERS:
        word = struct.pack("<Q", number)
        yield b"\0" + puts + LENGTH + word + gets + place + puts
        for which in range(10):
            yield b"\0" + puts + COPY + bytes([which]) + word + gets + place + many + gets
    for data in (b"", b"\xff", b"\xff" * 64, dumps(Evil()), dumps([1]) + b"more", dumps("a")[:-1]):
        for get in (GET, GET_MANY + b"\7", SERVER[1], SERVER[3] + b"\7"):
            yield b"\0" + PUT + b"\1" + RAW + bytes([len(data)]) + data + PUT + b"\2" + get * 4
    yield b"\0" + puts + ANYWHERE + struct.pack("<HB", 0, 200) + b"\xff" * 200 + gets


def words() -> Iterator[bytes]:
    for number in NUMBERS:
        yield struct.pack("<Q", number)
        yield struct.pack("<Q", number << 8 & (1 << 64) - 1)
    yield from (dumps(value)[:32] for value in VALUES)


if __name__ == "__main__":
    fuzz(one_input, seeds(), words())
