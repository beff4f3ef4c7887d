"""Who is let in: keys, and the two dialects in which they are proved."""

from __future__ import annotations

import hashlib
import hmac
import os
import pickle
import socket
import struct
import threading
from multiprocessing import AuthenticationError

import pytest
from peers import KEY, FastServers, Peer, connect
from support import RawPeer

pytestmark = pytest.mark.timeout(60)


def frames(*payloads: bytes) -> bytes:
    return b"".join(struct.pack("!i", len(payload)) + payload for payload in payloads)


def test_stock_client_with_a_wrong_key(peer: Peer, family: str, fast_servers: FastServers) -> None:
    server = fast_servers.get(family)
    said = peer.call("wrong_key", address=server.address, key="another key")
    assert said.startswith("AuthenticationError")
    assert peer.call("wrong_key", address=server.address, key="") != "connected"
    assert peer.call("wrong_key", address=server.address, key=KEY) == "connected"


def test_fastmgr_client_with_a_wrong_key(peer: Peer, family: str) -> None:
    address = peer.server(family)
    with pytest.raises(AuthenticationError):
        connect(address, key="another key")
    # A server that cannot prove the key is as bad as a client that cannot; a stock server
    # that was turned down goes on for those who know it.
    assert connect(address)._number_of_objects() == 0


def test_fastmgr_client_of_an_impostor() -> None:
    """A listener which takes any answer but does not know the key learns nothing more."""
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def impostor() -> None:
        conn, _ = listener.accept()
        with conn, conn.makefile("rb") as stream:
            conn.sendall(frames(b"#CHALLENGE#" + os.urandom(20)))
            for answer in (b"#WELCOME#", b"no idea"):
                heard.append(stream.read(struct.unpack("!i", stream.read(4))[0]))
                conn.sendall(frames(answer))
            heard.append(stream.read())

    thread = threading.Thread(target=impostor, daemon=True)
    thread.start()
    with listener, pytest.raises(AuthenticationError):
        connect(listener.getsockname())
    thread.join(30)
    assert heard[1].startswith(b"#CHALLENGE#")
    assert heard[2] in (b"", frames(b"#FAILURE#"))


@pytest.mark.parametrize("prefix", [b"", b"{sha256}"], ids=["hmac-md5", "sha256"])
def test_fastmgr_server_proves_the_key_in_both_dialects(
    prefix: bytes, family: str, fast_servers: FastServers
) -> None:
    """Challenged as up to 3.11 and as from 3.12 on, it gives an answer that those accept."""
    with RawPeer(fast_servers.get(family).address) as raw:
        assert raw.answer(KEY.encode()) == b"#WELCOME#"
        raw.challenge(KEY.encode(), prefix)
        assert raw.call(None, "dummy") == ("#RETURN", None)


@pytest.mark.parametrize("family", ["unix"])
def test_fastmgr_server_accepts_a_raw_md5_answer(family: str, fast_servers: FastServers) -> None:
    """A client up to 3.11 takes the whole message for a challenge, prefix or not."""
    with RawPeer(fast_servers.get(family).address) as raw:
        message = raw.recv_frame()[len(b"#CHALLENGE#") :]
        raw.send_frame(hmac.new(KEY.encode(), message, hashlib.md5).digest())
        assert raw.recv_frame() == b"#WELCOME#"
        raw.challenge(KEY.encode())
        assert raw.call(None, "dummy") == ("#RETURN", None)


def test_a_client_may_run_ahead(family: str, fast_servers: FastServers) -> None:
    """Its answer and its challenge, then its verdict and its request, each in one piece."""
    with RawPeer(fast_servers.get(family).address) as raw:
        message = raw.recv_frame()[len(b"#CHALLENGE#") :]
        answer = hmac.new(KEY.encode(), message, hashlib.md5).digest()
        raw.sock.sendall(frames(answer, b"#CHALLENGE#" + os.urandom(20)))
        assert raw.recv_frame() == b"#WELCOME#"
        assert len(raw.recv_frame()) == 16
        raw.sock.sendall(frames(b"#WELCOME#", pickle.dumps((None, "dummy", (), {}))))
        assert pickle.loads(raw.recv_frame()) == ("#RETURN", None)
