"""What goes with a connection, and with the last one of a session."""

from __future__ import annotations

import os
import threading
from typing import Any

import pytest
from support import KEY, FastPeer, ProbeManager, poll, settle, stopped
from support.frames import ANONYMOUS, HEADER, OP_CALL, OP_GOODBYE, OP_RETURN, request
from support.servers import RawManager, await_place, conn_of, conns_of
from support.waiting import DEADLINE

from fastmgr.client.sessions import ClientSession
from fastmgr.link.introduction import SESSION_ID_SIZE
from fastmgr.server.connection import Place
from fastmgr.server.process import Workers
from fastmgr.wire.writer import dumps


def start_no_thread_for_disposals() -> None:
    submit = Workers.submit

    def refuse(self: Workers, function: Any, name: str, *args: Any) -> None:
        if name == "disposal":
            raise RuntimeError("can't start new thread")
        submit(self, function, name, *args)

    Workers.submit = refuse  # type: ignore[method-assign]


def test_a_connection_whose_end_fails_is_closed_all_the_same() -> None:
    manager = ProbeManager(authkey=KEY)
    manager.start(start_no_thread_for_disposals)
    with manager:
        probe = manager.Probe()
        before = probe.descriptors()
        session = ClientSession(manager.address, "pickle", KEY)
        held = session.create("Tracked", (), {}, False)
        assert probe.descriptors() > before
        session.close()
        poll(lambda: probe.descriptors() == before, "it is closed")
        del held


def test_references_go_with_the_last_connection(raw_manager: RawManager) -> None:
    settle(raw_manager, 0)
    session = os.urandom(SESSION_ID_SIZE)
    with FastPeer(raw_manager.address, session) as second:
        with FastPeer(raw_manager.address, session) as first:
            first.create("list")
            first.create("Sleeper")
        assert second.control("number_of_objects").payload == 2
    settle(raw_manager, 0)


def test_anonymous_reference_is_nobodys(raw_manager: RawManager) -> None:
    settle(raw_manager, 0)
    with FastPeer(raw_manager.address) as first:
        handle = first.create("list", flags=ANONYMOUS)
    with FastPeer(raw_manager.address) as second:
        assert second.method(handle, "__len__").payload == 0
        assert second.control("decref", f"{handle:x}").op == OP_RETURN
        assert second.control("number_of_objects").payload == 0


def test_goodbye(peer: FastPeer, raw_manager: RawManager) -> None:
    with FastPeer(raw_manager.address) as other:
        other.create("list")
        other.send(OP_GOODBYE)
        assert other.ended()
    poll(lambda: peer.control("number_of_objects").payload == 0, "its list is gone")


@pytest.mark.parametrize("typeid", ["Lock", "RLock", "Condition", "Semaphore"])
def test_what_is_released_before_a_goodbye_is_free(typeid: str) -> None:
    """As by a thread that an exception has interrupted in the call: its process goes on.

    The loop and the worker hear of the call and of the end at once, and either may come first.
    """
    with ProbeManager(authkey=KEY) as manager:
        for session in (os.urandom(SESSION_ID_SIZE) for _ in range(8)):
            with FastPeer(manager.address, session) as other:
                with FastPeer(manager.address, session) as peer:
                    lock, probe = peer.create(typeid), peer.create("Probe")
                    assert peer.method(lock, "acquire").payload is True
                    assert peer.method(probe, "threads").op == OP_RETURN  # a worker serves it now
                    assert other.method(lock, "locked").payload is True
                    with stopped(manager._process.pid):
                        call = peer.send(OP_CALL, request("release"), lock)
                        peer.sock.sendall(HEADER.pack(0, 0, call, 0, OP_GOODBYE, 0))
                        peer.sock.close()
                poll(lambda: not other.method(lock, "locked").payload, "it is free")  # noqa: B023


@pytest.mark.parametrize("goodbye", [True, False])
def test_what_was_sent_while_the_connection_changed_hands_is_served(
    serving: Any, monkeypatch: pytest.MonkeyPatch, goodbye: bool
) -> None:
    """The loop hears of the end before it takes the connection from the worker that idles."""
    loop, session = serving._engine.loop, os.urandom(SESSION_ID_SIZE)
    held, done = threading.Event(), threading.Event()
    served: list[Any] = []
    monkeypatch.setattr(serving, "dummy", served.append)

    def hold() -> None:
        loop.tick = None
        held.set()
        assert done.wait(DEADLINE)

    poll(lambda: not conns_of(serving), "no other peer is there")
    with FastPeer(serving.address, session) as peer:
        conn = conn_of(serving)
        with FastPeer(serving.address, session) as other:
            with FastPeer(serving.address, session):
                pass  # one of its connections is lost, and the process lives
            lock, kept = peer.create("Lock"), other.create("list")
            assert peer.method(lock, "acquire").payload is True
            assert peer.control("dummy").op == OP_RETURN  # a worker serves it now
            loop.tick = hold
            assert other.method(lock, "locked").payload is True
            assert held.wait(DEADLINE)
            await_place(conn, Place.WORKER)  # which no call makes it: the worker has returned it
            peer.send(OP_CALL, request("append", dumps(1)), kept)
            call = peer.send(OP_CALL, request("release"), lock)
            if goodbye:
                peer.sock.sendall(HEADER.pack(0, 0, call, 0, OP_GOODBYE, 0))
            peer.sock.close()
            done.set()
            poll(lambda: other.method(kept, "__len__").payload == 1, "it is appended")
            await_place(conn, Place.CLOSED)
            assert other.method(lock, "locked").payload is not goodbye
            assert len(served) == 1
