"""The sessions of this process: one with each server that it holds proxies of."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from fastmgr.client.negotiation import ClientSession
from fastmgr.client.session import Session
from fastmgr.client.stock import StockSession
from fastmgr.stock.dialect import stock_client, uses_raw_sockets

__all__ = ["control_client", "retire_sessions", "session_with"]

_sessions: weakref.WeakValueDictionary[tuple[Any, str], Session] = weakref.WeakValueDictionary()


def session_with(address: Any, serializer: str, authkey: bytes) -> Session:
    """Return this process's session with a server; no connection is made yet."""
    if isinstance(address, list):
        address = tuple(address)  # xmlrpclib has no tuples
    session = _sessions.get((address, serializer))
    if session is None or session.authkey != authkey or session.retired:
        open_session = ClientSession if serializer == "pickle" else StockSession
        session = open_session(address, serializer, authkey)
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

    def send(self, request: tuple[Any, str, tuple[Any, ...], dict[str, Any]]) -> None:
        _ident, name, args, kwds = request
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
