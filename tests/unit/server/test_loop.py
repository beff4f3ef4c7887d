"""The loop: how it waits, and that nobody stops the others."""

from __future__ import annotations

import sys
import threading

import pytest
from support import DEADLINE, FastPeer
from support.frames import HEADER, OP_CALL, OP_RETURN
from support.servers import RawManager

from fastmgr.wire import codec


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_poller_is_the_one_asked_for(
    raw_manager: RawManager, request: pytest.FixtureRequest
) -> None:
    uses_epoll = any("eventpoll" in link for link in raw_manager.OddTypes().descriptors())
    assert uses_epoll is ("default" in request.node.callspec.id)


def test_many_requests_in_one_write(peer: FastPeer) -> None:
    handle = peer.create("list")
    body = b"".join(map(codec.dumps, ("append", (1,), None)))
    frames = b"".join(
        HEADER.pack(len(body), handle, call, 0, OP_CALL, 0) + body for call in range(500)
    )
    sender = threading.Thread(target=peer.sock.sendall, args=(frames,))
    sender.start()
    assert [peer.recv().call for _ in range(500)] == list(range(500))
    sender.join(DEADLINE)
    assert peer.method(handle, "__len__").payload == 500


def test_replies_that_nobody_reads_stop_no_one_else(
    peer: FastPeer, raw_manager: RawManager
) -> None:
    with FastPeer(raw_manager.address) as lazy:
        handle = lazy.create("list", ["x" * 1000] * 1000)
        calls = [lazy.send(OP_CALL, b"".join(map(codec.dumps, ("#GETVALUE", (), None))), handle)]
        calls += [
            lazy.send(OP_CALL, b"".join(map(codec.dumps, ("__len__", (), None))), handle)
            for _ in range(3)
        ]
        assert peer.control("dummy").op == OP_RETURN
        other = peer.create("list", [5])
        assert peer.method(other, "pop").payload == 5
        replies = [lazy.recv() for _ in calls]
        assert [reply.call for reply in replies] == calls
        assert [reply.payload for reply in replies[1:]] == [1000] * 3
        assert len(replies[0].payload) == 1000
