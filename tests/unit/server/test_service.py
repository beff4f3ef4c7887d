"""What becomes of a connection: welcomed or not, handed to a worker, and returned."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from support import KEY, FastPeer, RawPeer, poll
from support.frames import OP_RETURN
from support.servers import await_place, conn_of

from fastmgr.link.handshake import prove
from fastmgr.link.introduction import SESSION_ID_SIZE, Introducer
from fastmgr.server.connection import Place


class Named:
    """A user's object that says on which thread it is called."""

    def thread(self) -> str:
        return threading.current_thread().name


def test_an_introduction_of_another_handshake_is_not_answered(serving: Any) -> None:
    sessions = len(serving.table.sessions)
    with RawPeer(serving.address) as stranger:
        stranger.login()
        introducer = Introducer(os.urandom(SESSION_ID_SIZE), "by hand")
        other = os.urandom(40)
        stranger.send_frame(
            introducer.introduce(lambda role, said: prove(KEY, role, other, other, said))
        )
        assert stranger.frames_until_eof() == []
    assert len(serving.table.sessions) == sessions


def test_stock_peers_are_served_unless_that_is_turned_off(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RawPeer(serving.address) as stranger:
        assert stranger.login().call(None, "dummy") == ("#RETURN", None)
    monkeypatch.setenv("FASTMGR_STOCK_PEERS", "off")
    with RawPeer(serving.address) as stranger, pytest.raises(EOFError):
        stranger.login().call(None, "dummy")


def test_sessions_have_places_that_end_with_them(serving: Any) -> None:
    session = os.urandom(SESSION_ID_SIZE)
    with FastPeer(serving.address, session), FastPeer(serving.address, session):
        assert serving.table.sessions[session].connections == 2
    poll(lambda: session not in serving.table.sessions, "the session has ended")


def test_a_worker_serves_users_objects_and_is_pinned(peer_here: FastPeer, serving: Any) -> None:
    serving.registry["Named"] = (Named, None, None, None)
    handle = peer_here.create("Named")
    assert {peer_here.method(handle, "thread").payload for _ in range(3)} == {"by hand"}
    await_place(conn_of(serving), Place.RECEIVING)


def test_a_worker_returns_a_connection_that_idles(peer_here: FastPeer, serving: Any) -> None:
    assert peer_here.control("dummy").op == OP_RETURN  # which the loop does not call
    assert conn_of(serving).place != Place.LOOP
    await_place(conn_of(serving), Place.LOOP)
    assert peer_here.method(peer_here.create("list"), "__len__").payload == 0


def test_an_internal_error_costs_one_connection(
    peer_here: FastPeer, serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(c: Any) -> None:
        raise RuntimeError("on purpose")

    monkeypatch.setattr(serving._engine.stock_peers, "answer_request", fail)
    with RawPeer(serving.address) as stranger, pytest.raises(EOFError):
        stranger.login().call(None, "dummy")
    assert peer_here.control("dummy").op == OP_RETURN
