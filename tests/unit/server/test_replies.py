"""Replies: sent together, left to a worker where they need pickle, and not given at all."""

from __future__ import annotations

import queue
from typing import Any

import pytest
from support import FastPeer
from support.frames import HEADER, ONEWAY, OP_CALL, OP_ERROR, OP_FAILED, OP_RETURN
from support.servers import await_place, conn_of

from fastmgr.server.connection import Place
from fastmgr.server.process import Workers
from fastmgr.wire.codec import dumps


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the jobs that workers get."""
    names: list[str] = []
    submit = Workers.submit

    def note(self: Workers, function: Any, name: str, *args: Any) -> None:
        names.append(name)
        submit(self, function, name, *args)

    monkeypatch.setattr(Workers, "submit", note)
    return names


def frame(peer: FastPeer, handle: int, name: str, *args: Any, flags: int = 0) -> bytes:
    peer.calls += 1
    body = dumps(name) + dumps(args) + dumps(None)
    return HEADER.pack(len(body), handle, peer.calls, 0, OP_CALL, flags) + body


def test_replies_to_frames_that_came_together_go_together(peer_here: FastPeer) -> None:
    handle = peer_here.create("list", [1, 2, 3])
    peer_here.sock.sendall(b"".join(frame(peer_here, handle, "pop") for _ in range(3)))
    data = peer_here.sock.recv(1 << 16)
    assert len(data) % 3 == 0
    one = len(data) // 3
    ends = [data[at : at + one] for at in range(0, len(data), one)]
    assert [HEADER.unpack_from(end)[2] for end in ends] == [peer_here.calls - n for n in (2, 1, 0)]


def test_a_worker_encodes_a_result_that_needs_pickle(
    peer_here: FastPeer, submitted: list[str], serving: Any
) -> None:
    handle = peer_here.create("list", [[]])
    shared = serving.table.lookup(handle).obj
    shared += shared  # the inner list occurs twice
    inner, same = peer_here.method(handle, "#GETVALUE").payload
    assert inner is same
    assert submitted == ["by hand"]
    await_place(conn_of(serving), Place.LOOP)


def test_the_loop_encodes_an_error_that_says_nothing(
    peer_here: FastPeer, submitted: list[str]
) -> None:
    reply = peer_here.method(peer_here.create("Queue"), "get", False)
    assert (reply.op, type(reply.payload)) == (OP_ERROR, queue.Empty)
    assert submitted == []


def test_the_first_failure_of_calls_without_a_reply_is_told_before_the_next(
    peer_here: FastPeer,
) -> None:
    handle = peer_here.create("list", [5])
    for index in (7, 8, 9):
        peer_here.sock.sendall(frame(peer_here, handle, "no such method", index, flags=ONEWAY))
    peer_here.send(OP_CALL, dumps("pop") + dumps(()) + dumps(None), handle)
    size, failures, _call, _method, op, _flags = HEADER.unpack(peer_here._read(HEADER.size))
    assert (op, failures) == (OP_FAILED, 3)
    text = peer_here._read(size)
    assert f"list.no such method() of object {handle:x}".encode() in text
    reply = peer_here.recv()
    assert (reply.op, reply.call, reply.payload) == (OP_RETURN, peer_here.calls, 5)
    assert peer_here.method(handle, "__len__").op == OP_RETURN  # it is told once
