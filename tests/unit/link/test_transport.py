"""A stream makes the same of its bytes whatever carries them, and however: here, a fake."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from itertools import cycle

import pytest
from model.compiled import compiled
from support import TESTS, ProbeManager
from support.streams import long_form, short_form

import fastmgr
from fastmgr.link import sockets
from fastmgr.link.stream import Stream
from fastmgr.link.transport import Transport

PythonTransport = compiled("python_transport", TESTS / "support").PythonTransport

PIECES = ((1,), (3, 1, 50), (2048,), (7, 30_000, 1, 5_000))


class Memory:
    """Bytes as they come: in chunks, of which None is nothing yet, and the end behind them.

    Of a chunk that was not read whole no poller tells: the descriptor says always, or never, that
    there is something.
    """

    def __init__(self, *chunks: bytes | None, takes: tuple[int, ...] = (1 << 20,)) -> None:
        self.chunks, self.sent, self.takes = list(chunks), b"", cycle(takes)
        self.at_hand: bytes | None = None
        self.ours, self.theirs = socket.socketpair()
        self.error: OSError | None = None

    def fileno(self) -> int:
        return self.ours.fileno()

    def read(self, room: int) -> bytes | None:
        if self.error:
            raise self.error
        if not self.at_hand:
            self.at_hand = self.chunks.pop(0) if self.chunks else b""
            if self.at_hand is None:
                return None
        data, self.at_hand = self.at_hand[:room], self.at_hand[room:]
        return data

    def pending(self) -> int:
        return len(self.at_hand or b"")

    def send(self, data: bytes) -> int:
        if self.error:
            raise self.error
        taken = data[: next(self.takes)]
        self.sent += taken
        return len(taken)

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture
def stream_of() -> Iterator[Callable[..., tuple[Stream, Memory]]]:
    made = []

    def make(*chunks: bytes | None, readable: bool = True, **kwds: tuple[int, ...]):
        memory = Memory(*chunks, **kwds)
        if readable:
            memory.theirs.send(b"x")
        made.append(Stream(PythonTransport(memory), 100_000))
        return made[-1], memory

    yield make
    for stream in made:
        stream.close()
        assert stream.closed


def cut(data: bytes, sizes: tuple[int, ...]) -> list[bytes]:
    chunks, size = [], cycle(sizes)
    while data:
        n = next(size)
        chunks.append(data[:n])
        data = data[n:]
    return chunks


BODIES = [b"", b"a", os.urandom(2044), b"b" * 300, os.urandom(70_000), b"last"]
WIRE = b"".join(form(b) for b, form in zip(BODIES, (short_form, long_form) * 3, strict=True))


@pytest.mark.parametrize("sizes", [*PIECES, (len(WIRE),)])
@pytest.mark.parametrize("delayed", [False, True])
def test_frames_in_pieces(stream_of, sizes: tuple[int, ...], delayed: bool) -> None:
    chunks: list[bytes | None] = []
    for chunk in cut(WIRE, sizes if min(sizes) > 1 or delayed else (*sizes, 900)):
        chunks += [None, chunk] if delayed and len(chunks) < 2000 else [chunk]
    stream, _ = stream_of(*chunks)
    assert [stream.recv_bytes() for _ in BODIES] == BODIES
    with pytest.raises(EOFError):
        stream.recv_bytes()


def test_the_end_at_every_byte(stream_of) -> None:
    wire, ends = short_form(b"one") + long_form(b"two!") + short_form(b""), {7: 1, 23: 2, 27: 3}
    for size in range(len(wire) + 1):
        stream, _ = stream_of(*cut(wire[:size], (5, 1)))
        for _ in range(sum(end <= size for end in ends)):
            stream.recv_bytes()
        with pytest.raises(EOFError):
            stream.recv_bytes()


def test_bytes_that_no_poller_tells_of_are_received(stream_of) -> None:
    """An encrypted record is read whole: the next frame is here, and the socket has nothing."""
    frames = [os.urandom(3000) for _ in range(5)]
    stream, memory = stream_of(b"".join(map(short_form, frames)), None, readable=False)
    assert stream.recv_bytes() == frames[0]
    assert memory.pending() == 0
    for frame in frames[1:]:
        assert stream.poll()
        assert stream.recv_bytes() == frame
    assert not stream.poll()


@pytest.mark.parametrize("takes", [(1,), (0, 3), (50_000, 0, 7)])
def test_what_is_sent_in_pieces_is_sent_whole(stream_of, takes: tuple[int, ...]) -> None:
    stream, memory = stream_of(takes=takes)
    bodies = [b"one", os.urandom(3000), b"", b"four"]
    stream.send_bytes(*bodies)
    assert memory.sent == b"".join(map(short_form, bodies))


def test_a_silent_peer_is_waited_for_no_longer_than_asked(stream_of) -> None:
    stream, _ = stream_of(None, None, None, readable=False)
    assert not stream.poll(0.01)
    stream.set_timeout(0.01)
    with pytest.raises(TimeoutError):
        stream.recv_bytes(patient=False)


def test_a_lost_connection_keeps_its_error(stream_of) -> None:
    stream, memory = stream_of(b"\0")
    memory.error = ConnectionResetError(errno.ECONNRESET, "reset")
    with pytest.raises(ConnectionResetError):
        stream.recv_bytes()
    with pytest.raises(ConnectionResetError):
        stream.send_bytes(b"x")


def test_a_transport_that_carries_nothing_is_at_its_end() -> None:
    stream = Stream(Transport())
    with pytest.raises(OSError, match="handle is closed"):
        stream.recv_bytes()


# The fast dialect over such a transport


class Veiled(Memory):
    """A socket whose bytes come and go in pieces, the rest of what was read being at hand."""

    made: list[Veiled]
    pieces = (1 << 20,)

    def __init__(self, fd: int) -> None:
        self.ours = socket.socket(fileno=fd)
        self.ours.setblocking(False)
        self.at_hand, self.error, self.takes = b"", None, cycle(self.pieces)
        self.left = 1 << 40
        self.made.append(self)

    def read(self, room: int) -> bytes | None:
        if not self.at_hand and self.left:
            try:
                self.at_hand = self.ours.recv(1 << 14)[: self.left]
            except BlockingIOError:
                return None
            self.left -= len(self.at_hand)
        size = min(room, next(self.takes))
        data, self.at_hand = self.at_hand[:size], self.at_hand[size:]
        return data

    def send(self, data: bytes) -> int:
        try:
            return self.ours.send(data[: next(self.takes)])
        except BlockingIOError:
            return 0

    def close(self) -> None:
        self.ours.close()


@pytest.fixture
def veiled(monkeypatch: pytest.MonkeyPatch) -> type[Veiled]:
    """Have this process's connections carried by `Veiled`, of which there is a list."""
    kind = type("Veiled", (Veiled,), {"made": []})
    monkeypatch.setattr(sockets, "Stream", lambda fd: Stream(PythonTransport(kind(fd))))
    return kind


