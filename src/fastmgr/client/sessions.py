"""The sessions of this process: one with each server that it holds proxies of.

The scheme of an address chooses what serves it: without one that is a fastmgr server or one of the
standard library, which the first connection shows; else an engine (see docs/engines.md).
"""

from __future__ import annotations

import re
import weakref
from collections.abc import Callable, Mapping
from typing import Any

from fastmgr.client.connections import authkeys
from fastmgr.client.fast import ClientSession
from fastmgr.client.limits import unlimited
from fastmgr.client.session import Session
from fastmgr.client.stock import StockSession
from fastmgr.stock.dialect import stock_client, uses_raw_sockets

__all__ = [
    "ClientSession", "Engine", "carried_address", "control_client", "engine_of", "engines",
    "retire_sessions", "scheme_of", "session_with",
]  # fmt: skip

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


class Engine:
    """What serves the addresses that have a scheme; a package's entry point names one."""

    def carried(self, address: str) -> str:
        """Return the address that managers and proxies carry, without what is secret in it."""
        return address

    def hosts(self, typeid: str, make: Callable[..., Any] | None) -> bool:
        """Return whether objects of a type can be there; by default those of any type can.

        Parameters
        ----------
        typeid : str
        make : callable or None
            What is registered to make an object, if anything is.
        """
        return True

    def open_session(self, address: str, serializer: str, authkey: bytes) -> Session:
        """Return a new session of this process with what serves at an address."""
        raise NotImplementedError

    def start(
        self, address: str, registry: Mapping[str, tuple[Any, Any, Any, Any]], authkey: bytes
    ) -> tuple[str, Callable[[], object]]:
        """Start what serves at an address; by default there is nothing to start.

        Parameters
        ----------
        address : str
            The manager's.
        registry : mapping
            Of each type's id what makes an object, the exposed methods, the types of what methods
            return, and the proxy's type; None where the manager does not say.
        authkey : bytes

        Returns
        -------
        address : str
            The one for clients.
        stop : callable
            What the manager's ``shutdown`` calls.
        """
        return address, lambda: None

    def ping(self, address: str) -> None:
        """Have what serves at an address answer, as a probe does; by default a session connects.

        Any exception says that it does not, and why.
        """
        session = self.open_session(address, "pickle", b"")
        try:
            session.connect()
        finally:
            session.close()


# Engines by scheme.  Those of other packages are added when they are first asked for.
engines: dict[str, Engine] = {}


def scheme_of(address: Any) -> str | None:
    """Return the scheme of an engine's address; None for the address of a server's socket."""
    found = _SCHEME.match(address) if isinstance(address, str) else None
    return found[1].lower() if found else None


def engine_of(address: Any) -> Engine | None:
    """Return the engine that serves an address; None for the address of a server's socket.

    Raises
    ------
    ValueError
        No engine has that scheme.
    ImportError
        The engine of that scheme cannot be loaded.
    """
    scheme = scheme_of(address)
    if scheme is not None and scheme not in engines:
        engines[scheme] = _load_engine(scheme, address)
    return None if scheme is None else engines[scheme]


def _load_engine(scheme: str, address: str) -> Engine:
    from importlib.metadata import entry_points

    points = {point.name: point for point in entry_points(group="fastmgr.engines")}
    # An engine knows its own variants: `valkey+unix` is of the engine `valkey`.
    name = scheme if scheme in points else scheme.partition("+")[0]
    if name not in points:
        known = ", ".join(f"{name}://" for name in sorted({*points, *engines})) or "none"
        raise ValueError(
            f"{address!r}: no engine has the scheme {scheme}:// (there are: {known}); install the "
            f"package that brings it, or write the path of a socket as './{address}'"
        )
    try:
        engine = points[name].load()
    except Exception as error:
        raise ImportError(
            f"{address!r}: the engine {points[name].value} cannot be loaded: {error}"
        ) from error
    if not isinstance(engine, Engine):
        raise ImportError(f"{address!r}: {points[name].value} is no Engine, but {engine!r}")
    return engine


def carried_address(address: Any) -> Any:
    """Return an address as managers and proxies carry it; see `Engine.carried`."""
    try:
        engine = engine_of(address)
    except (ImportError, ValueError):
        return address  # which is refused as soon as it is used
    return address if engine is None else engine.carried(address)


_sessions: weakref.WeakValueDictionary[tuple[Any, str], Session] = weakref.WeakValueDictionary()


def session_with(address: Any, serializer: str, authkey: bytes) -> Session:
    """Return this process's session with a server; no connection is made yet."""
    if isinstance(address, list):
        address = tuple(address)  # xmlrpclib has no tuples
    session = _sessions.get((address, serializer))
    if session is None or session.authkey != authkey or session.retired:
        engine = engine_of(address)
        if engine is not None:
            session = engine.open_session(address, serializer, authkey)
            if not isinstance(session, Session):
                raise TypeError(
                    f"{address!r}: {type(engine).__name__}.open_session returned {session!r}, "
                    "which is no Session"
                )
            authkeys[address] = authkey
        elif serializer == "pickle":
            session = ClientSession(address, serializer, authkey)
        else:
            session = StockSession(address, serializer, authkey)
        _sessions[address, serializer] = session
    return session


def retire_sessions(address: Any) -> None:
    """The server at `address` has been shut down."""
    for key in [key for key in list(_sessions) if key[0] == address]:
        session = _sessions.pop(key, None)
        if session is not None:
            session.retire()


class _ControlConnection:
    """What `dispatch` calls a server's own functions over, where the server has to prove itself."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def send(self, request: tuple[Any, str, tuple[Any, ...], Any]) -> None:
        _ident, name, args, kwds = request
        with unlimited():  # the session has a limit of its own
            self._result = self._session.control(name, args, kwds)

    def recv(self) -> tuple[str, Any]:
        return "#RETURN", self._result

    def close(self) -> None:
        if self._session is not _sessions.get((self._session.address, self._session.serializer)):
            self._session.retire()  # it was for this alone


def control_client(serializer: str, timeout: float) -> Callable[..., Any]:
    """Return what connects for a call of a server's own function: ``client(address, authkey=key)``.

    In the fast dialect if the server has it; no answer may take longer than `timeout` seconds.
    What the calling thread calls over anyway is used for it: the server may have no descriptor
    left for another connection.
    """
    if serializer != "pickle" or not uses_raw_sockets(serializer):
        return stock_client(serializer, timeout)

    def client(address: Any, *, authkey: bytes) -> _ControlConnection:
        session = _sessions.get((address, serializer))
        if session is None or session.retired or not session.hurry(timeout):
            session = ClientSession(address, serializer, authkey, timeout)
        return _ControlConnection(session)

    return client
