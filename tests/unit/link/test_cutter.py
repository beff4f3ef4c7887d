"""Bytes are cut into the frames they were sent as, however they arrive, and within their limit."""

from __future__ import annotations

import os
import struct
import threading
from collections.abc import Callable
from itertools import pairwise
from multiprocessing.connection import Connection

import pytest
from hypothesis import given, settings, strategies as st
from support import DEADLINE, poll
from support.streams import Ends, long_form, open_ends, read_exactly, short_form, unread

from fastmgr.link.stream import Stream

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
