"""Serving peers that speak the stdlib's dialect, and what the engine asks of a `Server`."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Mapping
from functools import partial
from multiprocessing import util
from traceback import format_exc
from typing import Any, Protocol

from fastmgr.link.cutter import KINDS
from fastmgr.server.calls import Calls, failed_creation
from fastmgr.server.connection import Conn
from fastmgr.server.names import Finder, Names
from fastmgr.server.table import Table
from fastmgr.stock.dialect import StockConnection, receive
from fastmgr.wire.opaque import transit

__all__ = ["Hooks", "Served", "StockPeers"]


class Hooks(Protocol):
    """A server, as its engine knows it: what it shares, and what users may override."""

    registry: dict[str, Any]
    table: Table
    names: Names
    finder: Finder
    address: Any
    authkey: bytes
    serializer: str
    instance: bytes
    stop_event: threading.Event
    handshake_timeout: float

    @property
    def fallback_mapping(self) -> Mapping[str, Callable[..., Any]]:
        """What may be called of any object: ``function(server, c, ident, obj, *args)``."""

    def public_methods(self, obj: object, /) -> list[str]:
        """Return what is exposed where nothing is said of it."""

    def public_function(self, name: str) -> Callable[..., Any]:
        """Return one of the functions that clients may call: ``function(c, *args)``."""

    def serve_client(self, c: Any) -> None:
        """Serve the calls of one client thread in the stdlib's dialect."""


class Served(StockConnection):
    """A stock peer's connection as the server's functions see it."""

    def __init__(self, conn: Conn, serializer: str) -> None:
        super().__init__(conn.stream, serializer)
        self.conn = conn
        self.may_idle = True
        #: Bytes of the last reply.
        self.sent = 0

    def send(self, message: object) -> None:
        """Send a reply, and hold what the proxies in it stand for until it has been read."""
        transit.sink = []
        try:
            data = self._dumps(message)
            self.in_transit = transit.sink
        finally:
            transit.sink = None
        self.stream.send_bytes(data)
        self.sent = len(data)

    def close(self) -> None:
        """Close the connection, once the current request is done with."""
        self.conn.close()  # the loop closes the descriptor that it watches


class StockPeers:
    """What a server does with requests in the stdlib's dialect."""

    def __init__(self, hooks: Hooks, calls: Calls) -> None:
        self.hooks = hooks
        self.calls = calls

    def answer_request(self, c: Any) -> None:
        """Serve the first request of an authenticated connection."""
        request = funcname = None
        args: Any = ()
        kwds: Any = None
        try:
            request = receive(c)
            _ident, funcname, args, kwds = request
            function = self.hooks.public_function(funcname)
            result = function(c, *args, **kwds)
            if funcname == "accept_connection":
                return  # the client would take a reply for that to a call that it has yet to make
            if funcname == "shutdown" and self.hooks.stop_event.is_set():
                return  # the function has replied by itself, before the process may end
            message: tuple[str, Any] = ("#RETURN", result)
        except EOFError:
            return
        except Exception as error:
            message = ("#TRACEBACK", format_exc())
            if funcname == "create":
                op, payload = failed_creation(self.hooks, args[0] if args else None, kwds, error)
                message = KINDS[op], payload
        try:
            c.send(message)
        except Exception as error:
            with contextlib.suppress(Exception):
                c.send(("#TRACEBACK", format_exc()))
            util.info("Failure to send message: %r", message)
            util.info(" ... request was %r", request)
            util.info(" ... exception was %r", error)

    def serve_client(self, c: Any) -> None:
        """Serve the calls of one client thread."""
        util.debug("serving %r in the stdlib's dialect", threading.current_thread().name)
        read = getattr(c, "recv_request", partial(receive, c))
        conn = c.conn if isinstance(c, Served) else None
        while not self.hooks.stop_event.is_set():
            try:
                ident, methodname, args, kwds = read()
            except (EOFError, ConnectionResetError):
                sys.exit(0)
            except Exception:
                # The request arrived whole and could not be read; the next may.
                message: tuple[str, Any] = ("#TRACEBACK", format_exc())
                ident = None
            else:
                message = self.calls.call(c, conn, ident, methodname, args, kwds)
                # The arguments must not outlive the call in this frame.
                methodname = args = kwds = None
            try:
                try:
                    c.send(message)
                except OSError:
                    raise
                except Exception:
                    c.send(("#UNSERIALIZABLE", format_exc()))
            except Exception as error:
                util.info("exception in thread serving %r", threading.current_thread().name)
                util.info(" ... message was %r", message)
                util.info(" ... exception was %r", error)
                c.close()
                sys.exit(1)
            if conn is not None and ident is not None:
                self.calls.note_sent(conn, ident, c.sent)
            del message
