"""Requests that are cut, claim too much, or are no requests hurt nobody."""

from __future__ import annotations

import contextlib
import random
import struct

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import KEY, FastPeer, RawPeer
from support.frames import (
    ANONYMOUS,
    CARRIED,
    HEADER,
    ONEWAY,
    OP_CALL,
    OP_CONTROL,
    OP_CREATE,
    OP_GOODBYE,
    OP_RELEASE,
    OP_RETURN,
    OP_TRACEBACK,
    PICKLED,
)
from support.servers import RawManager

from fastmgr.managers import Token
from fastmgr.wire import codec


def test_impossible_size(peer: FastPeer, raw_manager: RawManager) -> None:
    for size in (2**64 - 1, 2**64 - 24):
        with FastPeer(raw_manager.address) as other:
            other.sock.sendall(HEADER.pack(size, 0, 1, 0, OP_CALL, 0))
            assert other.ended()
    with FastPeer(raw_manager.address) as other:
        other.sock.sendall(HEADER.pack(2**62, 0, 1, 0, OP_CALL, 0) + b"not so much")
        assert peer.control("dummy").op == OP_RETURN


@pytest.mark.parametrize("op", [OP_CALL, OP_CREATE, OP_CONTROL])
@pytest.mark.parametrize("flags", [0, PICKLED])
def test_truncated_bodies(peer: FastPeer, op: int, flags: int) -> None:
    handle = peer.create("list")
    names = {OP_CALL: "append", OP_CREATE: "list", OP_CONTROL: "dummy"}
    body = b"".join(map(codec.dumps, (names[op], ([1],), None)))
    for end in range(len(body)):
        call = peer.send(op, body[:end], handle, flags)
        reply = peer.recv()
        assert (reply.op, reply.call) == (OP_TRACEBACK, call)
    assert peer.method(handle, "#GETVALUE").payload == []


def test_pickle_that_was_not_announced(peer: FastPeer) -> None:
    """The loop would have to run it."""
    handle = peer.create("list")
    value = codec.dumps(Token("t", "a", "1"))
    body = codec.dumps("append") + value + codec.dumps(None)
    call = peer.send(OP_CALL, body, handle)
    reply = peer.recv()
    assert (reply.op, reply.call) == (OP_TRACEBACK, call)
    assert "pickle" in reply.payload


def test_pickle_that_does_not_load(peer: FastPeer) -> None:
    handle = peer.create("list")
    bad = b"\x80\x04cno.such.module\nname\n."
    body = codec.dumps("append") + codec.dumps(Token("t", "a", "1"))[:1]
    body += struct.pack("<Q", len(bad)) + bad + codec.dumps(None)
    call = peer.send(OP_CALL, body, handle, PICKLED)
    reply = peer.recv()
    assert (reply.op, reply.call) == (OP_TRACEBACK, call)
    assert "ModuleNotFoundError" in reply.payload
    assert peer.method(handle, "__len__").payload == 0


def test_frames_cut_at_every_byte(peer: FastPeer) -> None:
    handle = peer.create("list")
    body = b"".join(map(codec.dumps, ("append", ("text",), None)))
    frame = HEADER.pack(len(body), handle, 7, 0, OP_CALL, 0) + body
    for byte in frame:
        peer.sock.sendall(bytes([byte]))
    assert peer.recv() == (OP_RETURN, 0, 7, None)
    assert peer.method(handle, "#GETVALUE").payload == ["text"]


# Garbage

plain = st.none() | st.integers(-99, 99) | st.text(max_size=5) | st.binary(max_size=5)
plain_values = st.recursive(
    plain,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=5,
)
names = st.sampled_from(["append", "pop", "__getitem__", "list", "dict", "#GETVALUE", "dummy"])
bodies = st.one_of(
    st.binary(max_size=60),
    st.lists(plain_values, max_size=4).map(lambda values: b"".join(map(codec.dumps, values))),
    st.tuples(names, plain_values, plain_values).map(lambda v: b"".join(map(codec.dumps, v))),
)
# An anonymous reference would stay, as it should.
flags = st.integers(0, 255).map(lambda bits: bits & ~ANONYMOUS)
garbage = st.lists(
    st.tuples(st.sampled_from(range(1, 10)), bodies, st.booleans(), flags),
    min_size=1,
    max_size=4,
)


@settings(
    max_examples=250,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(garbage)
@example([(OP_CALL, b"".join(map(codec.dumps, ("count", (1,), None))), True, CARRIED | PICKLED)])
def test_garbage_hurts_nobody(
    peer: FastPeer, raw_manager: RawManager, said: list[tuple[int, bytes, bool, int]]
) -> None:
    """Every request has one reply, or the end of its connection; and others are served."""
    with FastPeer(raw_manager.address) as bad:
        handle = bad.create("list", [1, 2, 3])
        with contextlib.suppress(EOFError, ConnectionError):
            for op, body, real, flags in said:
                call = bad.send(op, body, handle if real else 5, flags)
                expects_reply = op not in (OP_RELEASE, OP_GOODBYE, 9)
                if expects_reply and not (op == OP_CALL and flags & ONEWAY):
                    assert bad.recv_reply().call == call
            call = bad.send(OP_CONTROL, b"".join(map(codec.dumps, ("dummy", (), None))))
            assert bad.recv_reply() == (OP_RETURN, 0, call, None)
            assert OP_GOODBYE not in [op for op, *_ in said]
    assert peer.control("dummy").op == OP_RETURN


def test_only_a_stock_peer_asks_to_be_served(peer: FastPeer) -> None:
    """The reply would come twice, and a worker would read for ever from what cannot be read."""
    refusal = peer.control("accept_connection", "x")
    assert refusal.op == OP_TRACEBACK
    assert "served already" in refusal.payload
    assert peer.control("dummy").op == OP_RETURN


def test_noise_hurts_nobody(peer: FastPeer, raw_manager: RawManager) -> None:
    """Not even frames, at every stage of a connection."""
    rng = random.Random(3)
    for stage in range(90):
        noise = rng.randbytes(rng.randrange(1, 100))
        bad = RawPeer(raw_manager.address)
        with bad, contextlib.suppress(ConnectionError, EOFError):
            if stage % 3 == 1:
                bad.login(KEY)
            elif stage % 3 == 2:
                bad.answer(KEY)
            bad.sock.sendall(noise)
    assert peer.control("dummy").op == OP_RETURN
    handle = peer.create("list", [1])
    assert peer.method(handle, "pop").payload == 1
