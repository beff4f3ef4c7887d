"""One connection, with a peer that the test plays itself."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support.resp import aggregate, blob, number
from support.waiting import DEADLINE, in_thread

from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.errors import (
    ConnectionLost,
    PipelineError,
    ProtocolError,
    ReplyError,
)
from fastmgr.engines.valkey.resp import encoded

PUSH = aggregate(">", [blob(b"message"), blob(b"news")])


@pytest.fixture
def pair() -> Iterator[tuple[Connection, socket.socket]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(DEADLINE)
    connection = Connection(ours, "the test's server")
    with theirs:
        yield connection, theirs
    connection.close()


Pair = tuple[Connection, socket.socket]


def test_a_call_and_its_reply(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"+PONG\r\n")
    assert connection.call(["PING"]) == b"PONG"
    assert peer.recv(100) == encoded(["PING"])
    assert connection.usable and not connection.busy
    assert repr(connection) == "<Connection with the test's server, usable>"


def test_an_error_reply_is_a_value(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"-ERR no\r\n+next\r\n")
    assert connection.call(["A"]) == ReplyError(b"ERR no")
    assert connection.call(["B"]) == b"next"


def test_words_that_cannot_be_sent_leave_the_connection_usable(pair: Pair) -> None:
    connection, peer = pair
    with pytest.raises(TypeError, match="not float"):
        connection.call(["A", 0.5])
    with pytest.raises(TypeError, match="not float"):
        connection.pipeline([["A"], ["B", 0.5]])
    peer.sendall(b"+right\r\n")
    assert connection.call(["C"]) == b"right"
    assert peer.recv(100) == encoded(["C"])


def test_a_request_and_a_reply_larger_than_all_buffers(pair: Pair) -> None:
    connection, peer = pair
    text = os.urandom(1 << 20) * 9

    def serve() -> bytes:
        request, whole = b"", len(encoded(["ECHO", text]))
        while len(request) < whole:
            request += peer.recv(1 << 20)
        peer.sendall(blob(text).spelled)
        return request

    served: list[bytes] = []
    thread = threading.Thread(target=lambda: served.append(serve()))
    thread.start()
    assert connection.call(["ECHO", text]) == text
    thread.join(DEADLINE)
    assert served == [encoded(["ECHO", text])]


# -- pipelines and pushes -------------------------------------------------------------


def test_a_pipeline(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b":1\r\n" + PUSH.spelled + b"-ERR x\r\n" + number(3).spelled)
    requests = [["INCR", "a"], ["B"], ["INCR", "c"]]
    assert connection.pipeline(requests) == [1, ReplyError(b"ERR x"), 3]
    assert peer.recv(200) == encoded(*requests)
    assert connection.pushes == [PUSH.parsed]
    assert connection.pipeline([]) == []


def test_a_pipeline_sends_and_receives_by_turns(pair: Pair) -> None:
    """The peer reads no further while nobody reads what it has replied, as servers may do."""
    connection, peer = pair
    count, text = 3000, b"x" * 5000
    one = encoded(["ECHO", text])

    def serve() -> None:
        waiting = 0
        for _ in range(count):
            while waiting < len(one):
                waiting += len(peer.recv(len(one) - waiting))
            waiting = 0
            peer.sendall(blob(text).spelled)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    replies = connection.pipeline([["ECHO", text]] * count, DEADLINE)
    assert replies == [text] * count
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_pushes_are_waited_for(pair: Pair) -> None:
    connection, peer = pair
    assert connection.push(0.01) is None
    peer.sendall(PUSH.spelled * 2)
    connection.send(["SUBSCRIBE", "news"])
    assert connection.push() == PUSH.parsed
    assert connection.push() == PUSH.parsed
    assert connection.push(0.01) is None
    assert connection.usable
    peer.close()
    with pytest.raises(ConnectionLost):
        connection.push()


# -- what goes wrong --------------------------------------------------------------------


def test_a_connection_that_was_closed_before_the_call(pair: Pair) -> None:
    connection, peer = pair
    peer.close()
    for _ in range(2):
        with pytest.raises(ConnectionLost, match="the call was not made") as caught:
            connection.call(["PING"])
        assert caught.value.applied is False
        assert not connection.usable


def test_a_request_that_cannot_be_sent(pair: Pair) -> None:
    connection, peer = pair
    peer.shutdown(socket.SHUT_RD)
    with pytest.raises(ConnectionLost, match=r"Broken pipe.*the call was not made") as caught:
        connection.call(["PING"])
    assert caught.value.applied is False


def test_the_last_words_of_a_server_are_told(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"-ERR too many clients\r\n")
    peer.shutdown(socket.SHUT_RD)
    with pytest.raises(ConnectionLost, match=r"ERR too many clients.*the call was not made"):
        connection.call(["HELLO", 3])


@pytest.mark.parametrize("reply", [b"", b":1", b"$5\r\nabc", b"*2\r\n:1\r\n"])
def test_a_connection_that_is_cut_before_the_reply(reply: bytes, pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(reply)
    peer.shutdown(socket.SHUT_WR)
    # The connection must look alive when the request is sent.
    if not reply:
        peer.close()
        connection, peer = replaced(connection)
        thread = threading.Thread(target=lambda: (peer.recv(100), peer.close()))
        thread.start()
    with pytest.raises(ConnectionLost, match="it may have been applied") as caught:
        connection.call(["INCR", "a"])
    assert caught.value.applied is None
    assert not connection.usable


def replaced(connection: Connection) -> tuple[Connection, socket.socket]:
    connection.close()
    ours, theirs = socket.socketpair()
    return Connection(ours, "the test's server"), theirs


def test_a_pipeline_that_is_cut(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b":1\r\n:2\r\n")
    peer.shutdown(socket.SHUT_WR)
    with pytest.raises(PipelineError, match="2 of 5 calls") as caught:
        connection.pipeline([["INCR", "a"]] * 5)
    assert caught.value.results == [1, 2]
    assert caught.value.unknown == range(2, 5)
    assert caught.value.applied is None
    assert not connection.usable


def test_a_reply_that_is_no_resp3(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(ProtocolError):
        connection.call(["PING"])
    assert not connection.usable


@pytest.mark.parametrize("sent", [b"", b"$9\r\nabc"])
def test_a_deadline(sent: bytes, pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(sent)
    with pytest.raises(TimeoutError, match="the test's server did not answer in time"):
        connection.call(["PING"], 0.05)
    assert not connection.usable


def test_a_deadline_of_a_pipeline_whose_peer_reads_nothing(pair: Pair) -> None:
    connection, _ = pair
    with pytest.raises(PipelineError, match=r"in time; 0 of 2 calls"):
        connection.pipeline([["SET", "a", b"x" * (1 << 22)]] * 2, 0.05)


def test_another_thread_closes_the_connection(pair: Pair) -> None:
    connection, peer = pair
    caught: list[BaseException] = []

    def wait() -> None:
        try:
            connection.call(["BLPOP", "a", 0])
        except ConnectionLost as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    assert in_thread(peer.recv, 100)
    connection.close()
    thread.join(DEADLINE)
    assert len(caught) == 1
    assert connection.fileno() == -1


def test_a_call_within_a_call_is_refused(pair: Pair) -> None:
    connection, peer = pair
    peer.sendall(b"+right\r\n")

    class Calling:
        def __len__(self) -> int:
            return 1

        def __iter__(self) -> Iterator[str]:
            assert connection.busy
            with pytest.raises(RuntimeError, match="under way"):
                connection.call(["INNER"])
            yield "OUTER"

    words: Any = Calling()
    assert connection.call(words) == b"right"
    assert peer.recv(100) == encoded(["OUTER"])


class Interrupted(Exception):
    """What the handler of a signal raises."""


def test_a_signal_ends_a_call_and_the_connection(pair: Pair) -> None:
    connection, _ = pair

    def interrupt(*_: Any) -> None:
        raise Interrupted

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(Interrupted):
            connection.call(["BLPOP", "a", 0])
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert not connection.usable and not connection.busy


def test_a_signal_whose_handler_returns_ends_nothing(pair: Pair) -> None:
    connection, peer = pair
    before = signal.signal(signal.SIGALRM, lambda *_: peer.sendall(b"+right\r\n"))
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        assert connection.call(["BLPOP", "a", 0]) == b"right"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
