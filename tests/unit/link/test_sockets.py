"""Listening and connecting."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import gc
import os
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError, connection
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, poll, together

from fastmgr.link import sockets
from fastmgr.link.sockets import (
    HANDSHAKE_TIMEOUT,
    KEEPALIVE,
    Listener,
    connect,
    connect_timeout,
    named,
    settle,
    tune,
)
from fastmgr.link.stream import Stream

LOCALHOST = ("127.0.0.1", 0)
Serve = Callable[[Stream], object]


@contextlib.contextmanager
def serving(serve: Serve, address: Any = None) -> Iterator[Any]:
    """The address of a server that lets `serve` talk to one client; its errors are raised."""
    failures: list[BaseException] = []

    def run() -> None:
        try:
            stream = Stream(accept(listener).detach())
            try:
                serve(stream)
            finally:
                stream.close()
        except BaseException as error:
            failures.append(error)

    with Listener(address) as listener:
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield listener.address
        thread.join(DEADLINE)
        assert not thread.is_alive()
    if failures:
        raise failures[0]


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY)
    try:
        yield fd
    finally:
        os.close(fd)


def accept(listener: Listener) -> socket.socket:
    accepted: list[socket.socket] = []

    def try_it() -> bool:
        with contextlib.suppress(BlockingIOError):
            accepted.append(listener.accept_socket())
        return bool(accepted)

    poll(try_it, "a connection")
    return accepted[0]


def authenticate(stream: Stream, key: bytes = KEY) -> None:
    """The server's part, by the stdlib."""
    conn = connection.Connection(os.dup(stream.fileno()))
    with conn:
        connection.deliver_challenge(conn, key)  # type: ignore[attr-defined]
        connection.answer_challenge(conn, key)  # type: ignore[attr-defined]


# Listening


@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_path_is_there_until_the_end(tmp_path: Path, kind: Callable[[str], Any]) -> None:
    path = tmp_path / "socket"
    listener = Listener(kind(str(path)))
    assert listener.address == str(path)
    assert path.is_socket()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        with accept(listener) as accepted:
            client.sendall(b"hello")
            assert accepted.recv(10) == b"hello"
    listener.close()
    assert not path.exists()
    assert listener.fileno() == -1
    listener.close()


def test_fresh_address_is_private() -> None:
    with Listener() as first, Listener() as second:
        assert first.address != second.address
        for listener in (first, second):
            folder = Path(listener.address).parent
            assert Path(listener.address).is_socket()
            assert folder.stat().st_mode & 0o077 == 0
            assert folder.stat().st_uid == os.getuid()


