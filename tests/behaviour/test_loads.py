"""What one client asks for in bulk: others are served all the same, and nothing is kept of it."""

from __future__ import annotations

import contextlib
import struct
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    SANITIZED,
    FastPeer,
    ProbeManager,
    RawPeer,
    poll,
    rss_bytes,
    stopped,
)
from support.frames import HEADER, ONEWAY, OP_CALL, OP_FAILED, OP_INCREF, OP_RETURN
from support.servers import hooked

from fastmgr.link.handshake import Challenger
from fastmgr.managers import Server
from fastmgr.wire import codec

SEGMENTS = 16  # the flag
GET_N = b"".join(map(codec.dumps, ("get", ("n",), None)))


@pytest.fixture(scope="module")
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


def call(handle: int, name: str, *args: Any) -> bytes:
    """A call that gets no reply."""
    body = b"".join(map(codec.dumps, (name, args, None)))
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


def test_one_of_those_that_had_their_share_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are served in their next turn all the same."""
    held, go = threading.Event(), threading.Event()

    class Slow(Challenger):
        def feed(self, frame: bytes) -> list[bytes]:
            if frame == b"hold":
                held.set()
                assert go.wait(DEADLINE)
            elif frame == b"slow":
                time.sleep(0.001)
            elif frame == b"fail":
                raise RuntimeError("on purpose")
            else:
                return super().feed(frame)
            return []

    monkeypatch.setattr("fastmgr.server.connection.Challenger", Slow)
    with hooked(Server) as manager, contextlib.ExitStack() as stack:
        peers = [stack.enter_context(RawPeer(manager.address)) for _ in range(4)]
        peers[0].send_frame(b"hold")
        assert held.wait(DEADLINE)
        for peer in peers[1:]:  # all of them come in one turn, and have more for the next
            for _ in range(40):
                peer.send_frame(b"slow")
        peers[2].send_frame(b"fail")
        go.set()
        assert peers[1].answer() == b"#WELCOME#"
        assert peers[3].answer() == b"#WELCOME#"


def test_only_the_failure_that_is_told_is_written_out(monkeypatch: pytest.MonkeyPatch) -> None:
    written = []

    def format_exc() -> str:
        written.append(1)
        return "a traceback"

    monkeypatch.setattr("fastmgr.server.replies.format_exc", format_exc)
    with hooked(Server) as manager, FastPeer(manager.address) as peer:
        handle = peer.create("dict")
        peer.sock.sendall(call(handle, "no such method") * 50)
        peer.send(OP_CALL, GET_N, handle)
        assert peer.recv().op == OP_FAILED
        assert peer.recv().op == OP_RETURN
    assert len(written) == 1


@pytest.mark.parametrize(("count", "size"), [(1_000_000, 0), (200_000, 1_025)])
def test_segments_that_are_only_announced(manager: ProbeManager, count: int, size: int) -> None:
    """An object is made of each: eight bytes had the server keep eighty, or a thousand."""
    pid = manager._process.pid
    handle = int((kept := manager.dict())._id, 16)
    memory = rss_bytes(pid)
    with FastPeer(manager.address) as peer:
        values = b"".join(map(codec.dumps, ("get", (1,), None)))
        table = struct.pack("<QQ", count, len(values)) + struct.pack("<Q", size) * count + values
        header = HEADER.pack(len(table) + count * size, handle, 1, 0, OP_CALL, SEGMENTS)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            peer.sock.sendall(header + table)
        assert peer.ended()
        assert rss_bytes(pid) < memory + 16 * 2**20
    assert len(kept) == 0


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_a_segment_that_grows_as_it_arrives(
    manager: ProbeManager, kind: type[bytes | bytearray]
) -> None:
    held, sent = manager.dict(), kind(range(251)) * 540_000
    held.update(x=sent, y=b"y" * 70_000, z=kind(3))
    assert held["x"] == sent
    assert held["y"] == b"y" * 70_000
    assert held["z"] == kind(3)


@pytest.mark.skipif(SANITIZED, reason="it keeps 256 MB of what is freed (quarantine_size_mb)")
def test_nothing_is_kept_of_what_a_call_has_carried(manager: ProbeManager) -> None:
    pid, size = manager._process.pid, 64 * 2**20
    held = manager.dict()
    memory = rss_bytes(pid)
    held["x"] = bytes(size)
    assert rss_bytes(pid) > memory + size // 2
    del held
    poll(lambda: rss_bytes(pid) < memory + size // 2, "the memory is given back")


def test_others_are_served_beside_a_message_of_junk_handles(manager: ProbeManager) -> None:
    handle = int((shared := manager.dict(n=0))._id, 16)
    with FastPeer(manager.address) as junk, FastPeer(manager.address) as other:
        sent = threading.Event()

        def send() -> None:
            junk.send(OP_INCREF, bytes(8 * 1_000_000))
            sent.set()
            junk.recv()

        thread = threading.Thread(target=send)
        thread.start()
        sent.wait(DEADLINE)
        served = 0
        while thread.is_alive():
            other.ask(OP_CALL, "get", ("n",), None, handle=handle)
            served += 1
        thread.join()
        assert served > 1
    assert shared["n"] == 0
