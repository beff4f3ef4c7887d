"""The stdlib's wire: its names for our classes, its messages, its connections."""

from __future__ import annotations

import array
import gc
import json
import pickle
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator
from multiprocessing import connection, managers as stock
from typing import Any

import pytest
from support import DEADLINE, in_thread

import fastmgr
from fastmgr import managers
from fastmgr.link.stream import Stream
from fastmgr.server.process import Workers
from fastmgr.stock.dialect import (
    SERIALIZERS,
    Idle,
    RemoteError,
    StockConnection,
    Token,
    convert_to_error,
    dispatch,
    listener_client,
    uses_raw_sockets,
)

dumps, loads = SERIALIZERS["pickle"]

# What crosses the wire by name: the ends of both sides must agree on each of these.
BY_NAME = [
    "Token", "RebuildProxy", "AutoProxy", "RemoteError", "Namespace", "Value", "Array",
    "ListProxy", "DictProxy", "IteratorProxy", "AcquirerProxy", "ConditionProxy", "EventProxy",
    "BarrierProxy", "NamespaceProxy", "ValueProxy", "ArrayProxy", "PoolProxy", "BaseProxy",
    "BaseListProxy", "BaseManager", "SyncManager", "MakeProxyType",
]  # fmt: skip

# A stock peer, which must not know of fastmgr: it reads our pickle and writes its own.
PEER = """
import json, pickle, sys
read = pickle.loads(bytes.fromhex(sys.stdin.readline()))
from multiprocessing import managers
from multiprocessing.reduction import ForkingPickler
assert "fastmgr" not in sys.modules
seen = {
    "by name": [[f.__module__, f.__name__] for f in read["by name"]],
    "set": read["set"].__name__,
    "token": [type(read["token"]).__module__, repr(read["token"])],
    "namespace": [type(read["namespace"]).__module__, repr(read["namespace"])],
    "value": [type(read["value"]).__module__, repr(read["value"])],
    "error": [type(read["error"]).__module__, str(read["error"])],
    "plain": repr(read["plain"]),
}
written = {
    "by name": [getattr(managers, f.__name__) for f in read["by name"]],
    "token": managers.Token("list", "/tmp/address", "abc"),
    "namespace": managers.Namespace(x=1, y=[2]),
    "value": managers.Value("i", 7),
    "error": managers.RemoteError("traceback text"),
    "plain": [1, "two", {3: None}],
}
print(json.dumps([seen, bytes(ForkingPickler.dumps(written)).hex()]))
"""


