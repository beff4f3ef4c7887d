"""Frames with large buffers behind their values, cut anywhere, refused, or read by nobody."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pickle
import socket
import struct
import termios
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import KEY, Address, connected, handle_of, poll, rss_bytes, sockets_to
from support.buffers import LARGE, BufferManager, Held, arrived, pattern, same
from support.frames import (
    BUFFERED,
    CARRIED,
    HEADER,
    OP_CALL,
    OP_RETURN,
    OP_TRACEBACK,
    OUTSIDE,
    PICKLED,
    SEGMENTED,
    TABLE,
    WRITABLE,
    Buffers,
    list_of,
    request,
    table,
)
from support.peers import BufferPeer
from support.servers import choose_poller
from support.values import TUPLE

from fastmgr.managers import DictProxy, Token
from fastmgr.wire.codec import dumps, loads

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module", params=["", "poll"], ids=["default", "poll"])
def each_manager(request: pytest.FixtureRequest) -> Iterator[BufferManager]:
    """With the poller of the system, and with poll()."""
    manager = BufferManager(authkey=KEY)
    manager.start(choose_poller, (request.param,))
    with manager:
        yield manager


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[BufferManager]:
    """Takes the place of the suite's, with one of these tests' own."""
    with BufferManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def peer(each_manager: BufferManager) -> Iterator[BufferPeer]:
    with BufferPeer(each_manager.address) as peer:
        yield peer


@pytest.fixture
def witness(each_manager: BufferManager) -> Iterator[Callable[[], None]]:
    """Call it: the loop has then read what was sent before."""
    values = each_manager.list([1])
    with BufferPeer(each_manager.address) as peer:
        handle = handle_of(values)

        def wait() -> None:
            # The first reply may come from the middle of a round of the loop, the second cannot.
            for _ in range(2):
                assert peer.method(handle, "__len__").payload == 1

        yield wait


def tidbits(peer: BufferPeer, handle: int, number: int) -> tuple[bytes, list[Any]]:
    """A frame with small segments, some of them empty, and the value that it appends."""
    ends = [pattern(number, 3), bytearray(b"!"), b"", bytearray(), pattern(number, 17)]
    values = list_of(OUTSIDE, dumps(number), OUTSIDE, OUTSIDE, dumps("x"), OUTSIDE, OUTSIDE)
    frame = peer.frame(handle, request("append", values), ends)
    return frame, [ends[0], number, ends[1], ends[2], "x", ends[3], ends[4]]


def test_a_request_cut_at_every_byte(
    each_manager: BufferManager, peer: BufferPeer, witness: Callable[[], None]
) -> None:
    found = each_manager.list()
    handle, expected = handle_of(found), []
    length = len(tidbits(peer, handle, 0)[0])
    for cut in range(1, length):
        frame, value = tidbits(peer, handle, cut)
        expected.append(value)
        assert len(frame) == length
        peer.sock.sendall(frame[:cut])
        witness()
        peer.sock.sendall(frame[cut:])
        peer.expect()
    assert same(found[:], expected)


@pytest.mark.parametrize("step", [1, 7, 40, 1000, 100_000])
def test_frames_right_behind_one_another(
    step: int, each_manager: BufferManager, peer: BufferPeer, witness: Callable[[], None]
) -> None:
    """What follows the last segment of a frame in one receive is the next frame."""
    found = each_manager.list()
    handle = handle_of(found)
    wire, expected = b"", []
    for i in range(3 if step == 1 else 40):
        frame, value = tidbits(peer, handle, i)
        plain = peer.frame(handle, request("append", dumps(-i)))
        only_empty = peer.frame(handle, request("append", list_of(OUTSIDE, OUTSIDE)), [b"", b""])
        wire += frame + plain + only_empty
        expected += [value, -i, [b"", b""]]
    for at in range(0, len(wire), step):
        peer.sock.sendall(wire[at : at + step])
        if step < 50:
            witness()
    assert [peer.take().op for _ in expected] == [OP_RETURN] * len(expected)
    assert same(found[:], expected)


def test_a_frame_that_goes_to_a_worker_is_read_there_whole(
    each_manager: BufferManager, peer: BufferPeer
) -> None:
    """It is put back with its segments, and the frames behind it follow."""
    found, sleeper = each_manager.list(), each_manager.Sleeper()
    handle = handle_of(found)
    small = [b"one", bytearray(b"two")]
    data = pickle.dumps(Held(pattern(1, 10)), 5, buffer_callback=lambda _: False)
    buffered = struct.pack("<BQ", BUFFERED, len(data)) + data + bytes([TUPLE, 1]) + OUTSIDE
    wire = b"".join(
        [
            peer.frame(handle, request("append", list_of(OUTSIDE, OUTSIDE)), small),
            # The pickle is not what `extend` keeps: to be read, it goes to a worker.
            peer.frame(
                handle, request("extend", list_of(buffered)), [b"0123456789"], PICKLED | CARRIED
            ),
            peer.frame(handle, request("append", OUTSIDE), [bytearray(b"three")]),
            peer.frame(handle_of(sleeper), request("echo", OUTSIDE), [b"four"]),
            peer.frame(handle, request("append", list_of(OUTSIDE, OUTSIDE)), small),
        ]
    )
    for piece in (wire, wire[:130], wire[130:]):
        peer.sock.sendall(piece)
    replies = [peer.take() for _ in range(10)]
    assert [reply.op for reply in replies] == [OP_RETURN] * 10
    assert loads(replies[3].values) == loads(replies[8].values) == b"four"
    once = [[*small], Held(b"0123456789"), bytearray(b"three"), [*small]]
    assert same(found[:], once * 2)


def announced(count: int, values: int, sizes: Sequence[int], size: int | None = None) -> bytes:
    """The frame of a request whose announcements are made up."""
    said = request("append", list_of(*[OUTSIDE] * len(sizes)))
    head = TABLE.pack(count, values if values >= 0 else len(said))
    head += struct.pack(f"<{len(sizes)}Q", *sizes)
    if size is None:
        size = len(head) + len(said) + sum(n & ~WRITABLE for n in sizes)
    return HEADER.pack(size, 0, 1, 0, OP_CALL, SEGMENTED) + head + said


REFUSED = {
    "none at all": announced(0, -1, []),
    "no room for the table": announced(1, 0, [5], 15),
    "too many": announced(2**60, -1, [5]),
    "so many that it overflows": announced(2**61, -1, [5]),
    "most": announced(2**64 - 1, 2**64 - 1, [5], 2**64 - 25),
    "more values than there are": announced(1, 2**63, [5]),
    "one byte less": announced(1, -1, [5], 16 + 8 + len(request("append", list_of(OUTSIDE))) + 4),
    "one byte more": announced(1, -1, [5], 16 + 8 + len(request("append", list_of(OUTSIDE))) + 6),
    "a sum that overflows": announced(3, -1, [2**63 - 1, 2**63 - 1, 7], 16 + 24 + 20 + 5),
    "2**60 bytes": announced(1, -1, [2**60]),
    "2**60 writable bytes": announced(1, -1, [2**60 | WRITABLE]),
    "2**50 bytes, often": announced(200, -1, [2**50] * 100 + [2**50 | WRITABLE] * 100),
    "more than there can be": announced(1, -1, [2**63 - 1]),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, each_manager: BufferManager, peer: BufferPeer) -> None:
    """Before anything is allocated, and nobody else notices."""
    server: int = each_manager._process.pid
    found = each_manager.list([1])
    memory = rss_bytes(server)
    peer.sock.sendall(REFUSED[name])
    assert peer.ended()
    assert rss_bytes(server) - memory < 32 << 20
    found.append(bytes(LARGE))
    assert found[:] == [1, bytes(LARGE)]


def test_announced_values_cost_nothing_yet(
    each_manager: BufferManager, peer: BufferPeer, witness: Callable[[], None]
) -> None:
    server: int = each_manager._process.pid
    memory = rss_bytes(server)
    peer.sock.sendall(announced(1, 2**59, [5], 2**60))
    witness()
    assert rss_bytes(server) - memory < 32 << 20


pickled = struct.pack("<BQ", BUFFERED, 4) + pickle.dumps(None)

MISFITS = {
    "a segment of none": (OUTSIDE, [], 0),
    "one too many": (list_of(OUTSIDE, OUTSIDE), [b"x"], 0),
    "a writable key": (bytes([dumps({})[0], 1]) + OUTSIDE + dumps(1), [bytearray(b"x")], 0),
    "no buffers": (pickled, [b"x"], PICKLED | CARRIED),
    "buffers in a list": (pickled + list_of(OUTSIDE), [b"x"], PICKLED | CARRIED),
    "buffers of text": (pickled + bytes([TUPLE, 1]) + dumps("x"), [b"x"], PICKLED | CARRIED),
    "a buffer of none": (pickled + bytes([TUPLE, 2]) + OUTSIDE * 2, [b"x"], PICKLED | CARRIED),
}


@pytest.mark.parametrize("name", MISFITS)
def test_what_is_answered_with_a_traceback(
    name: str, each_manager: BufferManager, peer: BufferPeer
) -> None:
    found = each_manager.list()
    value, segments, flags = MISFITS[name]
    peer.sock.sendall(peer.frame(handle_of(found), request("append", value), segments, flags))
    assert b"WireError" in peer.expect(OP_TRACEBACK).values
    peer.sock.sendall(peer.frame(handle_of(found), request("append", OUTSIDE), [b"good"]))
    peer.expect()
    assert found[:] == [b"good"]


def test_a_request_that_ends_in_the_middle(each_manager: BufferManager) -> None:
    found = each_manager.list()
    length = len(announced(1, -1, [5])) + 5
    for cut in range(1, length, 5):
        with BufferPeer(each_manager.address) as peer:
            frame = peer.frame(handle_of(found), request("append", list_of(OUTSIDE)), [b"12345"])
            assert len(frame) == length
            peer.sock.sendall(frame[:cut])
            peer.sock.shutdown(socket.SHUT_WR)
            assert peer.ended()
    assert found[:] == []


# Output that the peer does not take


@pytest.mark.parametrize("size", [15_000, 20_000, 50_000, 70_000])
@pytest.mark.parametrize("between", ["a class of a user's", "values of a class", "nothing"])
def test_replies_that_wait_to_be_read_stay_in_order(
    between: str, size: int, each_manager: BufferManager
) -> None:
    """Also where the next call is served elsewhere, and where the one after that waits."""
    data, keeper = each_manager.dict(), each_manager.Keeper(1)
    classy, lock = each_manager.dict(x=Held(b"x")), each_manager.Lock()
    data["x"] = value = pattern(1, size)
    get = request("__getitem__", dumps("x"))

    def check_middle(peer: BufferPeer) -> None:
        if between == "a class of a user's":
            assert loads(peer.take().values) == (("between",), {})
        elif between == "values of a class":
            assert loads(peer.take().values) == 1
        assert loads(peer.take().values) == 1

    for number in range(1, 4 + 240_000 // size):
        with BufferPeer(each_manager.address) as peer:
            wire = peer.frame(handle_of(data), get) * number
            if between == "a class of a user's":
                wire += peer.frame(handle_of(keeper), request("echo", dumps("between")))
            elif between == "values of a class":
                wire += peer.frame(handle_of(classy), request("__len__"))
            wire += peer.frame(handle_of(data), request("__len__"))
            wire += peer.frame(handle_of(lock), request("acquire"))
            wire += peer.frame(handle_of(data), get)
            lock.acquire()
            peer.sock.sendall(wire)
            if between == "a class of a user's":
                lock.release()  # it waits on a thread, which is free to send when it has run dry
            for _ in range(number):
                reply = peer.take()
                assert (reply.op, reply.call) == (OP_RETURN, 1)
                assert (reply.segments or [loads(reply.values)]) == [value]
            check_middle(peer)
            if between != "a class of a user's":
                lock.release()  # it is parked, and all before it has come
            assert loads(peer.take().values) is True
            last = peer.expect()
            assert (last.segments or [loads(last.values)]) == [value]
            peer.sock.sendall(peer.frame(handle_of(lock), request("release")))
            peer.expect()


def test_a_peer_that_does_not_read_holds_up_nobody(
    each_manager: BufferManager, peer: BufferPeer
) -> None:
    data = each_manager.dict(x=bytes(20 << 20))
    get = request("__getitem__", dumps("x"))
    peer.sock.sendall(peer.frame(handle_of(data), get) + peer.frame(handle_of(data), get))
    for _ in range(50):
        assert len(data) == 1
    peer.sock.recv(1, socket.MSG_PEEK)  # the first reply has begun
    del data["x"]  # what is on its way is not
    data["x"] = b"another"
    assert peer.take().segments == [bytes(20 << 20)]
    assert b"another" in peer.expect().values


@pytest.mark.parametrize("method", ["plain", "held"])
def test_what_is_on_its_way_does_not_change(
    method: str, each_manager: BufferManager, peer: BufferPeer
) -> None:
    keeper = each_manager.Keeper(5 << 20)
    peer.sock.sendall(peer.frame(handle_of(keeper), request(method)))
    begin = peer._read(HEADER.size)  # it has been called
    keeper.fill(1)
    size = HEADER.unpack(begin)[0]
    assert peer._read(size)[-(5 << 20) :] == bytes(5 << 20)


# Replies


class Relay:
    """Stands between a client in this process and its server; may cut what the server says."""

    def __init__(self, address: Address, path: str) -> None:
        self.upstream, self.path = address, path
        #: What becomes of a reply: pieces, each of which the client has read before the next comes.
        self.rewrite: Callable[[bytes], Sequence[bytes]] | None = None
        self.sockets: list[socket.socket] = []
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(path)
        self.listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self.listener, *self.sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self.listener.accept()
                server = socket.socket(socket.AF_UNIX)
                server.connect(self.upstream)
                self.sockets += [client, server]
                for job in (self._up, self._down):
                    threading.Thread(target=job, args=(client, server), daemon=True).start()

    def _up(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(1 << 16):
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _down(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError):
            while data := bytearray(server.recv(1 << 16)):
                if self.rewrite is None:
                    client.sendall(data)
                    continue
                while data:
                    while len(data) < HEADER.size or len(data) < HEADER.size + size_of(data):
                        data += server.recv(1 << 20)
                    end = HEADER.size + size_of(data)
                    frame = bytes(data[:end])
                    del data[:end]
                    for i, piece in enumerate(self.rewrite(frame)):
                        if i:
                            self.await_read()
                        client.sendall(piece)
            client.shutdown(socket.SHUT_WR)

    def await_read(self) -> None:
        poll(lambda: not any(map(unread, self.client_ends)), "the client has read it")

    def find_clients(self) -> None:
        """From now on it is known what the clients have read."""
        self.client_ends = [
            sock.dup() for sock in sockets_to(self.path) if sock.getpeername() == self.path
        ]
        self.sockets += self.client_ends
        assert self.client_ends


def size_of(frame: bytearray) -> int:
    return int(HEADER.unpack_from(frame)[0])


def unread(sock: socket.socket) -> int:
    (count,) = struct.unpack("i", fcntl.ioctl(sock, termios.FIONREAD, b"\0" * 4))
    return int(count)


@pytest.fixture
def relay(
    manager: BufferManager, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Relay]:
    monkeypatch.setenv("FASTMGR_ARENA", "off")  # what goes by shared memory cannot be cut
    with Relay(manager.address, str(tmp_path / "relay")) as relay:
        yield relay


def test_a_reply_cut_anywhere(relay: Relay) -> None:
    data = connected(relay.path).dict()
    value = [pattern(1, LARGE), bytearray(pattern(2, LARGE + 1)), b"", Held(bytearray(LARGE)), "x"]
    data["x"] = value
    relay.find_clients()
    sizes: set[int] = set()

    def cut(frame: bytes) -> Sequence[bytes]:
        sizes.add(len(frame))
        return frame[:at], frame[at:]

    relay.rewrite = cut
    at = 1
    assert same(data["x"], arrived(value))
    (size,) = sizes
    ends = [size, size - LARGE, size - 2 * LARGE - 1]
    head = size - 3 * LARGE - 1
    around = [end - near for end in ends for near in (-1, 0, 1, 2) if end - near < size]
    for at in [*range(2, head + 3), *around]:
        assert same(data["x"], arrived(value)), at
    assert sizes == {size}


def test_two_replies_with_small_segments_cut_at_every_byte(relay: Relay) -> None:
    """A server sends small buffers within the values; a client takes them from behind, too."""
    manager = connected(relay.path)
    data = manager.dict(x=1)
    relay.find_clients()
    held: list[bytes] = []
    values = list_of(OUTSIDE, OUTSIDE, OUTSIDE)

    def replace(frame: bytes) -> Sequence[bytes]:
        _, handle, call, method, op, flags = HEADER.unpack_from(frame)
        body = table(values, segments) + b"".join(segments)
        held.append(HEADER.pack(len(body), handle, call, method, op, flags | SEGMENTED) + body)
        if len(held) < 2:
            return ()
        both = held[0] + held[1]
        held.clear()
        lengths.add(len(both))
        return both[:at], both[at:]

    lengths: set[int] = set()
    segments: Buffers = [b"one", bytearray(), b"three"]
    relay.rewrite = replace
    at = 0
    while not lengths or at < min(lengths):
        at += 1
        with manager.pipeline() as pipe:
            pipe(data)["x"]
            pipe(data)["x"]
        assert same(pipe.results, [list(segments)] * 2), at
    assert len(lengths) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_a_reply_that_is_refused(name: str, manager: BufferManager, relay: Relay) -> None:
    """It is an error of the connection; the next call has another."""
    direct = manager.dict(x=1)  # holds the object when the connection is lost
    token = Token("dict", relay.path, direct._token.id)
    data = DictProxy(token, "pickle", authkey=KEY)

    def replace(frame: bytes) -> Sequence[bytes]:
        _, handle, call, method, op, flags = HEADER.unpack_from(frame)
        size = HEADER.unpack_from(REFUSED[name])[0]
        header = HEADER.pack(size, handle, call, method, op, flags | SEGMENTED)
        return (header + REFUSED[name][HEADER.size :],)

    memory = rss_bytes(os.getpid())
    relay.rewrite = replace
    with pytest.raises(OSError, match="bad message from the server"):
        data["x"]
    relay.rewrite = None
    assert rss_bytes(os.getpid()) - memory < 32 << 20
    assert data["x"] == 1
