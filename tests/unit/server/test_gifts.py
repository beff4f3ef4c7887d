"""Calls that wait, and what becomes of what a reply gave to a client that did not read it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from support import FastPeer, poll
from support.frames import HEADER, OP_CALL, OP_GOODBYE, OP_RETURN
from support.servers import await_place, conns_of

from fastmgr.server.connection import Conn, Place
from fastmgr.wire.codec import dumps

FOLLOWS = 4


@pytest.fixture
def peers(serving: Any) -> Iterator[tuple[FastPeer, FastPeer]]:
    """Two clients: one that leaves, and one that is to have what that one did not take."""
    poll(lambda: not conns_of(serving), "no other peer is there")
    with FastPeer(serving.address) as leaving, FastPeer(serving.address) as staying:
        yield leaving, staying


def ask(peer: FastPeer, handle: int, name: str, *args: Any, flags: int = 0) -> int:
    """Send a call, and read no reply."""
    return peer.send(OP_CALL, dumps(name) + dumps(args) + dumps(None), handle, flags)


def leave(peer: FastPeer, server: Any, untaken: int) -> None:
    """Say goodbye, with the first call whose reply the client has not read; 0 for none."""
    peer.sock.sendall(HEADER.pack(0, 0, untaken, 0, OP_GOODBYE, 0))
    assert peer.ended()
    poll(lambda: len(conns_of(server)) == 1, "it has left")


@pytest.mark.parametrize("read", [True, False])
def test_a_lock_goes_back_with_an_unread_reply(
    read: bool, peers: tuple[FastPeer, FastPeer], serving: Any
) -> None:
    leaving, staying = peers
    lock = staying.create("Lock")
    call = ask(leaving, lock, "acquire")
    assert leaving.recv().payload is True
    leave(leaving, serving, 0 if read else call)
    assert staying.method(lock, "acquire", False).payload is not read


@pytest.mark.parametrize("read", range(4))
def test_items_that_were_not_read_are_first_again(
    read: int, peers: tuple[FastPeer, FastPeer], serving: Any
) -> None:
    leaving, staying = peers
    queue = staying.create("Queue")
    for item in range(4):
        staying.method(queue, "put", item)
    calls = [ask(leaving, queue, "get", flags=FOLLOWS if n else 0) for n in range(3)]
    assert [leaving.recv().payload for _ in calls] == [0, 1, 2]
    leave(leaving, serving, [*calls, 0][read])
    rest = [staying.method(queue, "get").payload for _ in range(4 - read)]
    assert rest == list(range(read, 4))


def test_what_the_next_request_shows_to_be_read_stays(
    peers: tuple[FastPeer, FastPeer], serving: Any
) -> None:
    leaving, staying = peers
    lock = staying.create("Lock")
    call = ask(leaving, lock, "acquire")
    leaving.recv()
    assert leaving.method(lock, "locked").op == OP_RETURN
    leave(leaving, serving, call)
    assert staying.method(lock, "acquire", False).payload is False


def test_a_reference_goes_back_with_an_unread_reply(
    peers: tuple[FastPeer, FastPeer], serving: Any
) -> None:
    leaving, _staying = peers
    handle = leaving.create("list")
    assert handle in serving.table.entries
    leave(leaving, serving, leaving.calls)
    assert handle not in serving.table.entries


def conn_that_waits(server: Any) -> Conn:
    (conn,) = [conn for conn in conns_of(server) if conn.waiter is not None]
    return conn


def test_a_wait_ends_with_its_client_and_takes_nothing(
    peers: tuple[FastPeer, FastPeer], serving: Any
) -> None:
    leaving, staying = peers
    queue = staying.create("Queue")
    ask(leaving, queue, "get")
    poll(lambda: any(conn.waiter for conn in conns_of(serving)), "its call waits")
    conn = conn_that_waits(serving)
    await_place(conn, Place.PARKED)
    leaving.sock.close()
    await_place(conn, Place.CLOSED)
    assert conn.waiter is None
    staying.method(queue, "put", "kept")
    assert staying.method(queue, "get", False).payload == "kept"


def test_waits_end_in_the_order_in_which_they_began(
    peers: tuple[FastPeer, FastPeer], serving: Any
) -> None:
    first, second = peers
    queue = first.create("Queue")
    for waiting, peer in enumerate((first, second), 1):
        ask(peer, queue, "get")
        poll(
            lambda waiting=waiting: (
                sum(conn.place == Place.PARKED for conn in conns_of(serving)) == waiting
            ),
            "its call waits",
        )
    for item in itertools.islice("ab", 2):
        serving.table.lookup(queue).obj.put(item)
    assert [first.recv().payload, second.recv().payload] == ["a", "b"]
