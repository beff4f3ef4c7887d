"""A stream cuts bytes into the same frames as a plain model, in both framings, however they arrive.

The first bytes of an input choose the framing, the limit, how the frames are taken and in which
chunks the rest, the wire, arrives.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Iterator

from common import fuzz, instrumented
from frame_model import ADDRESSES, HEADER, TABLE, WRITABLE, Model, Status, frames, segmented
from fuzz_cutter import receive_now, speak_fast, take, tidy

with instrumented():
    from fastmgr.link.stream import Stream

FAST, BLOCKING, AGAIN, TIDY = 1, 2, 4, 8
LIMITS = (70_000, 16, 300, 4_000, 70_000, 17, 100_000, 0)
REPEATS = (1, 1, 4, 60)
N_CHUNKS = 6
PRELUDE = 2 + N_CHUNKS
MOST_FRAMES = 100
# For what is announced and larger there is no memory: the sanitizer was told so, for speed.
PLENTY = 16 << 20


class Enough(Exception):
    """The stream refuses the rest, as the model does, or many frames were seen."""


class Run:
    """One stream, and how far the model has come with it."""

    def __init__(self, data: bytes) -> None:
        self.mode, amount = data[:2]
        self.chunks = data[2:PRELUDE]
        self.repeats = REPEATS[amount >> 3 & 3]
        limit, fast = LIMITS[amount & 7], bool(self.mode & FAST)
        self.model = Model(data[PRELUDE:] * self.repeats, fast, limit)
        self.seen = 0
        ours, self.theirs = socket.socketpair()
        self.theirs.settimeout(5)
        self.stream = Stream(ours.detach(), limit)
        if fast:
            speak_fast(self.stream)

    def passed(self, end: int) -> None:
        self.model.at = end
        self.seen += 1
        if self.seen == MOST_FRAMES:
            raise Enough

    def poll(self) -> None:
        """Take what can be taken and receive more, until nothing is left, as the loop does."""
        more = True
        while True:
            taken, expected = take(self.stream, bool(self.mode & AGAIN)), self.model.take()
            if taken[0] == Status.PARTIAL and more:
                more = receive_now(self.stream)
                continue
            if expected.largest > PLENTY and taken[0] == Status.TOO_LARGE:
                raise Enough
            assert taken == expected[:4], (taken, expected)
            if taken[0] == Status.PARTIAL:
                return
            if taken[0] == Status.TOO_LARGE:
                self.assert_fails(OSError)
                raise Enough
            self.passed(expected.end)
            if self.mode & TIDY:
                tidy(self.stream)

    def receive(self) -> None:
        """Take the whole frames as a thread does, which waits for each; none is waited for."""
        while (expected := self.model.take()).status == Status.READY:
            assert self.stream.recv_bytes() == expected.body
            self.passed(expected.end)

    def assert_fails(self, kind: type[Exception]) -> None:
        for _ in range(2):
            with contextlib.suppress(kind):
                body = self.stream.recv_bytes()
                raise AssertionError(f"a frame of {len(body)} bytes, not {kind}")

    def drive(self) -> None:
        model, turn = self.model, 0
        while model.sent < len(model.wire):
            # What a socket's buffer holds; and a large wire is not cut into tiny bits.
            chunk = self.chunks[turn % N_CHUNKS] * self.repeats or 50_000
            turn += 1
            self.theirs.sendall(model.wire[model.sent : model.sent + chunk])
            model.sent = min(model.sent + chunk, len(model.wire))
            if self.mode & BLOCKING:
                self.receive()
            self.poll()
        self.theirs.close()
        self.assert_fails(EOFError)


def one_input(data: bytes) -> None:
    if len(data) < PRELUDE:
        return
    run = Run(data)
    with run.theirs, contextlib.closing(run.stream), contextlib.suppress(Enough):
        try:
            run.drive()
        except MemoryError:
            expected = run.model.take()
            assert expected.status == Status.PARTIAL and expected.largest > PLENTY


def seeds() -> Iterator[bytes]:
    chunks = bytes([9, 0, 200, 1, 3, 24])
    for mode in range(16):
        fast = bool(mode & FAST)
        yield bytes([mode, 0]) + chunks + frames([0, 1, 7, 300, 16], fast)
        yield bytes([mode, 16]) + chunks + frames([900, 2000, 20], fast)
        yield bytes([mode, 30]) + chunks + frames([3000, 4], fast)
        yield bytes([mode, 1]) + chunks + frames([16, 17], fast)
        yield bytes([mode, 24]) + chunks + frames([70_000], fast)[:2000]
        for size in (1 << 31, 1 << 40, 1 << 63, ADDRESSES - 26, ADDRESSES - 25, ADDRESSES - 1):
            prefix = HEADER.pack(size, 0, 0, 0, 1, 0) if fast else struct.pack("!iQ", -1, size)
            yield bytes([mode, 7]) + chunks + prefix + b"body"
        yield bytes([mode, 0]) + chunks + struct.pack("!i", -2) + b"body"
        for amount, marks in (0, [5]), (4, [0, 700, 3 + WRITABLE, 0]), (7, [900, 70_000]):
            wire = segmented(9, marks) + frames([3], True) + segmented(0, marks)
            yield bytes([mode | FAST, amount]) + chunks + wire[:3000]


def words() -> Iterator[bytes]:
    for size in (0, 1, 16, 17, 300, 70_000):
        yield struct.pack("!i", size)
        yield struct.pack("!iQ", -1, size)
        yield HEADER.pack(size, 1, 2, 0, 1, 0)
        yield TABLE.pack(1, size) + struct.pack("<Q", size + WRITABLE)
        yield segmented(size % 11, [size % 13])


if __name__ == "__main__":
    fuzz(one_input, seeds(), words())