@pytest.fixture(scope="module")
def exchanged() -> tuple[dict[str, Any], dict[str, Any]]:
    """What a stock peer saw of our pickle, and what we read of its."""
    message = {
        "by name": [getattr(managers, name) for name in BY_NAME],
        "set": managers.SetProxy,
        "token": Token("list", "/tmp/address", "abc"),
        "namespace": fastmgr.Namespace(x=1, y=[2]),
        "value": fastmgr.Value("i", 7),
        "error": RemoteError("traceback text"),
        "plain": [1, "two", {3: None}, array.array("i", [1, 2]), {4: 5}.keys()],
    }
    done = subprocess.run(
        [sys.executable, "-I", "-c", PEER],
        input=dumps(message).hex() + "\n",
        capture_output=True,
        text=True,
        timeout=DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    seen, written = json.loads(done.stdout)
    return seen, loads(bytes.fromhex(written))


def test_stock_peer_sees_the_stdlibs_classes(exchanged: tuple[dict[str, Any], Any]) -> None:
    seen, _ = exchanged
    stock_name = "multiprocessing.managers"
    for name, (module, found) in zip(BY_NAME, seen["by name"], strict=True):
        assert module == stock_name
        assert found == getattr(stock, name).__name__
    assert seen["token"] == [stock_name, "Token(typeid='list', address='/tmp/address', id='abc')"]
    assert seen["namespace"] == [stock_name, "Namespace(x=1, y=[2])"]
    assert seen["value"] == [stock_name, "Value('i', 7)"]
    assert seen["error"] == [stock_name, str(RemoteError("traceback text"))]
    assert seen["plain"] == "[1, 'two', {3: None}, array('i', [1, 2]), [4]]"


def test_stock_peer_gets_an_auto_proxy_for_a_set(exchanged: tuple[dict[str, Any], Any]) -> None:
    assert exchanged[0]["set"] == "AutoProxy"


def test_we_see_our_classes(exchanged: tuple[Any, dict[str, Any]]) -> None:
    _, read = exchanged
    assert read["by name"] == [getattr(managers, name) for name in BY_NAME]
    assert type(read["token"]) is Token
    assert repr(read["token"]) == "Token(typeid='list', address='/tmp/address', id='abc')"
    assert type(read["namespace"]) is fastmgr.Namespace
    assert repr(read["namespace"]) == "Namespace(x=1, y=[2])"
    assert type(read["value"]) is fastmgr.Value
    assert read["value"].value == 7
    assert type(read["error"]) is RemoteError
    assert read["error"].args == ("traceback text",)
    assert read["plain"] == [1, "two", {3: None}]


def test_pickle_names_nothing_of_ours() -> None:
    data = dumps([Token("t", "a", "1"), managers.ListProxy, RemoteError("x"), managers.Namespace()])
    assert b"multiprocessing.managers" in data
    assert b"fastmgr" not in data


class Mine(fastmgr.Namespace):
    """A user's class keeps its name, whatever it inherits from."""


def test_users_classes_keep_their_names() -> None:
    back = loads(dumps([Mine(x=1), Mine]))
    assert type(back[0]) is back[1] is Mine
    assert pickle.loads(dumps(Mine)) is Mine


def test_what_the_stdlib_does_not_have_keeps_its_name() -> None:
    assert loads(dumps(Workers)) is Workers
    assert b"fastmgr.server.process" in dumps(Workers)


def test_unknown_global_of_the_stock_module() -> None:
    with pytest.raises(AttributeError):
        loads(b"\x80\x04cmultiprocessing.managers\nNoSuchThing\n.")


def test_every_older_python_can_read_it() -> None:
    assert dumps(("#RETURN", None))[:2] == b"\x80\x04"


# Tokens


def test_token_state_and_repr() -> None:
    class MyToken(Token):
        __slots__ = ()

    token = MyToken("dict", ("localhost", 1234), "7f")
    assert token.__getstate__() == ("dict", ("localhost", 1234), "7f")
    assert repr(token) == "MyToken(typeid='dict', address=('localhost', 1234), id='7f')"
    back = pickle.loads(pickle.dumps(Token("dict", ("localhost", 1234), "7f")))
    assert (back.typeid, back.address, back.id) == ("dict", ("localhost", 1234), "7f")
    with pytest.raises(AttributeError):
        back.other = 1  # type: ignore[attr-defined]


# Errors


class FakeConnection:
    """Takes a request and gives a reply."""

    def __init__(self, *reply: object) -> None:
        self.reply = reply
        self.sent: list[object] = []

    def send(self, message: object) -> None:
        self.sent.append(message)

    def recv(self) -> object:
        return self.reply


def test_dispatch_returns_the_result() -> None:
    conn = FakeConnection("#RETURN", [1, 2])
    assert dispatch(conn, "7f", "method", (1, 2), {"three": 3}) == [1, 2]
    assert dispatch(conn, None, "dummy") == [1, 2]
    assert conn.sent == [("7f", "method", (1, 2), {"three": 3}), (None, "dummy", (), {})]


def test_dispatch_raises_the_very_error() -> None:
    error = KeyError("spam")
    with pytest.raises(KeyError) as caught:
        dispatch(FakeConnection("#ERROR", error), None, "x")
    assert caught.value is error


def test_dispatch_raises_other_kinds() -> None:
    with pytest.raises(RemoteError, match="text of a traceback"):
        dispatch(FakeConnection("#TRACEBACK", "text of a traceback"), None, "x")


@pytest.mark.parametrize("kind", ["#ERROR", "#TRACEBACK", "#UNSERIALIZABLE", "#NEW", "", None])
@pytest.mark.parametrize("result", [LookupError("l"), "some text\n", 5, None, b"bytes"])
def test_errors_are_those_of_the_stdlib(kind: Any, result: object) -> None:
    def outcome(module: Any) -> tuple[str, str]:
        try:
            error = module.convert_to_error(kind, result)
        except TypeError as raised:
            return "raised TypeError", str(raised)
        return type(error).__name__, str(error)

    assert outcome(managers) == outcome(stock)


def test_error_itself_is_passed_on() -> None:
    error = ValueError()
    assert convert_to_error("#ERROR", error) is error


def test_remote_error_shows_the_servers_traceback() -> None:
    rule = "-" * 75
    assert str(RemoteError("line 1\nline 2\n")) == f"\n{rule}\nline 1\nline 2\n{rule}"
    assert str(RemoteError("x")) == str(stock.RemoteError("x"))


def test_dispatch_leaves_no_cycles() -> None:
    """gh-106558: the error's traceback led to the frame that held the error."""

    class Boom(Exception):
        pass

    class Failing:
        def send(self, message: object) -> None:
            pass

        def recv(self) -> object:
            return "#ERROR", Boom()

    gc.collect()
    gc.disable()
    try:
        try:
            dispatch(Failing(), None, "x")
        except Boom as error:
            gone = weakref.ref(error)
        assert gone() is None
    finally:
        gc.enable()


# Connections

Pair = tuple[StockConnection, Any]


@pytest.fixture
def pair() -> Iterator[Pair]:
    ours, theirs = socket.socketpair()
    with (
        StockConnection(Stream(ours.detach()), "pickle") as conn,
        connection.Connection(theirs.detach()) as peer,
    ):
        yield conn, peer


def test_connection_talks_to_the_stdlibs(pair: Pair) -> None:
    conn, peer = pair
    for message in [(None, "dummy", (), {}), "x" * 100_000, None]:
        conn.send(message)
        assert peer.recv() == message
        peer.send(message)
        assert conn.recv() == message
    assert conn.poll() is False
    peer.send(1)
    assert conn.poll(DEADLINE) is True
    assert conn.recv_request() == 1


def test_connection_is_closed(pair: Pair) -> None:
    conn, peer = pair
    assert not conn.closed
    assert conn.fileno() >= 0
    with conn as entered:
        assert entered is conn
    assert conn.closed
    with pytest.raises(EOFError):
        peer.recv()
    with pytest.raises(OSError):
        conn.send(1)
    with pytest.raises(OSError):
        conn.fileno()


def test_end_of_file(pair: Pair) -> None:
    conn, peer = pair
    peer.close()
    with pytest.raises(EOFError):
        conn.recv()


def test_nothing_is_sent_that_cannot_be_pickled(pair: Pair) -> None:
    conn, peer = pair
    with pytest.raises((TypeError, pickle.PicklingError, AttributeError)):
        conn.send(["good", threading.Lock()])
    conn.send("after")
    assert peer.recv() == "after"


def test_idle_is_raised_where_it_may_be(pair: Pair) -> None:
    conn, peer = pair
    conn.stream.set_timeout(0.02)
    conn.may_idle = True
    with pytest.raises(Idle):
        conn.recv_request()
    peer.send("request")
    assert conn.recv_request() == "request"
    conn.may_idle = False
    timer = threading.Timer(0.1, peer.send, ("late",))
    timer.start()
    assert conn.recv_request() == "late"
    timer.join(DEADLINE)
    conn.may_idle = True
    timer = threading.Timer(0.1, peer.send, ("later",))
    timer.start()
    assert conn.recv() == "later"
    timer.join(DEADLINE)


def test_idle_passes_by_handlers_of_exceptions() -> None:
    assert not issubclass(Idle, Exception)


def test_what_is_in_transit_is_let_go_with_the_next_request(pair: Pair) -> None:
    conn, peer = pair
    for receive in (conn.recv, conn.recv_request):
        conn.in_transit = [object()]
        peer.send(1)
        assert receive() == 1
        assert conn.in_transit == []
    conn.may_idle = True
    conn.in_transit = [object()]
    peer.send(1)
    assert conn.recv_request() == 1
    assert conn.in_transit == []


def test_poll_waits_as_the_stdlibs_does(pair: Pair) -> None:
    conn, peer = pair
    assert peer.poll(-1) is False
    assert in_thread(conn.poll, -1) is False
    peer.send(1)
    assert conn.poll(None) is True  # type: ignore[arg-type]


# Serializers


def test_xml_round_trip() -> None:
    to_xml, from_xml = SERIALIZERS["xmlrpclib"]
    message = (None, "method", ("text é <&>", 1, 2.5, None, True), {"key": [1, {"k": 2}]})
    data = to_xml(message)
    assert isinstance(data, bytes)
    # There are no tuples in XML-RPC.
    assert from_xml(data) == [
        None,
        "method",
        ["text é <&>", 1, 2.5, None, True],
        {"key": [1, {"k": 2}]},
    ]


def test_xml_is_what_the_stdlib_speaks() -> None:
    ours, theirs = socket.socketpair()
    raw = connection.Connection(theirs.detach())
    peer = connection.ConnectionWrapper(  # type: ignore[attr-defined]
        raw,
        connection._xml_dumps,
        connection._xml_loads,  # type: ignore[attr-defined]
    )
    with StockConnection(Stream(ours.detach()), "xmlrpclib") as conn:
        # Its module is loaded by its own listener and client, as they are used.
        import xmlrpc.client

        connection.xmlrpclib = xmlrpc.client  # type: ignore[attr-defined]
        conn.send(("#RETURN", "é"))
        assert peer.recv() == ["#RETURN", "é"]
        peer.send((None, "dummy", (), {}))
        assert conn.recv() == [None, "dummy", [], {}]
    raw.close()


def test_xml_lacks_most_types() -> None:
    with pytest.raises(Exception, match="int exceeds"):
        SERIALIZERS["xmlrpclib"][0](2**70)


def test_own_entries_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert uses_raw_sockets("pickle")
    assert uses_raw_sockets("xmlrpclib")
    with pytest.raises(KeyError):
        uses_raw_sockets("no such serializer")
    monkeypatch.setitem(listener_client, "other", (connection.Listener, connection.Client))
    assert not uses_raw_sockets("other")
    monkeypatch.setitem(listener_client, "pickle", (connection.Listener, lambda *args: None))
    assert not uses_raw_sockets("pickle")


def test_entries_are_those_of_the_stdlib() -> None:
    assert listener_client == stock.listener_client
    assert managers.listener_client is fastmgr.listener_client is listener_client
