"""A connection's life: where it is, and how it ends."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import DEADLINE, in_thread, poll
from support.frames import HEADER, OP_CALL, OP_GOODBYE, SEGMENTED, table
from support.peers import FastPeer
from support.servers import await_place, conn_of, conns_of, with_the_loop_held

from fastmgr.link.stream import Stream
from fastmgr.server.connection import Conn, End, Handler, Place
from fastmgr.server.process import Workers
from fastmgr.wire.codec import dumps

GOODBYE = HEADER.pack(0, 0, 0, 0, OP_GOODBYE, 0)


@pytest.fixture
def conn() -> Iterator[Conn]:
    """A connection of which this thread is the loop."""
    ours, theirs = socket.socketpair()
    stream = Stream(ours.detach())
    yield Conn(stream, Handler())
    stream.close()
    theirs.close()


def has_assertions() -> bool:
    """Whether the package is built with assertions, as `make debug` and `make asan` do."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        try:
            Conn(Stream(os.dup(ours.fileno())), Handler()).to_loop()
        except AssertionError:
            return True
        return False


def go(conn: Conn, *places: str) -> None:
    for place in places:
        getattr(conn, f"to_{place}")()


def test_a_life(conn: Conn) -> None:
    assert (conn.place, conn.end) == (Place.LOOP, End.ALIVE)
    for step, place in [
        ("queue", Place.QUEUED),
        ("loop", Place.LOOP),
        ("worker", Place.WORKER),
        ("loop", Place.LOOP),
        ("closed", Place.CLOSED),
    ]:
        go(conn, step)
        assert conn.place == place
    assert conn.note_end()
    assert not conn.note_end()
    assert conn.end == End.LOST


def test_a_queued_connection_may_be_closed(conn: Conn) -> None:
    go(conn, "queue", "closed")


@pytest.mark.skipif(not has_assertions(), reason="assertions are left out; `make debug` has them")
@pytest.mark.parametrize(
    ("way", "step"),
    [
        ((), "to_loop"),
        ((), "to_parked"),  # no call of it waits
        (("queue",), "to_worker"),
        (("queue",), "to_queue"),
        (("worker",), "to_queue"),
        (("worker",), "to_closed"),  # its stream is the worker's
        (("closed",), "to_loop"),
        (("closed",), "to_worker"),
        (("closed",), "to_closed"),
        (("worker",), "note_hang_up"),  # the worker does not receive
        ((), "note_goodbye"),  # it has said none
    ],
)
def test_no_other_steps(conn: Conn, way: tuple[str, ...], step: str) -> None:
    go(conn, *way)
    before = conn.place
    with pytest.raises(AssertionError):
        getattr(conn, step)()
    assert (conn.place, conn.end) == (before, End.ALIVE)


@pytest.mark.skipif(not has_assertions(), reason="assertions are left out; `make debug` has them")
def test_no_other_thread_moves_it(conn: Conn) -> None:
    with pytest.raises(AssertionError, match="thread"):
        in_thread(conn.to_queue)


# Peers that end, under a server in this process


class Gate:
    """A user's object, whose method runs until it is told to return."""

    began = threading.Semaphore(0)
    ends = threading.Semaphore(0)
    passed = 0

    def walk(self) -> None:
        Gate.began.release()
        assert Gate.ends.acquire(timeout=DEADLINE)
        Gate.passed += 1


@pytest.fixture(scope="module")
def server(serving: Any) -> Any:
    serving.registry["Gate"] = (Gate, None, None, None)
    return serving


@pytest.fixture(scope="module")
def gate(server: Any) -> int:
    """A `Gate` that no session of a peer's holds."""
    ident, _methods = server.create(None, "Gate")
    return int(ident, 16)


@pytest.fixture
def peer(peer_here: FastPeer) -> FastPeer:
    return peer_here


def sessions(server: Any) -> int:
    """How many sessions there are beside that of this process."""
    return len(server.table.sessions) - 1


def ask(peer: FastPeer, handle: int, name: str) -> None:
    """Send a call, and wait for nothing."""
    peer.send(OP_CALL, dumps(name) + dumps(()) + dumps(None), handle)


def walk(peer: FastPeer, handle: int) -> None:
    """Have a worker run a call."""
    ask(peer, handle, "walk")
    assert Gate.began.acquire(timeout=DEADLINE)


