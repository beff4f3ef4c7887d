"""Connecting to a server: sockets, TLS, the login, and whether the server can keep objects."""

from __future__ import annotations

import errno
import os
import socket
import ssl
import time
from multiprocessing import AuthenticationError

from fastmgr.client.limits import (
    CallTimeout,
    dial_limit,
    limit_is_over,
    not_dialed,
    unanswered,
)
from fastmgr.engines.valkey.address import Address
from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.errors import ConnectionLost, ReplyError, exception_of
from fastmgr.link.sockets import connect_timeout, tune

__all__ = ["connect_to_path", "dial", "require_fit"]

#: Seconds in which a connection must have been made.
TIMEOUT = 10.0
#: Lower versions have no Functions.
LOWEST = (7, 0)

_contexts: dict[tuple[str | None, ...], ssl.SSLContext] = {}


def dial(
    address: Address, host: tuple[str, int] | None = None, timeout: float | None = None
) -> Connection:
    """Return a new connection, over which the client has logged in.

    Parameters
    ----------
    address : Address
    host : (str, int), optional
        Which node of a cluster, or the primary of `address`; the first of `address` by default.
    timeout : float, optional
        Seconds in which the connection must have been made; by default `TIMEOUT`, or what the
        environment says.

    Raises
    ------
    AuthenticationError
        The server does not accept the user or the password.
    OSError
        Nothing serves there, or not in time.
    """
    if timeout is None:
        timeout = connect_timeout(TIMEOUT)
    timeout = dial_limit(timeout)
    deadline = time.monotonic() + timeout
    name = f"the server at {address.url!r}"
    if address.tls:
        _context(address)  # before anything is said of the server
    try:
        sock = _connect(address, host, timeout)
    except OSError as error:
        if isinstance(error, TimeoutError) and limit_is_over():
            raise not_dialed(_unreachable(error, address)) from None
        raise _unreachable(error, address) from None
    connection = Connection(sock, name)
    try:
        _introduce(connection, address, deadline)
    except ConnectionLost as error:
        connection.close()
        if error.applied is False:
            raise
        hint = "" if address.tls or address.path else " (does it want TLS: valkeys://?)"
        raise ConnectionLost(
            f"{name} has closed the new connection at once{hint}; no call was made", False
        ) from None
    except CallTimeout:
        connection.close()
        raise unanswered(name, False) from None
    except BaseException:
        connection.close()
        raise
    return connection


def connect_to_path(path: str, timeout: float) -> socket.socket:
    """Connect to a Unix socket."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.settimeout(timeout)
        sock.connect(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _connect(address: Address, host: tuple[str, int] | None, timeout: float) -> socket.socket:
    if address.path and host is None:
        return connect_to_path(address.path, timeout)
    host = host or address.hosts[0]
    sock = socket.create_connection(host, timeout)
    try:
        tune(sock)
        return _context(address).wrap_socket(sock, server_hostname=host[0]) if address.tls else sock
    except BaseException:
        sock.close()
        raise


def _context(address: Address) -> ssl.SSLContext:
    get = address.options.get
    wanted = get("ca"), get("cert"), get("key"), get("verify")
    if wanted not in _contexts:
        _contexts[wanted] = _new_context(address, *wanted)
    return _contexts[wanted]


def _new_context(
    address: Address, ca: str | None, cert: str | None, key: str | None, verify: str | None
) -> ssl.SSLContext:
    option = "ca"
    try:
        context = ssl.create_default_context(cafile=ca)
        option = "cert and key"
        if cert is not None:
            context.load_cert_chain(cert, key)
    except OSError as error:  # also of `ssl`
        why = f"{error.strerror or error}: the file of {option} in {address.url!r}"
        raise type(error)(error.errno, why) from None
    if verify == "no":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _unreachable(error: OSError, address: Address) -> OSError:
    """Return an error of the same kind that says where nothing serves, and what would."""
    if isinstance(error, ssl.SSLError):
        return ConnectionError(f"no TLS with the server at {address.url!r}: {error}")
    if isinstance(error, TimeoutError):
        hint = " (over TLS: does it speak TLS at all?)" if address.tls else ""
        return TimeoutError(
            errno.ETIMEDOUT, f"the server at {address.url!r} did not answer in time{hint}"
        )
    hint = "start a Valkey or Redis server there, or use valkey+embedded://, which starts its own"
    if error.errno in (errno.ECONNREFUSED, errno.ENOENT):
        why = os.strerror(error.errno)
        return type(error)(error.errno, f"{why}: nothing serves at {address.url!r} ({hint})")
    return type(error)(error.errno, f"{error.strerror or error}: {address.url!r}")


def _introduce(connection: Connection, address: Address, deadline: float) -> None:
    """Choose the protocol, log in, and choose the database."""
    user, password = address.credentials()
    words: list[bytes | str | int] = ["HELLO", 3]
    if password is not None:
        words += ["AUTH", user or "default", password]
    reply = connection.call(words, deadline - time.monotonic())
    if isinstance(reply, ReplyError):
        if reply.code in ("NOAUTH", "WRONGPASS"):
            raise AuthenticationError(
                f"{connection.name} does not accept the user and the password ({reply.code}): they "
                "belong into the address, or into FASTMGR_VALKEY_USERNAME and _PASSWORD"
            )
        if reply.code == "NOPROTO" or "unknown command" in reply.text:
            raise ConnectionError(f"{connection.name} is too old: version 7.0 is needed ({reply})")
        raise ConnectionError(f"{connection.name} refuses the connection: {reply}")
    if address.db:
        reply = connection.call(["SELECT", address.db], deadline - time.monotonic())
        if isinstance(reply, ReplyError):
            raise exception_of(reply)


def require_fit(connection: Connection) -> None:
    """Make sure that a server can keep shared objects.

    Raises
    ------
    ConnectionError
        The server is too old, or would evict objects when its memory is full.
    """
    info = connection.call(["INFO", "server"])
    if isinstance(info, ReplyError):
        raise exception_of(info)
    lines = dict(line.split(":", 1) for line in info.decode().splitlines() if ":" in line)
    version = lines.get("redis_version", "0")
    if tuple(int(part) for part in version.split(".")[:2]) < LOWEST:
        raise ConnectionError(
            f"{connection.name} is of version {version}: 7.0 is needed, which has Functions"
        )
    reply = connection.call(["INFO", "memory"])
    lines = dict(line.split(":", 1) for line in reply.decode().splitlines() if ":" in line)
    policy = lines.get("maxmemory_policy", "noeviction").strip()
    if policy != "noeviction" and not policy.startswith("volatile-"):
        raise ConnectionError(
            f"{connection.name} evicts keys when its memory is full (its policy is {policy}), "
            "and with them objects that are in use: noeviction is needed, or volatile-*"
        )
