"""Sockets: listening, connecting, and the handshake from the client's side."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import AuthenticationError, connection, util
from time import monotonic, sleep
from typing import Any, TypeVar

from fastmgr.link.backlog import backlog_of
from fastmgr.link.handshake import HANDSHAKE_LIMIT, Responder
from fastmgr.link.stream import SIGNALS_INTERVAL, Stream

__all__ = [
    "Address", "Listener", "Missing", "cannot_bind", "claim", "connect", "connect_timeout",
    "hang_up", "is_loss", "is_ours", "knock", "named", "settle", "tune",
]  # fmt: skip

Introduce = Callable[[Callable[[str, bytes], bytes]], bytes]
Address = Any  # (host, port), a path, or an abstract name as bytes or "\0..."

#: Seconds without traffic until the kernel asks a TCP peer whether it lives, seconds between the
#: questions, and questions without an answer until the connection is lost.
KEEPALIVE = {"TCP_KEEPIDLE": 60, "TCP_KEEPINTVL": 15, "TCP_KEEPCNT": 4}

#: Seconds that a server waits for others that bind sockets in its folder.
CLAIM_TIMEOUT = 5.0

#: Seconds for connecting and the handshake, on a client's side, where the environment says nothing.
HANDSHAKE_TIMEOUT = 30.0

_NOBODY = "no manager's server is there: it has ended, or has not been started"
_GONE = "the manager's server there has ended, or has closed the connection"
_HINTS = {
    errno.ENOENT: _NOBODY,
    errno.ECONNREFUSED: _NOBODY,
    errno.EPIPE: _GONE,
    errno.ECONNRESET: _GONE,
}

#: How the first bytes of other servers begin.
_OTHERS = {b"HTTP/": "an HTTP server", b"SSH-": "an SSH server", b"\x15\x03": "a TLS server"}


def _family(address: Address) -> socket.AddressFamily:
    if isinstance(address, (str, bytes)):
        return socket.AF_UNIX
    if isinstance(address, tuple):
        return socket.AF_INET
    raise ValueError(
        f"address {address!r} of type {type(address).__name__}: "
        "a path or a (host, port) tuple is needed"
    )


def tune(sock: socket.socket) -> None:
    """Over TCP: send small messages at once, and notice dead peers."""
    if sock.family != socket.AF_INET:
        return
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        option = getattr(socket, name, None)
        if option is not None:
            sock.setsockopt(socket.IPPROTO_TCP, option, value)


class Listener:
    """A listening socket, at a fresh path in a private directory where no address is given.

    An `OSError` names the address that cannot be bound.
    """

    address: Address
    last_accepted: Address
    _unlink: Any  # a finalizer, where there is a file

    def __init__(self, address: Address = None, backlog: int = socket.SOMAXCONN) -> None:
        is_fresh = address is None  # in a folder that no other process knows
        if is_fresh:
            address = connection.arbitrary_address("AF_UNIX")  # type: ignore[attr-defined]
        family = _family(address)
        sock = socket.socket(family, socket.SOCK_STREAM)

        def bind() -> None:
            sock.bind(address)
            sock.listen(backlog)

        try:
            if family == socket.AF_INET:
                # As the stdlib does: a restarted server takes its port at once.
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bind() if is_fresh else claim(address, bind)
        except OSError as error:
            sock.close()
            raise cannot_bind(error, address) from None
        self._take(sock)
        if _is_path(address):
            mine = address, _identity(address)
            self._unlink = util.Finalize(self, _unlink, args=mine, exitpriority=0)

    @classmethod
    def adopt(cls, sock: socket.socket) -> Listener:
        """Return a listener over a socket that listens already; its path is another's to remove."""
        self = cls.__new__(cls)
        self._take(sock)
        return self

    def _take(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self.address = sock.getsockname()
        self.last_accepted = None
        self._unlink = None

    def fileno(self) -> int:
        """Return the listening descriptor, -1 once closed."""
        return self._socket.fileno()

    def accept_socket(self) -> socket.socket:
        """Return the next connection as a tuned, blocking socket; BlockingIOError where none is."""
        accepted, self.last_accepted = self._socket.accept()
        accepted.setblocking(True)
        tune(accepted)
        return accepted

    def last_peer(self, accepted: socket.socket) -> tuple[int | None, str]:
        """Return the process and the address of the peer accepted last, as far as they are known.

        Over a Unix socket that is the process that has connected, and no address.
        """
        if accepted.family != socket.AF_UNIX:
            host, port = self.last_accepted[:2]
            return None, f"{host}:{port}"
        try:
            if hasattr(socket, "SO_PEERCRED"):
                said = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            else:  # macOS: SOL_LOCAL, LOCAL_PEERPID
                said = accepted.getsockopt(0, 2, 4)
        except OSError:
            return None, ""
        return int.from_bytes(said[:4], sys.byteorder) or None, ""

    def backlog(self) -> int | None:
        """Return how many connections wait to be accepted; None where the system does not tell."""
        return backlog_of(self._socket)

    def close(self) -> None:
        """Stop listening and remove the path."""
        self._socket.close()
        if self._unlink is not None:
            unlink, self._unlink = self._unlink, None
            unlink()

    def abandon(self) -> None:
        """Close a forked child's copy of the socket; the path is the parent's."""
        self._socket.close()

    def __enter__(self) -> Listener:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


def _identity(path: str | bytes) -> tuple[int, int] | None:
    """Return what tells a socket's file from later ones of its name; None where it has gone."""
    try:
        found = os.lstat(path)
    except OSError:
        return None
    return (found.st_dev, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None


def _unlink(path: str | bytes, identity: tuple[int, int] | None) -> None:
    if identity is not None and _identity(path) == identity:  # else it is another server's by now
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def cannot_bind(error: OSError, address: Address) -> OSError:
    """Return an error of the same kind that names the address, and who has it."""
    if error.errno is None:  # "AF_UNIX path too long" carries no number
        return OSError(errno.ENAMETOOLONG, f"{error}, about 100 bytes are the most: {address!r}")
    who = _who_is_at(address) if error.errno == errno.EADDRINUSE else ""
    return OSError(error.errno, f"{error.strerror}: {address!r}{who}")


def _who_is_at(address: Address) -> str:
    """Say who has the address of a Unix socket, where that can be seen."""
    if not isinstance(address, (str, bytes)):
        return ""
    if _is_path(address) and _identity(address) is None:
        return " (a file is there that is no socket)"
    pid = 0
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.setblocking(False)
        sock.connect(address)
        if sys.platform == "linux":
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            pid = struct.unpack("3i", credentials)[0]
        elif sys.platform == "darwin":
            pid = sock.getsockopt(0, 2)  # SOL_LOCAL, LOCAL_PEERPID
    return f" (process {pid} listens there)" if pid else ""


_Bound = TypeVar("_Bound")


def claim(address: Address, bind: Callable[[], _Bound]) -> _Bound:
    """Return what `bind` does, which binds an address and listens there.

    The socket's file that a killed server has left is taken over. Of servers that start at the same
    time one gets the address: until it listens, it holds a lock of the folder.
    """
    if not _is_path(address):
        return bind()
    with _alone_in(os.path.dirname(address) or ".") as alone:
        try:
            return bind()
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not alone or not _take_over(address):
                raise
        return bind()


def _is_path(address: Address) -> bool:
    """Whether an address is a path, which has a file, and no abstract name nor (host, port)."""
    return isinstance(address, (str, bytes)) and not os.fsencode(address).startswith(b"\0")


@contextlib.contextmanager
def _alone_in(folder: str | bytes) -> Iterator[bool]:
    """Let no other server claim an address in a folder; yield False where another does so still.

    Where there can be no lock, as in a folder that cannot be read, it yields True.
    """
    alone, end = True, monotonic() + CLAIM_TIMEOUT
    try:
        fd = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield True
        return
    try:
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                alone = False
                if monotonic() < end:
                    sleep(0.01)
                    continue
            except OSError:  # a file system without locks
                pass
            else:
                alone = True
            break
        yield alone
    finally:
        # The child of a fork may have a copy of the descriptor, which would keep the lock.
        with contextlib.suppress(OSError):
            fcntl.flock(fd, fcntl.LOCK_UN)
        os.close(fd)


def _take_over(address: str | bytes) -> bool:
    """Remove the socket's file that a killed server has left; whether the address is free now."""
    identity = _identity(address)
    if identity is None:
        return False
    for pause in (0.05, 0.0):  # a server of the stdlib's that has bound it may be about to listen
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.setblocking(False)
            if sock.connect_ex(address) != errno.ECONNREFUSED:
                return False
        sleep(pause)
    util.info("nobody listens at %r: its file is taken over", address)
    _unlink(address, identity)
    return True


def knock(address: Address) -> None:
    """Wake a thread that waits for connections at an address, without waiting."""
    with contextlib.suppress(OSError, ValueError), socket.socket(_family(address)) as sock:
        sock.setblocking(False)
        sock.connect_ex(address)


def hang_up(conn: Any) -> None:
    """Let a thread that receives from a connection find it at its end."""
    try:
        with socket.socket(fileno=os.dup(conn.fileno())) as sock:
            sock.shutdown(socket.SHUT_RDWR)
    except AttributeError:  # a user's own kind of connection
        conn.close()
    except (OSError, ValueError):
        pass  # it is closed already


def connect_timeout(default: float = HANDSHAKE_TIMEOUT) -> float:
    """Return the seconds that connecting and the handshake may take.

    ``FASTMGR_CONNECT_TIMEOUT`` in the environment says otherwise than `default`: it holds for
    proxies too, which may have come without a manager.
    """
    said = os.environ.get("FASTMGR_CONNECT_TIMEOUT")
    if said is None:
        return default
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= threading.TIMEOUT_MAX:
        raise ValueError(
            f"FASTMGR_CONNECT_TIMEOUT={said!r} in the environment: a number of seconds above 0 is "
            "needed"
        )
    return seconds


class Missing:
    """A block in which a connection's error is given what the peer still had to do."""

    __slots__ = ("step",)

    def __init__(self, step: str) -> None:
        self.step = step

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, (OSError, EOFError)):
            error.missing = self.step  # type: ignore[union-attr]


def connect(
    address: Address,
    authkey: bytes | None,
    introduce: Introduce | None = None,
    timeout: float | None = None,
) -> Stream:
    """Connect to a server; both sides prove the key, if there is one, within `timeout` seconds.

    Given the handshake's `prove`, `introduce` returns the first request, which is sent in one write
    with the handshake's last frame.  The stream's deadline stands until `settle`.  An error names
    the address, and what the server still had to do: AuthenticationError where the key is not the
    server's, EOFError or OSError where no server answers.
    """
    if timeout is None:
        timeout = connect_timeout()
    stream = None
    try:
        until = monotonic() + timeout
        with Missing("to accept the connection"):
            stream = _connect(address, until)
        stream.set_deadline(until - monotonic())
        if authkey is not None:
            _prove(stream, authkey, introduce)
    except BaseException as error:
        if stream is not None:
            stream.close()
        if isinstance(error, AuthenticationError) or is_loss(error):
            raise named(error, address) from None
        raise
    return stream


def settle(stream: Stream) -> None:
    """End the deadline of `connect`: from now on the stream waits for as long as a call takes."""
    stream.set_deadline(None)
    # Python's signal handlers run in the main thread alone.
    if threading.current_thread() is not threading.main_thread():
        stream.set_timeout(0)


def _connect(address: Address, deadline: float) -> Stream:
    """Return a stream over a connected socket, which looks for signals while it waits."""
    sock = socket.socket(_family(address), socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        code = sock.connect_ex(address)
        if code == errno.EAGAIN:
            code = _await_backlog(sock, address, deadline)
        elif code == errno.EINPROGRESS:
            code = _await_connection(sock, deadline)
        if code:
            raise OSError(code, os.strerror(code))
        sock.setblocking(True)
        tune(sock)
        stream = Stream(sock.detach())
        stream.set_timeout(SIGNALS_INTERVAL)
        return stream
    except BaseException:
        sock.close()
        raise


def _await_connection(sock: socket.socket, deadline: float) -> int:
    """Wait for a TCP connection; return the error's number, 0 for none."""
    poller = select.poll()
    poller.register(sock, select.POLLOUT)
    while not poller.poll(SIGNALS_INTERVAL * 1000):
        if monotonic() >= deadline:
            return errno.ETIMEDOUT
    return sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def _await_backlog(sock: socket.socket, address: Address, deadline: float) -> int:
    """Connect to a Unix socket when the server has accepted enough of those that came before."""
    sock.setblocking(True)
    interval = struct.pack("@ll", 0, int(SIGNALS_INTERVAL * 1e6))
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, interval)
    while True:
        code = sock.connect_ex(address)
        if code not in (errno.EAGAIN, errno.EINTR):
            return code
        if monotonic() >= deadline:
            return errno.ETIMEDOUT


def _prove(stream: Stream, authkey: bytes, introduce: Introduce | None) -> None:
    """Go through the handshake, which ends with a first request."""
    stream.set_limit(HANDSHAKE_LIMIT)
    responder = Responder(authkey)
    try:
        with Missing("to ask for the key"):
            challenge = stream.recv_bytes()
    except OSError as error:
        said = stream.pending()
        if said and not isinstance(error, TimeoutError) and is_loss(error):
            raise OSError(f"bad message length: {_who_says(said)}") from None
        raise
    answer = responder.answer(challenge)
    with Missing("to say whether our key is right"):
        stream.send_bytes(*answer)
        verdict = stream.recv_bytes()
    responder.check_welcome(verdict)
    stream.acknowledge()
    with Missing("to prove that it has the key"):
        proof = stream.recv_bytes()
    welcome = responder.check_response(proof)
    stream.send_bytes(welcome, *([] if introduce is None else [introduce(responder.prove)]))
    stream.set_limit(0)


def _who_says(said: bytes) -> str:
    """Say what is there in a manager's place, by the first bytes that it sent."""
    for beginning, what in _OTHERS.items():
        if said.startswith(beginning):
            return f"{what} is there (it sent {said!r})"
    return f"what is there sent {said!r}"


def is_loss(error: BaseException) -> bool:
    """Whether an error says that a connection failed.

    A signal's handler that ran meanwhile may have raised one of the same type: its traceback leads
    through the user's code.
    """
    return isinstance(error, (OSError, EOFError)) and is_ours(error)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by no code of the user's, such as a signal's handler."""
    trace = error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__"))
        if module.partition(".")[0] not in ("fastmgr", "socket"):
            return False
        trace = trace.tb_next
    return True


def named(error: Any, address: Address) -> Any:
    """Return an error of the same type that says which server it is about, and what to do."""
    if repr(address) in str(error):
        return error
    if type(error).__module__.partition(".")[0] not in ("builtins", "socket", "multiprocessing"):
        return error  # a user's type, which may take other arguments
    server = f"the manager's server at {address!r}"
    missing = getattr(error, "missing", None)
    if isinstance(error, TimeoutError):
        step = f"; it had yet {missing}" if missing else ""
        return TimeoutError(
            errno.ETIMEDOUT,
            f"{server} did not answer in time: it is stopped, is none, or has no descriptors left "
            f"for another client (ulimit -n){step}",
        )
    if isinstance(error, OSError) and error.errno is not None:
        hint = _HINTS.get(error.errno)
        if error.errno == errno.ENOENT and isinstance(address, str):
            host, colon, port = address.rpartition(":")
            if colon and "/" not in host and port.isdecimal():
                hint = f"it is a file's name: over TCP the address is {(host, int(port))}"
        text = f"{error.strerror}: {address!r}" + (f" ({hint})" if hint else "")
        return type(error)(error.errno, text)
    if isinstance(error, EOFError):
        step = f"; it had yet {missing}" if missing else ""
        return EOFError(f"{server} closed the connection: it has ended, or refused it{step}")
    return type(error)(f"{error}; {server}" if str(error) else server)
