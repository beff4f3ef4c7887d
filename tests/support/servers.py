"""Servers that run in this process, or as users make theirs."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

from fastmgr.client.sessions import retire_sessions
from fastmgr.managers import Server, SyncManager
from fastmgr.server.connection import Conn, Place
from fastmgr.server.table import Entry
from support.frames import OP_RETURN
from support.managers import KEY, ProbeManager, hide_server
from support.peers import FastPeer
from support.waiting import DEADLINE, poll


@contextlib.contextmanager
def hooked(
    server_class: type[Server], arena: str | bool = True, kind: type[ProbeManager] = ProbeManager
) -> Iterator[Any]:
    """A manager in a thread of this process, whose `_Server` is of the users."""

    class Manager(kind):  # type: ignore[misc,valid-type]
        _Server = server_class

    server = Manager(authkey=KEY, arena=arena).get_server()
    assert type(server) is server_class

    def serve() -> None:
        with contextlib.suppress(SystemExit):
            server.serve_forever()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    manager = Manager(server.address, KEY)
    streams = sys.stdout, sys.stderr  # which a server that ends resets
    hide_server(server)
    try:
        manager.connect()
        yield manager
    finally:
        server.stop_event.set()
        thread.join(DEADLINE)
        sys.stdout, sys.stderr = streams
        server.listener.close()
        retire_sessions(server.address)


def choose_poller(kind: str) -> None:
    """Called in the server's process, before the server is made."""
    if kind:
        os.environ["FASTMGR_POLLER"] = kind


class TableServer(Server):
    """Changes its table as users' servers do, when it is told to."""

    public: ClassVar[list[str]] = [*Server.public, "put", "take_out", "again", "stash", "forget"]
    stashed: ClassVar[list[Entry]] = []

    def put(self, c: Any, ident: str, obj: Any) -> None:
        refcount = self.id_to_refcount.get(ident, 1)
        self.id_to_obj[ident] = (obj, {"__len__", "pop", "append"}, None)
        self.id_to_refcount[ident] = refcount

    def take_out(self, c: Any, ident: str) -> None:
        del self.id_to_obj[ident]

    def again(self, c: Any, ident: str, exposed: list[str]) -> None:
        """Share what is shared already, so that other methods are exposed of it."""
        self.table.add(self.id_to_obj[ident][0], set(exposed), None, False)

    def stash(self, c: Any, ident: str) -> None:
        self.stashed.append(self.table.stash(ident))

    def forget(self, c: Any) -> None:
        self.stashed.clear()


def told(peer: FastPeer, name: str, *args: Any) -> None:
    assert peer.control(name, *args)[0] == OP_RETURN


class ListeningServer(Server):
    """Listens as the stdlib does."""

    def accepter(self) -> None:
        super().accepter()


class ListeningManager(SyncManager):
    _Server = ListeningServer


class HookedServer(Server):
    """With hooks of a user's: clients speak the stdlib's dialect with it."""

    def incref(self, c: Any, ident: str) -> None:
        super().incref(c, ident)


class HookedManager(SyncManager):
    """A manager of such a server."""

    _Server = HookedServer


class OddTypes:
    def unpicklable(self) -> Any:
        return threading.Lock()

    def descriptors(self) -> list[str]:
        links = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                links.append(os.readlink(f"/proc/self/fd/{name}"))
        return links

    def leave(self) -> None:
        raise SystemExit(3)

    def thread_name(self) -> str:
        return threading.current_thread().name


class RawManager(ProbeManager):
    pass


RawManager.register("OddTypes", OddTypes)


class SeenServer(Server):
    """A server that the tests can look into, for it runs in their process."""

    last: ClassVar[Any] = None

    def _prepare(self) -> Any:
        SeenServer.last = self
        return super()._prepare()


def conns_of(server: Any) -> list[Conn]:
    """The connections of peers that speak by hand."""
    return [conn for conn in list(server._engine.loop.conns.values()) if conn.name == "by hand"]


def conn_of(server: Any) -> Conn:
    (conn,) = conns_of(server)
    return conn


def await_place(conn: Conn, *places: Place) -> None:
    poll(lambda: conn.place in places, f"{places}")


def with_the_loop_held(server: Any, act: Callable[[], None]) -> None:
    """Do something that the loop sees only when all of it is done."""
    held, done = threading.Event(), threading.Event()
    reader, writer = os.pipe()

    def hold() -> None:
        os.close(reader)
        held.set()
        assert done.wait(DEADLINE)

    server._engine.loop.watch(reader, hold)
    os.close(writer)
    try:
        assert held.wait(DEADLINE)
        act()
    finally:
        done.set()
