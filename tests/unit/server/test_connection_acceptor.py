"""Where connections arrive: each proves the key, in time and in small frames, or is closed."""

from __future__ import annotations

import contextlib
import struct
from typing import Any

import pytest
from support import KEY, RawPeer, poll

from fastmgr.link.handshake import FAILURE


def test_the_key_has_to_be_proved_in_time(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that has proved it may then take its time."""
    monkeypatch.setattr(serving, "handshake_timeout", 0.2)
    with RawPeer(serving.address) as silent, RawPeer(serving.address) as proven:
        proven.login()
        assert len(silent.frames_until_eof()) == 1  # the challenge
        assert proven.call(None, "dummy") == ("#RETURN", None)


@pytest.mark.parametrize("key", [b"another", KEY[:-1]])
def test_another_key_is_refused(key: bytes, serving: Any) -> None:
    with RawPeer(serving.address) as stranger:
        assert stranger.answer(key) == FAILURE
        assert stranger.frames_until_eof() == []


def test_strangers_send_small_frames_alone(serving: Any) -> None:
    with RawPeer(serving.address) as stranger:
        stranger.recv_frame()
        stranger.sock.sendall(struct.pack("!i", 257))
        assert stranger.frames_until_eof() == []


def test_who_has_not_proved_the_key_is_no_client(serving: Any) -> None:
    loop = serving._engine.loop
    with contextlib.closing(RawPeer(serving.address).sock):
        poll(lambda: len(loop.conns) == 2, "it is accepted, beside this process's own")
        assert loop.has_clients()
    poll(lambda: len(loop.conns) == 1, "it is gone")
