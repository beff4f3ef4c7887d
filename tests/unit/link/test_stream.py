"""Streams: their ends, their patience, and signals while they read and write."""

from __future__ import annotations

import errno
import gc
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType

import pytest
from support import DEADLINE, in_thread
from support.streams import Ends, long_form, open_ends, read_exactly, short_form, unread

Handler = Callable[[int, FrameType | None], object]


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
