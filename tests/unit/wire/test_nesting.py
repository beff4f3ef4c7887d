"""Pickles are looked over before they are read: what nests too deeply would end the process."""

from __future__ import annotations

import contextlib
import pickle
import struct
import threading
from multiprocessing import connection
from typing import Any

import pytest
from hypothesis import given, strategies as st
from support import KEY, RawPeer

from fastmgr import SyncManager
from fastmgr.managers import Server
from fastmgr.wire import codec
from fastmgr.wire.opaque import WireError, check_nesting

LEVELS = 200_000
TUPLE_OF_TWO = codec.dumps((1, 2))[:2]
DEEP = b")" + b"\x85" * LEVELS
ONE_LEVEL = {
    "tuple of one": (b")", b"\x85"),
    "tuple of two": (b"N", b"N\x86"),
    "tuple of three": (b"N", b"NN\x87"),
    "list that is appended to": (b"N", b"q\x000]h\x00a"),
    "reduced": (b")", b"q\x000cbuiltins\nfrozenset\nh\x00\x85R"),
    "memoized": (b")\x94", b"\x85\x94"),
    "recalled": (b"K\x01q\x000", b"h\x00\x85q\x000"),
    "recalled by a long number": (b"Nr\1\0\0\x000", b"j\1\0\0\0\x85r\1\0\0\x000"),
    "recalled by a decimal number": (b"Np7\n0", b"g7\n\x85p7\n0"),
    "persistent": (b"N", b"Q"),
}
AT_ONCE = {
    "tuples": b"(" * LEVELS + b"t" * LEVELS,
    "lists": b"(" * LEVELS + b"l" * LEVELS,
    "frozen sets": b"(" * LEVELS + b"\x91" * LEVELS,
    "objects": b"(" * LEVELS + b"o" * LEVELS,
    "appended": b"]" * LEVELS + b"a" * LEVELS,
    "extended": b"](" * LEVELS + b"e" * LEVELS,
    "set": b"}N" * LEVELS + b"Ns" + b"s" * (LEVELS - 1),
    "built": b"N" * LEVELS + b"b" * (LEVELS - 1),
    "behind strings that look like marks": b"(X\3\0\0\0(((C\2((F1.(\n\x80\x04" + DEEP + b"t",
}


@pytest.mark.parametrize("way", ONE_LEVEL)
def test_deep_pickles_are_not_read(way: str) -> None:
    start, level = ONE_LEVEL[way]
    with pytest.raises(WireError, match="nested more than 10000 levels"):
        check_nesting(start + level * LEVELS + b".")
    check_nesting(start + level * 4990 + b".")


@pytest.mark.parametrize("way", AT_ONCE)
def test_pickles_that_get_deep_at_their_end(way: str) -> None:
    with pytest.raises(WireError, match="nested more than 10000 levels"):
        check_nesting(AT_ONCE[way] + b".")


def test_pickle_that_remembers_more_than_it_has() -> None:
    data = b"X\0\x40\0\0" + b"x" * 0x4000 + b"r\xff\xff\xff\xff."
    with pytest.raises(WireError, match="remembers more"):
        check_nesting(data)


class Plain:
    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("dumps", [pickle.dumps, pickle._dumps])  # type: ignore[attr-defined]
def test_large_flat_pickles_are_read(dumps: Any, protocol: int) -> None:
    shared = ["x" * 300, {"y": (1.5, None)}]
    inner: Any = ()
    for _ in range(200):
        inner = (inner,)
    value = [
        [(i, str(i), -i * 10**12, 1.5 * i, b"b" * (i % 300), True) for i in range(3000)],
        dict.fromkeys(range(3000), shared),
        {frozenset([i, str(i)]) for i in range(3000)},
        [Plain(a=i, b=[i]) for i in range(3000)],
        [bytearray(b"123") for i in range(1000)],
        inner,
    ]
    data = dumps(value, protocol)
    check_nesting(data)
    # Everything was walked over: what would come next is found.
    with pytest.raises(WireError):
        check_nesting(data[:-1] + DEEP + b".")


@given(st.sampled_from([b"", b"\x80\x04", b"(" * 5, b"N" * 20, b"]\x94("]), st.binary(max_size=99))
def test_garbage(start: bytes, noise: bytes) -> None:
    with contextlib.suppress(WireError):
        check_nesting(b"N0" * 6000 + start + noise)


# The whole way


def deep_request(ident: str) -> bytes:
    """A stock client's ``d[deep] = 1``."""
    request = pickle.dumps((ident, "__setitem__", 7, {}), 2)
    seven = request.index(b"K\x07")
    return request[:seven] + DEEP + b"K\x01\x86" + request[seven + 2 :]


class OwnServer(Server):
    """A server that accepts on threads, by the stdlib's own connections."""

    def handle_request(self, conn: Any) -> None:
        super().handle_request(conn)


class OwnManager(SyncManager):
    _Server = OwnServer


@pytest.mark.parametrize("kind", [SyncManager, OwnManager])
def test_deep_key_ends_no_server(kind: type[SyncManager]) -> None:
    with kind(authkey=KEY) as manager:
        d = manager.dict()
        with RawPeer(manager.address) as peer:
            peer.login().call(None, "accept_connection", "by hand")
            peer.send_frame(deep_request(d._token.id))
            kind, text = pickle.loads(peer.recv_frame())
            assert (kind, "nested more than" in text) == ("#TRACEBACK", True)
        d[()] = 1
        assert d.copy() == {(): 1}


def serve(conn: Any) -> None:
    """A connection to a stock server, as far as it matters."""
    with contextlib.suppress(EOFError), conn:
        while True:
            _, name, _, _ = conn.recv()
            if name == "debug_info":
                conn.send_bytes(b"\x80\x02X\7\0\0\0#RETURN}" + DEEP + b"Ns\x86.")
            elif name == "#fastmgr":
                conn.send(("#TRACEBACK", "no such function"))
            else:
                conn.send(("#RETURN", None))


def test_deep_reply_ends_no_client() -> None:
    def accept() -> None:
        for _ in range(3):  # the introduction, the session, the call
            threading.Thread(target=serve, args=(listener.accept(),), daemon=True).start()

    with connection.Listener(authkey=KEY) as listener:
        threading.Thread(target=accept, daemon=True).start()
        manager = SyncManager(listener.address, KEY)
        manager.connect()
        with pytest.raises(WireError, match="nested more than"):
            manager._debug_info()


def test_deep_value_that_was_kept_unread_ends_no_reader() -> None:
    with SyncManager(authkey=KEY) as manager:
        d = manager.dict()
        with RawPeer(manager.address) as peer:
            peer.login().introduce(bytes(16))
            kept = b"\0" + struct.pack("<Q", len(DEEP) + 4) + b"}" + DEEP + b"Ns."
            body = codec.dumps("__setitem__") + TUPLE_OF_TWO + codec.dumps("k") + kept
            body += codec.dumps(None)
            ident = int(d._token.id, 16)
            flags = 1 | 8  # FLAG_PICKLED, FLAG_CARRIED
            peer.sock.sendall(struct.pack("<QQIHBB", len(body), ident, 1, 0, 1, flags) + body)
            peer._read(24)
        with pytest.raises(WireError, match="nested more than"):
            d["k"]
