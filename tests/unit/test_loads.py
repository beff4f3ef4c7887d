"""What one client asks for in bulk: others are served all the same, and nothing is kept of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from support import KEY, ProbeManager, stopped
from test_server import HEADER, ONEWAY, OP_CALL, OP_FAILED, OP_RETURN, FastPeer, hooked

from fastmgr import _core, _wire
from fastmgr.managers import Server

GET_N = b"".join(map(_wire.dumps, ("get", ("n",), None)))


@pytest.fixture(scope="module")
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


def call(handle: int, name: str, *args: Any) -> bytes:
    """A call that gets no reply."""
    body = b"".join(map(_wire.dumps, (name, args, None)))
    return HEADER.pack(len(body), handle, 0, 0, OP_CALL, ONEWAY) + body


def test_flood_of_calls_lets_others_through(manager: ProbeManager) -> None:
    slow, counts = manager.list([*range(20_000)]), manager.dict(n=0, m=0)
    slow_handle, handle = int(slow._id, 16), int(counts._id, 16)
    turn = call(slow_handle, "count", -1) + call(handle, "incr", "n")
    flood = turn * (50_000 // len(turn))
    with contextlib.ExitStack() as stack:
        first, flooding, last = (stack.enter_context(FastPeer(manager.address)) for _ in range(3))
        # The server's buffer for it grows to what it keeps.
        flooding.sock.sendall(call(handle, "incr", "m") * 5000)
        flooding.ask(OP_CALL, "get", ("m",), None, handle=handle)
        with stopped(manager._process.pid):
            # Whichever way round the server hears of them, one comes after the flood.
            first.send(OP_CALL, GET_N, handle)
            flooding.sock.sendall(flood)
            last.send(OP_CALL, GET_N, handle)
        made = max(first.recv().payload, last.recv().payload)
        assert made < len(flood) // len(turn) // 4, f"{made} calls came first"
        all_made = flooding.ask(OP_CALL, "get", ("n",), None, handle=handle).payload
        assert all_made == len(flood) // len(turn)


def test_only_the_failure_that_is_told_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def format_exc() -> str:
        written.append(1)
        return "a traceback"

    monkeypatch.setattr(_core, "format_exc", format_exc)
    with hooked(Server) as manager, FastPeer(manager.address) as peer:
        handle = peer.create("dict")
        peer.sock.sendall(call(handle, "no such method") * 50)
        peer.send(OP_CALL, GET_N, handle)
        assert peer.recv().op == OP_FAILED
        assert peer.recv().op == OP_RETURN
    assert len(written) == 1