def test_path_goes_with_a_forgotten_listener(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = Listener(str(path))
    listener._socket.close()  # or Python warns of it
    assert path.exists()
    del listener
    gc.collect()
    assert not path.exists()


def test_path_that_is_gone_already(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with Listener(str(path)):
        path.unlink()
    assert not path.exists()


def test_abandoned_listener_keeps_the_path(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    listener = Listener(str(path))
    copy = os.dup(listener.fileno())  # what a parent has
    listener.abandon()
    assert listener.fileno() == -1
    assert path.exists()
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
    os.close(copy)


def test_tcp_port_is_chosen() -> None:
    with Listener(LOCALHOST) as listener:
        host, port = listener.address
        assert host == "127.0.0.1"
        assert port > 0
        with socket.create_connection((host, port)) as client, accept(listener):
            assert listener.last_accepted == client.getsockname()


def test_tcp_port_is_free_at_once() -> None:
    with Listener(LOCALHOST) as listener:
        address = listener.address
        with socket.create_connection(address), accept(listener) as accepted:
            accepted.shutdown(socket.SHUT_RDWR)  # this end waits in TIME_WAIT
    with Listener(address) as again:
        assert again.address == address


@pytest.mark.skipif(sys.platform != "linux", reason="abstract sockets are Linux's")
@pytest.mark.parametrize("kind", [str, os.fsencode])
def test_abstract_socket(kind: Callable[[str], Any]) -> None:
    name = kind(f"\0fastmgr-test-{os.getpid()}")
    with Listener(name) as listener:
        assert os.fsencode(listener.address) == os.fsencode(name)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(name)
            accept(listener).close()
    with Listener(name):
        pass  # the name is free again


def test_accepting_does_not_wait() -> None:
    with Listener() as listener, pytest.raises(BlockingIOError):
        listener.accept_socket()


def test_accepted_sockets_wait() -> None:
    with Listener() as listener, socket.socket(socket.AF_UNIX) as client:
        client.connect(listener.address)
        with accept(listener) as accepted:
            assert accepted.getblocking()


def test_too_long_path_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / ("x" * 200))
    with pytest.raises(OSError, match="too long") as caught:
        Listener(path)
    assert caught.value.errno == errno.ENAMETOOLONG
    assert repr(path) in str(caught.value)


def test_address_in_use_is_named(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    with Listener(path), Listener(LOCALHOST) as listener:
        for address in (path, listener.address):
            with pytest.raises(OSError) as caught:
                Listener(address)
            assert caught.value.errno == errno.EADDRINUSE
            assert repr(address) in str(caught.value)
            who = f"(process {os.getpid()} listens there)"
            assert (who in str(caught.value)) is (address == path)
        assert os.path.exists(path)


def test_an_error_of_a_users_connection_stays_as_it_is() -> None:
    class Refused(OSError):
        def __init__(self, url: str, code: int, message: str) -> None:
            super().__init__(code, message)
            self.url = url

    class Ended(EOFError):
        pass

    for error in (Refused("http://a", 5, "no"), Ended(1, 2)):
        assert named(error, "/the/servers") is error


def test_file_of_a_dead_server_is_taken_over(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    dead = Listener(path)
    dead.abandon()
    assert os.path.exists(path)
    with Listener(path) as listener:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
        accept(listener).close()
    assert not os.path.exists(path)


def test_one_of_many_takes_the_file_of_a_dead_server_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "socket")
    take_over = sockets._take_over
    inside: list[int] = []
    most = 0

    def counted(address: str) -> bool:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        try:
            return take_over(address)
        finally:
            inside.pop()

    def listen(_: int) -> Listener | None:
        with contextlib.suppress(OSError):
            return Listener(path)
        return None

    monkeypatch.setattr(sockets, "_take_over", counted)
    dead = Listener(path)
    dead.abandon()
    (listener,) = filter(None, together(6, listen))
    with listener, socket.socket(socket.AF_UNIX) as sock:
        sock.connect(path)
        accept(listener).close()
    assert most == 1  # a file's number may be that of the file that was removed a moment ago


def test_who_waits_too_long_for_others_takes_nothing_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read a folder can lock it for ever: that must not keep a server from starting."""
    monkeypatch.setattr(sockets, "CLAIM_TIMEOUT", 0.05)
    path = str(tmp_path / "socket")
    with open_folder(tmp_path) as folder:
        fcntl.flock(folder, fcntl.LOCK_EX)
        dead = Listener(path)
        dead.abandon()
        with pytest.raises(OSError, match="in use"):
            Listener(path)
    Listener(path).close()


def test_folder_that_cannot_be_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on some network file systems."""

    def refuse(fd: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    path = str(tmp_path / "socket")
    dead = Listener(path)
    dead.abandon()
    Listener(path).close()


def test_socket_that_another_has_opened(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    opened = socket.socket(socket.AF_UNIX)
    opened.bind(path)
    opened.listen()
    with Listener.adopt(opened) as listener, socket.socket(socket.AF_UNIX) as sock:
        assert listener.address == path
        sock.connect(path)
        accept(listener).close()
    assert os.path.exists(path)


def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match=r"in use: .* \(a file is there that is no socket\)"):
        Listener(str(path))
    assert path.read_text() == "precious"


def test_listener_removes_no_file_but_its_own(tmp_path: Path) -> None:
    path = str(tmp_path / "socket")
    first = Listener(path)
    os.unlink(path)
    with Listener(path):
        first.close()
        assert os.path.exists(path)


def test_folder_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "none" / "socket")
    with pytest.raises(FileNotFoundError) as caught:
        Listener(path)
    assert path in str(caught.value)


@pytest.mark.parametrize("address", [5, ["127.0.0.1", 0], object()])
def test_what_is_no_address(address: object) -> None:
    for use in (Listener, lambda address: connect(address, KEY)):
        with pytest.raises(ValueError, match="address"):
            use(address)


# Options


def option(sock: socket.socket, level: int, name: str) -> int:
    return sock.getsockopt(level, getattr(socket, name))


def assert_tuned(sock: socket.socket) -> None:
    assert option(sock, socket.IPPROTO_TCP, "TCP_NODELAY") != 0
    assert option(sock, socket.SOL_SOCKET, "SO_KEEPALIVE") != 0
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            assert option(sock, socket.IPPROTO_TCP, name) == value


def test_tcp_is_tuned() -> None:
    with socket.socket(socket.AF_INET) as sock:
        assert option(sock, socket.IPPROTO_TCP, "TCP_NODELAY") == 0
        assert option(sock, socket.SOL_SOCKET, "SO_KEEPALIVE") == 0
        tune(sock)
        assert_tuned(sock)


def test_both_ends_of_a_connection_are_tuned() -> None:
    seen = []

    def serve(stream: Stream) -> None:
        with socket.socket(fileno=os.dup(stream.fileno())) as sock:
            assert_tuned(sock)
        authenticate(stream)
        seen.append(stream.recv_bytes())

    with serving(serve, LOCALHOST) as address:
        stream = connect(address, KEY, lambda _: b"request")
        with socket.socket(fileno=os.dup(stream.fileno())) as sock:
            assert_tuned(sock)
        stream.close()
    assert seen == [b"request"]


def test_unix_sockets_are_left_alone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        tune(ours)
        assert option(ours, socket.SOL_SOCKET, "SO_KEEPALIVE") == 0


# Connecting


def test_connection_after_the_handshake() -> None:
    def serve(stream: Stream) -> None:
        authenticate(stream)
        assert stream.recv_bytes() == b"request"
        stream.send_bytes(b"x" * 5000)  # more than a handshake may take

    with serving(serve) as address:
        stream = connect(address, KEY, lambda _: b"request")
        assert stream.recv_bytes() == b"x" * 5000
        stream.close()


def test_wrong_key() -> None:
    def serve(stream: Stream) -> None:
        with pytest.raises(AuthenticationError):
            authenticate(stream, b"another key")

    with serving(serve) as address, pytest.raises(AuthenticationError, match="rejected") as raised:
        connect(address, KEY, lambda _: b"request")
    assert repr(address) in str(raised.value)


def test_server_with_a_wrong_key() -> None:
    """It welcomes whoever comes, but does not know the key itself."""
    seen = []

    def serve(stream: Stream) -> None:
        stream.send_bytes(b"#CHALLENGE#" + b"x" * 20)
        stream.recv_bytes()
        stream.recv_bytes()
        stream.send_bytes(b"#WELCOME#", b"y" * 16)
        with pytest.raises((EOFError, ConnectionResetError)):
            seen.append(stream.recv_bytes())

    with serving(serve) as address, pytest.raises(AuthenticationError, match="wrong"):
        connect(address, KEY, lambda _: b"request")
    assert seen == []  # neither a welcome nor the request


def test_no_server(tmp_path: Path) -> None:
    path = tmp_path / "socket"
    with pytest.raises(FileNotFoundError):
        connect(str(path), KEY)
    listener = Listener(str(path))
    listener.abandon()
    with pytest.raises(ConnectionRefusedError):
        connect(str(path), KEY)
    with Listener(LOCALHOST) as listener:
        address = listener.address
    with pytest.raises(ConnectionRefusedError):
        connect(address, KEY)


def test_server_that_hangs_up() -> None:
    with serving(lambda stream: None) as address, pytest.raises((EOFError, ConnectionError)):
        connect(address, KEY)


def test_server_that_is_no_manager() -> None:
    def serve(stream: Stream) -> None:
        stream.send_bytes(b"220 mail.example.org ESMTP")

    with serving(serve) as address, pytest.raises(AuthenticationError, match="220 mail"):
        connect(address, KEY)


@pytest.mark.parametrize(
    ("said", "what"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "an HTTP server"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "an SSH server"),
        (struct.pack("!i", -7), "bad message length"),
    ],
)
def test_server_that_speaks_no_frames(said: bytes, what: str) -> None:
    def serve(stream: Stream) -> None:
        with socket.socket(fileno=os.dup(stream.fileno())) as sock:
            sock.sendall(said)

    with serving(serve) as address, pytest.raises(OSError, match=what) as raised:
        connect(address, KEY)
    assert repr(address) in str(raised.value)


def silent(stream: Stream) -> None:
    """Say nothing, until the client hangs up."""
    with contextlib.suppress(EOFError, ConnectionError):
        stream.recv_bytes()


def dripping(stream: Stream) -> None:
    """Begin a frame, and never end it."""
    with contextlib.suppress(OSError), socket.socket(fileno=os.dup(stream.fileno())) as sock:
        sock.sendall(struct.pack("!i", 100) + b"#CHALL")
        silent(stream)


@pytest.mark.parametrize("serve", [silent, dripping])
def test_server_that_does_not_go_on(serve: Serve) -> None:
    with serving(serve) as address, pytest.raises(TimeoutError, match="did not answer") as raised:
        connect(address, KEY, timeout=0.1)
    assert repr(address) in str(raised.value)


def steps_of_a_handshake(stream: Stream) -> Iterator[str]:
    """Take the server's part; say before each step what the server has to do next."""
    conn = connection.Connection(os.dup(stream.fileno()))
    with conn:
        yield "to ask for the key"
        message = b"{sha256}" + os.urandom(40)
        conn.send_bytes(b"#CHALLENGE#" + message)
        conn.recv_bytes()
        yield "to say whether our key is right"
        conn.send_bytes(b"#WELCOME#")
        yield "to prove that it has the key"


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("leaves", [False, True], ids=["stops", "leaves"])
def test_server_that_stops_within_the_handshake(number: int, leaves: bool) -> None:
    said: list[str] = []

    def serve(stream: Stream) -> None:
        for step, what in enumerate(steps_of_a_handshake(stream)):
            said.append(what)
            if step == number:
                break
        if not leaves:
            with contextlib.suppress(EOFError, ConnectionError):
                while True:
                    stream.recv_bytes()

    with serving(serve) as address:
        kinds = (EOFError, ConnectionError) if leaves else TimeoutError
        with pytest.raises(kinds) as raised:
            connect(address, KEY, timeout=DEADLINE if leaves else 0.1)
    assert repr(address) in str(raised.value)
    if not isinstance(raised.value, ConnectionError):
        assert said[-1] in str(raised.value)


def test_environment_says_how_long_connecting_may_take(monkeypatch: pytest.MonkeyPatch) -> None:
    variable = "FASTMGR_CONNECT_TIMEOUT"
    monkeypatch.delenv(variable, raising=False)
    assert connect_timeout() == HANDSHAKE_TIMEOUT
    monkeypatch.setenv(variable, "0.1")
    assert connect_timeout() == connect_timeout(10.0) == 0.1
    with serving(silent) as address, pytest.raises(TimeoutError, match="to ask for the key"):
        connect(address, KEY)
    for wrong in ("", "0", "-1", "soon", "nan", "inf"):
        monkeypatch.setenv(variable, wrong)
        with pytest.raises(ValueError, match=f"{variable}={wrong!r}"):
            connect_timeout()


def test_backlog_that_is_full(tmp_path: Path) -> None:
    """The kernel lets who connects to a Unix socket wait, as the stdlib does for ever."""
    path = str(tmp_path / "socket")
    with Listener(path, 0), contextlib.ExitStack() as stack:
        for _ in range(2):
            sock = stack.enter_context(socket.socket(socket.AF_UNIX))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.connect(path)
        with pytest.raises(TimeoutError, match=path):
            connect(path, KEY, timeout=0.1)


def test_established_connection_has_no_limit_of_time() -> None:
    go_on = threading.Event()

    def serve(stream: Stream) -> None:
        authenticate(stream)
        stream.recv_bytes()
        assert go_on.wait(DEADLINE)
        stream.send_bytes(b"late")

    with serving(serve) as address:
        stream = connect(address, KEY, lambda _: b"request", timeout=1.0)
        settle(stream)
        assert not stream.poll(1.5)
        threading.Timer(0.6, go_on.set).start()
        assert stream.recv_bytes() == b"late"
        stream.close()


def test_failed_connection_leaves_no_descriptor() -> None:
    before = len(os.listdir("/dev/fd"))
    refusing = serving(lambda stream: stream.send_bytes(b"no"))
    with refusing as address, pytest.raises(AuthenticationError):
        connect(address, KEY)
    with pytest.raises(FileNotFoundError):
        connect("/nowhere/at/all", KEY)

    def left_none() -> bool:
        gc.collect()
        return len(os.listdir("/dev/fd")) <= before

    poll(left_none, "all descriptors are closed")
