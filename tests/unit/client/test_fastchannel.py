"""What a channel of the fast dialect leaves behind on its connection when it ends."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from fastmgr.client.fastchannel import FastChannel
from support.frames import HEADER, OP_GOODBYE
from support.streams import Ends, open_ends


@pytest.fixture
def ends() -> Iterator[Ends]:
    stream, peer = open_ends()
    with peer:
        yield stream, peer


def test_a_channel_that_is_closed_says_goodbye(ends: Ends) -> None:
    stream, peer = ends
    channel = FastChannel(stream)
    assert channel.usable
    channel.close()
    assert not channel.usable
    _handle, _size, _call, _method, op, _flags = HEADER.unpack(peer.recv(1000))
    assert op == OP_GOODBYE
    assert peer.recv(1) == b""


@pytest.mark.parametrize("how", ["close", "drop"])
def test_a_forked_child_says_nothing_on_its_parents_connection(how: str, ends: Ends) -> None:
    stream, peer = ends
    channel = FastChannel(stream)
    pid = os.fork()
    if pid == 0:
        if how == "close":
            channel.close()
        del channel, stream
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    peer.setblocking(False)
    with pytest.raises(BlockingIOError):
        peer.recv(1)
    channel.close()


def test_a_channel_that_is_abandoned_says_nothing(ends: Ends) -> None:
    stream, peer = ends
    channel = FastChannel(stream)
    channel.abandon()
    assert peer.recv(1000) == b""
