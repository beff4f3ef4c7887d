"""Streams cut bytes into the frames they were sent as, however the bytes arrive."""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import signal
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from multiprocessing.connection import Connection
from types import FrameType

import pytest
from hypothesis import given, settings, strategies as st
from support import DEADLINE, in_thread, poll

from fastmgr.link.stream import Stream

Ends = tuple[Stream, socket.socket]
Handler = Callable[[int, FrameType | None], object]


def open_ends(limit: int = 0) -> Ends:
    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE)
    return Stream(ours.detach(), limit), theirs


@pytest.fixture
def ends() -> Iterator[Ends]:
    stream, theirs = open_ends()
    yield stream, theirs
    theirs.close()
    stream.close()


@pytest.fixture
def alarms() -> Iterator[Callable[[Handler], None]]:
    """Signals that keep coming, so that some come while a call is blocked."""
    before = signal.getsignal(signal.SIGALRM)

    def ring(handler: Handler) -> None:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, 0.02, 0.02)

    yield ring
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


def interrupt(_number: int, _frame: FrameType | None) -> None:
    """Be an interrupt, and the last one: another might hit the test itself."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    raise KeyboardInterrupt


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


# Framing


@pytest.mark.parametrize("form", [short_form, long_form])
@pytest.mark.parametrize("size", [0, 1, 3, 4, 11, 12, 255, 2043, 2044, 2045, 2048, 70_000])
def test_both_forms_of_a_length(ends: Ends, form: Callable[[bytes], bytes], size: int) -> None:
    stream, theirs = ends
    body = os.urandom(size)
    theirs.sendall(form(body))
    assert stream.recv_bytes() == body


def test_is_the_framing_of_the_stdlib() -> None:
    stream, theirs = open_ends()
    with Connection(theirs.detach()) as stock:
        for body in (b"", b"x", b"y" * 20_000):
            stream.send_bytes(body)
            assert stock.recv_bytes() == body
            stock.send_bytes(body)
            assert stream.recv_bytes() == body
    with pytest.raises(EOFError):
        stream.recv_bytes()
    stream.close()


def test_several_bodies_are_sent_as_several_frames(ends: Ends) -> None:
    stream, theirs = ends
    stream.send_bytes(b"one", b"", b"three")
    expected = short_form(b"one") + short_form(b"") + short_form(b"three")
    assert read_exactly(theirs, len(expected)) == expected
    stream.send_bytes()
    stream.send_bytes(b"last")
    assert read_exactly(theirs, 8) == short_form(b"last")


@pytest.mark.parametrize("wrong", ["text", 5, bytearray(b"x"), None])
def test_only_bytes_are_sent(ends: Ends, wrong: object) -> None:
    stream, theirs = ends
    with pytest.raises(TypeError):
        stream.send_bytes(b"good", wrong)  # type: ignore[arg-type]
    stream.send_bytes(b"x")
    assert read_exactly(theirs, 5) == short_form(b"x")


def test_several_frames_that_arrive_together(ends: Ends) -> None:
    stream, theirs = ends
    bodies = [os.urandom(n) for n in (5, 0, 300, 1, 3000, 2)]
    theirs.sendall(b"".join(map(short_form, bodies)))
    assert [stream.recv_bytes() for _ in bodies] == bodies
    assert not stream.poll()


def test_frames_cut_at_every_byte(ends: Ends) -> None:
    stream, theirs = ends
    bodies = [b"first", b"", b"third!"]
    data = short_form(bodies[0]) + short_form(bodies[1]) + long_form(bodies[2])
    cuts = range(len(data) + 1)
    read: list[bytes] = []

    def reader() -> None:
        for _ in range(len(cuts) * len(bodies)):
            read.append(stream.recv_bytes())

    thread = threading.Thread(target=reader, daemon=True)
    thread.start()
    for cut in cuts:
        theirs.sendall(data[:cut])
        poll(lambda: unread(stream) == 0, "the first part is read")
        theirs.sendall(data[cut:])
        poll(lambda: unread(stream) == 0, "the second part is read")
    thread.join(DEADLINE)
    assert read == bodies * len(cuts)


def test_big_frames_both_ways_at_once(ends: Ends) -> None:
    stream, theirs = ends
    peer = Stream(theirs.detach())
    bodies = [os.urandom(n) for n in (3 << 20, 5, (1 << 20) + 1)]

    def echo() -> None:
        for _ in bodies:
            peer.send_bytes(peer.recv_bytes())

    thread = threading.Thread(target=echo, daemon=True)
    thread.start()
    for body in bodies:
        stream.send_bytes(body)
        assert stream.recv_bytes() == body
    thread.join(DEADLINE)
    peer.close()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40) | st.integers(0, 9000).map(bytes), max_size=8), st.data())
def test_any_chunks_give_the_same_frames(bodies: list[bytes], data: st.DataObject) -> None:
    wire = b"".join(
        data.draw(st.sampled_from([short_form, long_form]), "form")(body) for body in bodies
    )
    cuts = sorted(data.draw(st.sets(st.integers(0, len(wire)), max_size=12), "cuts"))
    stream, theirs = open_ends()

    def write() -> None:
        with theirs:
            for start, end in pairwise([0, *cuts, len(wire)]):
                theirs.sendall(wire[start:end])

    thread = threading.Thread(target=write)
    thread.start()
    read = []
    with pytest.raises(EOFError):
        while True:
            read.append(stream.recv_bytes())
    thread.join(DEADLINE)
    stream.close()
    assert read == bodies


# What is refused


@pytest.mark.parametrize("form", [short_form, long_form])
@pytest.mark.parametrize("size", [99, 100, 101, 128, 136, 5000])
def test_limit_is_the_largest_body(ends: Ends, form: Callable[[bytes], bytes], size: int) -> None:
    stream, theirs = ends
    stream.set_limit(100)
    theirs.sendall(form(b"x" * size))
    if size <= 100:
        assert len(stream.recv_bytes()) == size
    else:
        with pytest.raises(OSError, match="bad message length"):
            stream.recv_bytes()


def test_limit_of_the_constructor() -> None:
    stream, theirs = open_ends(limit=100)
    with theirs:
        theirs.sendall(short_form(b"x" * 1000))
        with pytest.raises(OSError, match="bad message length"):
            stream.recv_bytes()
    stream.close()


def test_limit_refuses_before_the_body_has_come(ends: Ends) -> None:
    stream, theirs = ends
    stream.set_limit(100)
    theirs.sendall(struct.pack("!i", 1 << 30))
    with pytest.raises(OSError, match="bad message length"):
        stream.recv_bytes()


def test_limit_can_be_lifted(ends: Ends) -> None:
    stream, theirs = ends
    stream.set_limit(4)
    theirs.sendall(short_form(b"four") + short_form(b"x" * 1000))
    assert stream.recv_bytes() == b"four"
    stream.set_limit(0)
    assert stream.recv_bytes() == b"x" * 1000


@pytest.mark.parametrize(
    "prefix",
    [
        struct.pack("!i", -2),
        struct.pack("!i", -(2**31)),
        struct.pack("!iQ", -1, 2**63),
        struct.pack("!iQ", -1, 2**64 - 1),
    ],
)
def test_lengths_that_mean_nothing(ends: Ends, prefix: bytes) -> None:
    stream, theirs = ends
    theirs.sendall(prefix + b"body")
    with pytest.raises(OSError, match="bad message length"):
        stream.recv_bytes()


def test_announced_length_costs_nothing_yet(ends: Ends) -> None:
    stream, theirs = ends
    theirs.sendall(struct.pack("!iQ", -1, 2**62) + b"only this")
    theirs.close()
    with pytest.raises(EOFError):
        stream.recv_bytes()


# The end


def test_end_of_file_wherever_it_comes() -> None:
    wire = long_form(b"some body")
    for cut in range(len(wire)):
        stream, theirs = open_ends()
        theirs.sendall(short_form(b"whole") + wire[:cut])
        theirs.close()
        assert stream.recv_bytes() == b"whole"
        for _ in range(2):
            with pytest.raises(EOFError):
                stream.recv_bytes()
        stream.close()


def test_sending_to_nobody(ends: Ends) -> None:
    stream, theirs = ends
    theirs.close()
    with pytest.raises(BrokenPipeError):
        stream.send_bytes(b"x")


def test_closed_stream_says_so(ends: Ends) -> None:
    stream, _ = ends
    assert not stream.closed
    fd = stream.fileno()
    stream.close()
    assert stream.closed
    uses: list[Callable[[], object]] = [
        stream.recv_bytes,
        lambda: stream.send_bytes(b"x"),
        stream.poll,
        stream.fileno,
        lambda: stream.set_timeout(1),
    ]
    for use in uses:
        with pytest.raises(OSError):
            use()
    with pytest.raises(OSError) as caught:
        os.fstat(fd)
    assert caught.value.errno == errno.EBADF
    stream.close()


def test_dropped_stream_closes_its_descriptor() -> None:
    stream, theirs = open_ends()
    assert not stream.closed
    del stream
    gc.collect()
    assert theirs.recv(1) == b""
    theirs.close()


# Waiting


def test_impatient_receive_ends_in_time(ends: Ends) -> None:
    stream, theirs = ends
    stream.set_timeout(0.02)
    for _ in range(2):
        with pytest.raises(TimeoutError):
            stream.recv_bytes(patient=False)
    theirs.sendall(short_form(b"late"))
    assert stream.recv_bytes(patient=False) == b"late"


def test_impatient_receive_waits_for_a_frame_that_has_begun(ends: Ends) -> None:
    stream, theirs = ends
    stream.set_timeout(0.01)
    theirs.sendall(short_form(b"body")[:3])
    timer = threading.Timer(0.1, theirs.sendall, (short_form(b"body")[3:],))
    timer.start()
    assert stream.recv_bytes(patient=False) == b"body"
    timer.join(DEADLINE)


def test_patient_receive_outlasts_the_timeout(ends: Ends) -> None:
    stream, theirs = ends
    stream.set_timeout(0.01)
    timer = threading.Timer(0.1, theirs.sendall, (short_form(b"body"),))
    timer.start()
    assert stream.recv_bytes() == b"body"
    timer.join(DEADLINE)


def test_timeout_can_be_taken_back(ends: Ends) -> None:
    stream, theirs = ends
    stream.set_timeout(0.01)
    stream.set_timeout(0)
    timer = threading.Timer(0.1, theirs.sendall, (short_form(b"body"),))
    timer.start()
    assert stream.recv_bytes(patient=False) == b"body"
    timer.join(DEADLINE)


def test_poll(ends: Ends) -> None:
    stream, theirs = ends
    assert stream.poll() is False
    assert stream.poll(0.01) is False
    theirs.sendall(short_form(b"one") + short_form(b"two"))
    assert stream.poll() is True
    assert stream.recv_bytes() == b"one"
    assert stream.poll() is True  # nothing is left in the kernel, but in the buffer
    assert unread(stream) == 0
    assert stream.recv_bytes() == b"two"
    assert stream.poll() is False
    timer = threading.Timer(0.05, theirs.sendall, (b"\0",))
    timer.start()
    assert stream.poll(DEADLINE) is True
    timer.join(DEADLINE)


def test_poll_sees_the_end(ends: Ends) -> None:
    stream, theirs = ends
    theirs.close()
    assert stream.poll() is True
    with pytest.raises(EOFError):
        stream.recv_bytes()


def test_poll_for_a_negative_time_does_not_wait(ends: Ends) -> None:
    """As in the stdlib; poll(2) itself would wait for ever."""
    stream, _ = ends
    assert in_thread(stream.poll, -1.0) is False


# Signals


def test_handlers_run_while_receiving(ends: Ends, alarms: Callable[[Handler], None]) -> None:
    stream, theirs = ends
    calls = 0

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            theirs.sendall(short_form(b"sent by the handler"))

    alarms(handler)
    assert stream.recv_bytes() == b"sent by the handler"
    assert calls >= 3


def test_interrupted_receive_loses_nothing(ends: Ends, alarms: Callable[[Handler], None]) -> None:
    stream, theirs = ends
    with pytest.raises(KeyboardInterrupt):
        alarms(interrupt)
        stream.recv_bytes()
    theirs.sendall(short_form(b"in two parts")[:7])
    with pytest.raises(KeyboardInterrupt):
        alarms(interrupt)
        stream.recv_bytes()
    theirs.sendall(short_form(b"in two parts")[7:])
    assert stream.recv_bytes() == b"in two parts"


def test_handlers_run_while_sending(ends: Ends, alarms: Callable[[Handler], None]) -> None:
    stream, theirs = ends
    body = os.urandom(4 << 20)
    readers: list[threading.Thread] = []
    read: list[bytes] = []
    calls = 0

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            readers.append(
                threading.Thread(
                    target=lambda: read.append(read_exactly(theirs, len(body) + 4)), daemon=True
                )
            )
            readers[0].start()

    alarms(handler)
    stream.send_bytes(body)
    signal.setitimer(signal.ITIMER_REAL, 0)
    readers[0].join(DEADLINE)
    assert read == [short_form(body)]


def test_interrupted_send(ends: Ends, alarms: Callable[[Handler], None]) -> None:
    stream, _ = ends
    with pytest.raises(KeyboardInterrupt):
        alarms(interrupt)
        stream.send_bytes(b"x" * (4 << 20))


def test_signals_do_not_shorten_poll(ends: Ends, alarms: Callable[[Handler], None]) -> None:
    """PEP 475: a wait goes on after a signal whose handler returns."""
    stream, theirs = ends
    calls = 0

    def handler(_number: int, _frame: FrameType | None) -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            theirs.sendall(b"\0")

    alarms(handler)
    assert stream.poll(DEADLINE) is True
    assert calls >= 3