def end(peer: FastPeer, goodbye: bool) -> None:
    if goodbye:
        peer.send(OP_GOODBYE)
    peer.sock.close()


HOW_IT_ENDS = [(True, End.IN_ORDER), (False, End.LOST)]


@pytest.mark.parametrize(("goodbye", "how"), HOW_IT_ENDS)
def test_an_end_while_the_loop_reads(goodbye: bool, how: End, peer: FastPeer, server: Any) -> None:
    conn = conn_of(server)
    assert (conn.place, conn.end) == (Place.LOOP, End.ALIVE)
    end(peer, goodbye)
    await_place(conn, Place.CLOSED)
    assert conn.end == how
    assert sessions(server) == 0


@pytest.mark.parametrize(("goodbye", "how"), HOW_IT_ENDS)
def test_an_end_while_a_worker_runs_a_call(
    goodbye: bool, how: End, peer: FastPeer, gate: int, server: Any
) -> None:
    """What the peer held goes back at once; the worker returns the connection later."""
    conn = conn_of(server)
    walk(peer, gate)
    assert (conn.place, conn.end) == (Place.WORKER, End.ALIVE)
    end(peer, goodbye)
    poll(lambda: conn.end == how, "its end is noticed")
    assert conn.place == Place.WORKER
    poll(lambda: sessions(server) == 0, "its session ends")
    Gate.ends.release()
    await_place(conn, Place.CLOSED)
    assert conn.end == how


@pytest.mark.parametrize(("goodbye", "how"), HOW_IT_ENDS)
def test_an_end_while_a_worker_receives(
    goodbye: bool, how: End, peer: FastPeer, gate: int, server: Any
) -> None:
    """What the peer sent before is served."""
    conn = conn_of(server)
    for _ in range(2):
        Gate.ends.release()
    walk(peer, gate)
    peer.recv()
    await_place(conn, Place.RECEIVING)
    before = Gate.passed
    ask(peer, gate, "walk")
    end(peer, goodbye)
    await_place(conn, Place.CLOSED)
    assert (Gate.passed, conn.end) == (before + 1, how)
    assert Gate.began.acquire(timeout=DEADLINE)
    assert sessions(server) == 0


@pytest.mark.parametrize(("goodbye", "how"), HOW_IT_ENDS)
def test_an_end_while_its_call_waits(goodbye: bool, how: End, peer: FastPeer, server: Any) -> None:
    lock = peer.create("Lock")
    conn = conn_of(server)
    peer.method(lock, "acquire")
    ask(peer, lock, "acquire")
    await_place(conn, Place.PARKED)
    end(peer, goodbye)
    await_place(conn, Place.CLOSED)
    assert (conn.end, conn.waiter) == (how, None)


def test_dropped_once(peer: FastPeer, server: Any) -> None:
    """The reply finds the peer gone, and a goodbye comes behind the call."""
    conn = conn_of(server)
    kept = peer.create("list")

    def call_and_leave() -> None:
        ask(peer, kept, "__len__")
        end(peer, goodbye=True)

    with_the_loop_held(server, call_and_leave)
    await_place(conn, Place.CLOSED)
    assert conn.end == End.IN_ORDER
    assert sessions(server) == 0


def test_a_goodbye_is_not_read_out_of_a_body(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a frame that waits for its worker with its buffers, one begins that is cut off."""
    held: list[tuple[Any, ...]] = []
    submit = Workers.submit
    monkeypatch.setattr(Workers, "submit", lambda *job: held.append(job))
    for padding in range(len(GOODBYE)):
        poll(lambda: not conns_of(server), "no other peer is there")
        with FastPeer(server.address) as peer:
            conn = conn_of(server)
            body = table(b"", [b"-" * (1 + padding)]) + b"-" * (1 + padding)
            whole = HEADER.pack(len(body), 0, 1, 0, OP_CALL, SEGMENTED) + body
            cut_off = HEADER.pack(1 << 20, 0, 2, 0, OP_CALL, 0) + GOODBYE * 200
            peer.sock.sendall(whole + cut_off)
        poll(lambda conn=conn: conn.end not in (End.ALIVE, End.HUNG_UP), "its end is noticed")
        assert (conn.end, conn.place) == (End.LOST, Place.WORKER)
        submit(*held.pop())
        await_place(conn, Place.CLOSED)
