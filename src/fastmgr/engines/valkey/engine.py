"""The engine that keeps shared objects on a Valkey or Redis server."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

from fastmgr.client.session import Session
from fastmgr.client.sessions import Engine
from fastmgr.engines.valkey.address import carried, parse
from fastmgr.engines.valkey.commands import METHODS
from fastmgr.engines.valkey.embedded import start_server
from fastmgr.engines.valkey.session import ValkeySession
from fastmgr.kinds.rows import BY_TYPEID

__all__ = ["ENGINE", "ValkeyEngine"]

#: The modules that put the methods of their types into `commands.METHODS`.
METHOD_MODULES = (
    "containers", "sets", "lists", "numbers", "counters", "quick", "locks", "events", "queues",
)  # fmt: skip


class ValkeyEngine(Engine):
    """Opens sessions with Valkey servers, and starts private ones."""

    def __init__(self) -> None:
        for name in METHOD_MODULES:
            path = f"{__package__}.{name}"
            if find_spec(path) is not None:
                importlib.import_module(path)

    def carried(self, address: str) -> str:
        return carried(address)

    def hosts(self, typeid: str, make: Callable[..., Any] | None) -> bool:
        if "#create" not in METHODS.get(typeid, {}):
            return False
        row = BY_TYPEID[typeid]
        if make is None or make is row.make or make in row.also_make:
            return True
        # A user's own class may have the id of a built-in type.
        named = getattr(make, "__module__", None), getattr(make, "__qualname__", None)
        return "{}:{}".format(*named) in row.also_make

    def open_session(self, address: Any, serializer: str, authkey: bytes) -> Session:
        where = parse(address)
        if where.kind == "embedded" and not where.path:
            raise ValueError(f"{address!r}: nothing is there before start() has started a server")
        if where.kind == "cluster":
            from fastmgr.engines.valkey.nodes import ClusterSession

            return ClusterSession(where.url, serializer, authkey, where)
        return ValkeySession(where.url, serializer, authkey, where)

    def start(
        self, address: Any, registry: Any, authkey: bytes
    ) -> tuple[str, Callable[[], object]]:
        where = parse(address)
        if where.kind != "embedded":
            return where.url, lambda: None
        if where.path:
            raise ValueError(
                f"{address!r} is the address of a server that was started: connect() to it, or "
                "start one at valkey+embedded:// (?dir=path keeps its data)"
            )
        server = start_server(where.options.get("dir"), where.options.get("fsync", "everysec"))
        return where.at(server.path).url, server.stop

    def ping(self, address: Any) -> None:
        session: Any = self.open_session(address, "pickle", b"")
        try:
            session.connect()
            for server in session.servers():
                server.run([b"PING"])
        finally:
            session.close()


ENGINE = ValkeyEngine()
