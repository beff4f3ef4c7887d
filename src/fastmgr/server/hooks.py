"""What the parts of the engine ask of a `Server`."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from fastmgr.server.named import Finder
from fastmgr.server.names import Names
from fastmgr.server.table import Table

__all__ = ["Hooks"]


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
