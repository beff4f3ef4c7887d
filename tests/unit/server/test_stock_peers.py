"""Requests in the stdlib's dialect, with a connection and calls that are made up here."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, cast

import pytest

from fastmgr.server.calls import Calls
from fastmgr.server.stock_peers import Hooks, StockPeers


class Peer:
    """A connection on which requests lie; it notes the replies, and may refuse some."""

    def __init__(self, *requests: Any, refuses: tuple[type, ...] = ()) -> None:
        self.requests = list(requests)
        self.refuses = refuses
        self.replies: list[tuple[str, Any]] = []
        self.closed = False

    def recv(self) -> Any:
        if not self.requests:
            raise EOFError
        request = self.requests.pop(0)
        if isinstance(request, Exception):
            raise request
        return request

    def send(self, message: tuple[str, Any]) -> None:
        if isinstance(message[1], self.refuses):
            raise TypeError("cannot be pickled")
        self.replies.append(message)

    def close(self) -> None:
        self.closed = True


class FakeServer:
    """A server's functions, of which each answers with its arguments."""

    registry: dict[str, Any] = {}  # noqa: RUF012

    def __init__(self) -> None:
        self.stop_event = threading.Event()

    def public_function(self, name: str) -> Callable[..., Any]:
        if name == "unknown":
            raise ValueError("unrecognized")
        return lambda c, *args, **kwds: (name, args, kwds)


class FakeCalls:
    def call(self, c: Any, conn: Any, ident: Any, name: Any, args: Any, kwds: Any) -> Any:
        assert conn is None  # the connection is none of the loop's
        return "#RETURN", (ident, name, args, kwds)


@pytest.fixture
def hooks() -> FakeServer:
    return FakeServer()


@pytest.fixture
def stock_peers(hooks: FakeServer) -> StockPeers:
    return StockPeers(cast(Hooks, hooks), cast(Calls, FakeCalls()))


def test_the_first_request_is_for_a_public_function(stock_peers: StockPeers) -> None:
    stock_peers.answer_request(peer := Peer((None, "get_methods", (1,), {"b": 2})))
    assert peer.replies == [("#RETURN", ("get_methods", (1,), {"b": 2}))]


@pytest.mark.parametrize("request_", [(None, "unknown", (), {}), "no request", ImportError("x")])
def test_a_request_that_fails_is_told(request_: Any, stock_peers: StockPeers) -> None:
    stock_peers.answer_request(peer := Peer(request_))
    ((kind, text),) = peer.replies
    assert kind == "#TRACEBACK"
    assert text.startswith("Traceback")


def test_a_result_that_cannot_be_sent_is_told(stock_peers: StockPeers) -> None:
    stock_peers.answer_request(peer := Peer((None, "dummy", (), {}), refuses=(tuple,)))
    ((kind, text),) = peer.replies
    assert kind == "#TRACEBACK"
    assert "cannot be pickled" in text


def test_functions_that_reply_by_themselves_get_no_second_reply(
    stock_peers: StockPeers, hooks: FakeServer
) -> None:
    hooks.stop_event.set()
    for name in ("accept_connection", "shutdown"):
        stock_peers.answer_request(peer := Peer((None, name, (), {})))
        assert peer.replies == []
    stock_peers.answer_request(peer := Peer())  # nor does a peer that has gone
    assert peer.replies == []


def test_calls_are_served_until_the_peer_has_gone(stock_peers: StockPeers) -> None:
    """Also behind one that cannot be read."""
    peer = Peer(("1f", "pop", (0,), {}), ImportError("of a class"), ("1f", "copy", (), {}))
    with pytest.raises(SystemExit) as left:
        stock_peers.serve_client(peer)
    assert left.value.code == 0
    assert [kind for kind, _ in peer.replies] == ["#RETURN", "#TRACEBACK", "#RETURN"]
    assert peer.replies[2][1] == ("1f", "copy", (), {})


def test_a_reply_that_cannot_be_sent_is_told_and_the_next_call_served(
    stock_peers: StockPeers,
) -> None:
    peer = Peer(("1f", "pop", (), {}), ("1f", "pop", (), {}), refuses=(tuple,))
    with pytest.raises(SystemExit):
        stock_peers.serve_client(peer)
    assert [kind for kind, _ in peer.replies] == ["#UNSERIALIZABLE"] * 2
    assert not peer.closed


def test_a_peer_that_reads_no_more_is_given_up(stock_peers: StockPeers) -> None:
    peer = Peer(("1f", "pop", (), {}), ("1f", "pop", (), {}), refuses=(tuple, str))
    with pytest.raises(SystemExit) as left:
        stock_peers.serve_client(peer)
    assert (left.value.code, peer.closed, len(peer.requests)) == (1, True, 1)


def test_a_server_that_stops_serves_no_more_calls(
    stock_peers: StockPeers, hooks: FakeServer
) -> None:
    hooks.stop_event.set()
    stock_peers.serve_client(peer := Peer(("1f", "pop", (), {})))
    assert peer.replies == []
