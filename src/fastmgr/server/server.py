"""What a manager's process answers."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import threading
import weakref
from collections.abc import Callable
from multiprocessing import connection, parent_process as get_parent_process, process, util
from time import monotonic, sleep
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from fastmgr import _core
from fastmgr.kinds.primitives import is_locked
from fastmgr.kinds.rows import BY_TYPE, codec_of
from fastmgr.link.introduction import stock_is_refused
from fastmgr.link.sockets import Listener, cannot_bind, claim, hang_up, knock
from fastmgr.link.stream import SIGNALS_INTERVAL
from fastmgr.memory.arena import Arena
from fastmgr.server.arenafile import ArenaFile
from fastmgr.server.calls import create_for_stock, revive
from fastmgr.server.driver import has_few_descriptors
from fastmgr.server.names import Finder, Names
from fastmgr.server.process import Workers, describe, leave_if_copied
from fastmgr.server.stock_peers import Served
from fastmgr.server.table import Entry, Table
from fastmgr.server.views import Counts, LocalObjects, Objects
from fastmgr.stock.dialect import listener_and_client, uses_raw_sockets

if TYPE_CHECKING:
    from multiprocessing.managers import Server as _StockServer
else:
    _StockServer = object

__all__ = ["Server", "all_methods", "public_methods"]

#: Seconds that destructors which are running have at the end.
DISPOSAL_TIMEOUT = 1.0


def all_methods(obj: object) -> list[str]:
    """Return the names of the callable attributes of an object.

    Parameters
    ----------
    obj : object

    Returns
    -------
    list of str
    """
    return [name for name in dir(obj) if callable(getattr(obj, name))]


def public_methods(obj: object) -> list[str]:
    """Return what is exposed of an object by default: methods whose names begin without ``_``.

    Parameters
    ----------
    obj : object

    Returns
    -------
    list of str
    """
    return [name for name in all_methods(obj) if not name.startswith("_")]


# Users see the names that they can import.
all_methods.__module__ = public_methods.__module__ = "fastmgr.managers"


class Server(_StockServer):
    """Holds the shared objects of a manager and serves them to its clients.

    Parameters
    ----------
    registry : dict
        What `BaseManager.register` collected.
    address : address, Listener or None
        Where to listen; None for a fresh Unix socket.
    authkey : bytes
        What clients have to prove.
    serializer : str
        A key of `listener_client`.

    Notes
    -----
    A subclass may override ``create``, ``incref``, ``decref`` or ``serve_client``:
    clients then speak the stdlib's dialect with it, and each is served by a
    thread that calls these hooks.  One that overrides ``accepter`` or
    ``handle_request``, or a serializer with a listener of its own, is given every
    connection unauthenticated, on a thread each, as in the stdlib.
    """

    __module__ = "fastmgr.managers"

    public = [  # noqa: RUF012  (as the stdlib's stubs have it)
        "shutdown", "create", "accept_connection", "get_methods", "debug_info",
        "number_of_objects", "dummy", "incref", "decref",
    ]  # fmt: skip

    #: What clients of ours may call besides; `public` is the stdlib's, and users replace it.
    _own_public = ("about", "described_names", "kept_names", "forget_name", "report")
    #: Seconds in which a new connection has to prove the key.
    handshake_timeout: float = 10.0
    #: Seconds that a server without clients waits for some when the process that started it is
    #: dead, and the same while processes live that were forked by that process.
    grace: float = 5.0
    family_grace: float = 30.0
    #: Seconds that calls which are under way have to be answered in when the server stops; with 0
    #: they are cut off.
    drain_timeout: float = 0.0
    public_methods = staticmethod(public_methods)

    def __init__(
        self, registry: dict[str, Any], address: Any, authkey: bytes, serializer: str
    ) -> None:
        if not isinstance(authkey, bytes):
            raise TypeError(f"Authkey {authkey!r} is type {type(authkey)!s}, not bytes")
        self.registry = registry
        self.authkey = process.AuthenticationString(authkey)  # type: ignore[attr-defined]
        self.serializer = serializer
        if stock_is_refused() and not (self._accepts_raw() and self._offers_fast()):
            raise ValueError(
                f"{type(self).__name__} with serializer {serializer!r} speaks only the standard "
                "library's dialect, which FASTMGR_STOCK_PEERS=off forbids"
            )
        self.listener: Any
        if self._accepts_raw():
            self.listener = address if isinstance(address, Listener) else Listener(address)
        else:
            self.listener = self._foreign_listener(address)
        self.address = self.listener.address
        #: Tells clients that reconnect whether this is still the server they knew.
        self.instance = os.urandom(8)
        self.table = Table()
        self.id_to_obj = Objects(self.table)  # type: ignore[assignment]
        self.id_to_refcount = Counts(self.table)
        self.id_to_local_proxy_obj = LocalObjects(self.table)
        #: The table needs no lock; users' hooks take this one.
        self.mutex = threading.Lock()
        self.stop_event = threading.Event()
        self.arena: Arena | None = Arena()
        self.names = Names()
        self.finder = Finder()
        self.table.revive = functools.partial(_revive, weakref.ref(self))
        self._workers = Workers()
        self._engine: Any = None
        #: What the loop does once a second.
        self._checks: list[Callable[[], object]] = []
        self._watches_parent = False
        #: Connections that the loop does not have, by their ids.
        self._foreign: dict[int, Any] = {}

    def _overrides(self, *names: str) -> bool:
        return any(getattr(type(self), name) is not getattr(Server, name) for name in names)

    def _accepts_raw(self) -> bool:
        """Whether the loop accepts and authenticates connections."""
        return uses_raw_sockets(self.serializer) and not self._overrides(
            "accepter", "handle_request", "_handle_request"
        )

    def _foreign_listener(self, address: Any) -> Any:
        if isinstance(address, Listener):
            raise ValueError(
                f"{type(self).__name__} with serializer {self.serializer!r} accepts connections "
                "in its own way: it has to listen by itself, not at a socket that is open already"
            )
        listener = listener_and_client(self.serializer)[0]
        try:
            return claim(address, functools.partial(listener, address=address, backlog=128))
        except OSError as error:
            raise cannot_bind(error, address) from None

    def _offers_fast(self) -> bool:
        return self.serializer == "pickle" and not self._overrides(
            "create", "incref", "decref", "serve_client"
        )

    def use_arena(self, arena: str | bool) -> None:
        """Choose what is shared with clients on this host, before any is served.

        Parameters
        ----------
        arena : str or bool
            A file for what has a name, True for memory, False for nothing.

        Raises
        ------
        BlockingIOError
            Another server uses the file.
        ValueError
            The file is no arena, or it is damaged.
        OSError
            The file cannot be opened, is not this user's alone, or the disk is full.
        """
        self.arena = Arena() if arena else None
        if not isinstance(arena, bool):
            assert self.arena is not None
            self.names = Names(ArenaFile(arena, self.arena))

    # -- life -----------------------------------------------------------------

    def _prepare(self) -> Any:
        """Make the engine; if it cannot have what it needs, that shows before a client comes."""
        if self._engine is None:
            listener = self.listener if self._accepts_raw() else None
            arena = self.arena
            if has_few_descriptors() and self.names.file is None:
                arena = None
            own = getattr(self.create, "__func__", None) is Server.create
            create = None if own else self.create
            fast = self._offers_fast()
            engine = _core.Engine(self, listener, self._workers, fast, create, arena)
            if self._watches_parent:
                self._watch_parent(engine)
            if self.names.file is not None:
                self._each_second(engine, self.names.file.check)
            self._engine = engine
        return self._engine

    def serve_forever(self) -> NoReturn:
        """Serve until a client calls ``shutdown``, then leave by `SystemExit`."""
        process.current_process()._manager_server = self  # type: ignore[attr-defined]
        pid = os.getpid()  # a signal's handler may fork from here on
        engine = self._prepare()
        _running.add(self)
        threads = [threading.Thread(target=engine.run, name="loop", daemon=True)]
        if not self._accepts_raw():
            threads.append(threading.Thread(target=self.accepter, name="accepter", daemon=True))
        try:
            for thread in threads:
                thread.start()
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                # Another thread may have taken a signal; its handler runs when this thread wakes.
                while not self.stop_event.wait(SIGNALS_INTERVAL):
                    leave_if_copied(pid)
        finally:
            self.stop_event.set()
            if self.drain_timeout:
                engine.loop.drain()
                threads[0].join(self.drain_timeout)
                if threads[0].is_alive():
                    util.sub_warning(
                        "calls have not ended in %g s: they are cut off", self.drain_timeout
                    )
            engine.loop.stop()
            threads[0].join(1.0)
            self._close()
            if not threads[0].is_alive():
                _running.discard(self)
            # A destructor that is cut off may leave a semaphore or a file behind.
            deadline = monotonic() + DISPOSAL_TIMEOUT
            while engine.disposing and monotonic() < deadline:
                sleep(0.005)
            if sys.stdout is not sys.__stdout__:
                util.debug("resetting stdout, stderr")
                sys.stdout = sys.__stdout__
                sys.stderr = sys.__stderr__
            sys.exit(0)

    def _close(self) -> None:
        """Close what clients and threads wait for: the server serves no more."""
        if not self._accepts_raw():
            knock(self.address)
        with contextlib.suppress(Exception):  # a user's own, or one that is closed already
            self.listener.close()
        for conn in list(self._foreign.values()):
            hang_up(conn)

    def _each_second(self, engine: _core.Engine, check: Callable[[], object]) -> None:
        if check not in self._checks:
            self._checks.append(check)
        engine.loop.tick = lambda: [check() for check in self._checks]

    def _watch_parent(self, engine: _core.Engine) -> None:
        """Stop when the process that started this one is gone, and there are no clients.

        That process may have forked and gone on in its child, as programs do that become daemons.
        """
        parent = get_parent_process()
        if parent is None or parent.pid is None:
            return
        direct = os.getppid()  # a fork server may stand between it and the parent
        grace = self.family_grace
        orphaned = False
        alone_since: float | None = None

        def gone() -> None:
            nonlocal orphaned
            util.info("the process that started the manager is gone")
            orphaned = True
            self._each_second(engine, check)

        def family_gone() -> None:
            nonlocal grace
            grace = self.grace
            gone()

        def check() -> None:
            nonlocal alone_since
            if not orphaned and os.getppid() == direct:
                return
            if engine.loop.has_clients() or self._foreign:
                alone_since = None
            elif alone_since is None:
                alone_since = monotonic()
            elif monotonic() - alone_since >= grace:
                util.info("the manager is alone: it ends")
                self.stop_event.set()

        # Whatever the parent has forked has the sentinel's other end, until it closes that.
        engine.loop.watch(parent.sentinel, family_gone)
        if hasattr(os, "pidfd_open") and not has_few_descriptors():
            try:
                engine.loop.watch(os.pidfd_open(parent.pid), gone)
                return
            except ProcessLookupError:
                gone()
                return
            except OSError:
                pass  # a kernel or a sandbox without it
        self._each_second(engine, check)

    # -- connections, the stock way -----------------------------------------

    def accepter(self) -> None:
        """Accept connections and give each a thread (for foreign listeners and hooks)."""
        while not self.stop_event.is_set():
            try:
                conn = self.listener.accept()
            except OSError as error:
                if getattr(self.listener, "fileno", lambda: 0)() == -1:
                    return
                # Where descriptors have run out the next accept fails at once, too.
                util.info("cannot accept: %s", error)
                sleep(0.1)
                continue
            except Exception as error:  # a listener with authentication of its own
                util.info("connection refused: %s", error)
                continue
            if self.stop_event.is_set():
                conn.close()
                return
            self._foreign[id(conn)] = conn
            self._workers.submit(self._handle_on_worker, "connection", conn)

    def _handle_on_worker(self, conn: Any) -> bool:
        try:
            self.handle_request(conn)
        finally:
            self._foreign.pop(id(conn), None)
        return False  # what users' hooks left in the thread ends with it

    def handle_request(self, conn: Any) -> None:
        """Serve a new connection to its end."""
        try:
            self._handle_request(conn)
        except SystemExit:
            pass
        finally:
            conn.close()

    def _handle_request(self, c: Any) -> None:
        limit = threading.Timer(self.handshake_timeout, hang_up, args=(c,))
        limit.daemon = True
        limit.start()
        try:
            connection.deliver_challenge(c, self.authkey)
            connection.answer_challenge(c, self.authkey)
        except Exception as error:
            util.info("connection refused: %s", error)
            return  # a peer that could not prove the key is told nothing more
        finally:
            limit.cancel()
        self._prepare().stock_peers.answer_request(c)

    def public_function(self, name: str) -> Callable[..., Any]:
        """Return one of the functions that clients may call; ValueError if it is none."""
        if name not in self.public and name not in self._own_public:
            raise ValueError(f"{name!r} unrecognized: it is none of this server's public functions")
        return getattr(self, name)

    def serve_client(self, conn: Any) -> None:
        """Serve the calls of one client thread in the stdlib's dialect."""
        self._prepare().stock_peers.serve_client(conn)

    # -- what may be called of an object though it is not exposed --------------

    def fallback_getvalue(self, conn: Any, ident: str, obj: Any) -> Any:
        """``#GETVALUE``: the object itself, which the reply copies."""
        return obj

    def fallback_str(self, conn: Any, ident: str, obj: Any) -> str:
        """``__str__``"""
        return str(obj)

    def fallback_repr(self, conn: Any, ident: str, obj: Any) -> str:
        """``__repr__``"""
        return repr(obj)

    def fallback_locked(self, conn: Any, ident: str, obj: Any) -> bool:
        """``locked``, which RLock, Condition and the semaphores have since CPython 3.14."""
        return is_locked(obj)

    fallback_mapping: ClassVar[dict[str, Callable[..., Any]]] = {  # type: ignore[misc]
        "__str__": fallback_str,
        "__repr__": fallback_repr,
        "#GETVALUE": fallback_getvalue,
        "locked": fallback_locked,
    }

    # -- public functions: `c` is the connection that asks ---------------------

    def dummy(self, c: Any) -> None:
        """Do nothing: a client that gets the reply is connected."""

    def debug_info(self, c: Any) -> str:
        """Return a line or two on each shared object."""
        with self.mutex:
            return "\n".join(
                f"  {entry.ident}:       refcount={entry.refcount}\n    {str(entry.obj)[:75]}"
                for entry in sorted(self.table.entries.values(), key=lambda entry: entry.ident)
            )

    def number_of_objects(self, c: Any) -> int:
        """Return how many objects clients hold."""
        return len(self.table.entries)

    def about(self, c: Any) -> dict[str, Any]:
        """Return what can be of interest to who looks for what is slow, as plain values."""
        return describe(self)

    def report(self, c: Any, most: int = 1000, by: str = "calls") -> dict[str, Any]:
        """Return what `fastmgr.Monitor` makes a report of, as plain values."""
        report: dict[str, Any] = self._prepare().reporter.report(most, by)
        return report

    def kept_names(self, c: Any) -> list[str]:
        """Return the names under which objects are kept."""
        return sorted(self.names.objects)

    def described_names(self, c: Any) -> list[tuple[str, str, str | None]]:
        """Return of each such name the type's id, and the typecode if objects of it have one."""
        return sorted(
            (name, BY_TYPE[type(kept)].typeids[0], codec_of(type(kept)).typecode(kept))
            for name, kept in list(self.names.objects.items())
        )

    def forget_name(self, c: Any, name: str) -> bool:
        """Drop a name; return whether there was such."""
        forgotten = self.names.forget(name)
        self.table.forgets = self.table.forgets or forgotten
        return forgotten

    def shutdown(self, c: Any) -> None:
        """Reply, then let `serve_forever` return."""
        try:
            util.debug("manager received shutdown message")
            c.send(("#RETURN", None))
        except OSError as error:
            util.info("shutdown could not be confirmed: %s", error)
        finally:
            self.stop_event.set()

    def create(
        self, c: Any, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[str, tuple[str, ...]]:
        """Create an object; return its ident and the names of its exposed methods.

        One reference is counted, which the caller has to return by ``decref``.
        """
        return create_for_stock(self, typeid, args, kwds)

    def get_methods(self, c: Any, token: Any) -> tuple[str, ...]:  # type: ignore[override]
        """Return the names of the methods that are exposed of a token's object."""
        return tuple(self.table.lookup(token.id).exposed)

    def accept_connection(self, c: Any, name: str) -> None:
        """Serve the calls of this connection from now on, on this thread."""
        if not hasattr(c, "recv"):
            raise TypeError("accept_connection: this client's connection is served already")
        threading.current_thread().name = name
        if isinstance(c, Served):
            c.conn.name = name
        c.send(("#RETURN", None))
        self.serve_client(c)

    def incref(self, c: Any, ident: str) -> None:
        """Count a reference."""
        self.table.retain(ident)

    def decref(self, c: Any, ident: str) -> None:
        """Return a reference; with the last the object goes."""
        self.table.release(ident)


#: The servers that this process runs, for the child of a fork.
_running: set[Server] = set()


def _after_fork_in_child() -> None:
    # A child of a server (a managed Pool's worker, or what a user's method forks) holds copies of
    # the sockets: it must not answer, and clients would wait for ever on a server that is gone.
    for server in _running:
        if server.arena is not None:
            server.arena.part()
        server._engine.loop.close_copies()
        if not server._accepts_raw() and isinstance(server.listener, connection.Listener):
            server.listener.close()  # its file's finalizer is the parent's alone
        for conn in server._foreign.values():
            with contextlib.suppress(OSError):
                conn.close()
    if _running:
        process.current_process()._manager_server = None  # type: ignore[attr-defined]
    _running.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _revive(server: weakref.ref[Server], key: Any) -> Entry | None:
    """What `calls.revive` says, for a table that does not keep its server."""
    known = server()
    return None if known is None else revive(known, key)