@pytest.mark.parametrize("pieces", PIECES[1:])
def test_calls(veiled: type[Veiled], pieces: tuple[int, ...]) -> None:
    veiled.pieces = pieces
    large = os.urandom(200_000 if max(pieces) > 1000 else 70_000)
    with ProbeManager() as manager:
        d, q = manager.dict(), manager.Queue()
        d["large"] = large, bytearray(large)
        assert d["large"] == (large, bytearray(large))
        with manager.pipeline() as pipe:
            for i in range(500):
                pipe(d)[i] = str(i) * 100
            pipe(d).copy()
        assert len(pipe.results[-1]) == 501
        fastmgr.oneway(q).put(large)
        assert q.get() == large
        for i in range(100):
            d[i] = i
        assert sum(d[i] for i in range(100)) == 4950
    assert veiled.made


def test_the_end_at_every_byte_of_a_reply(veiled: type[Veiled]) -> None:
    values = {"small": "text", "large": bytes(70_000)}
    with ProbeManager() as manager:
        for key, sizes in (("small", range(30)), ("large", (*range(0, 60, 7), 4096, 70_000))):
            for size in sizes:
                d = manager.dict(values)  # the session ends with its one connection
                veiled.made[-1].left = size
                with pytest.raises(EOFError):
                    d[key]
            d = manager.dict(values)
            assert d[key] == values[key]
