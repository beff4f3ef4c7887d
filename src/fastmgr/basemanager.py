"""What every manager is: a server process that is started or met, and what can be asked of it.

`fastmgr.managers` has the managers themselves, and is where users find these names, too.
"""

from __future__ import annotations

import importlib
import operator
import os
from collections.abc import Callable, Iterable, Mapping
from itertools import chain
from multiprocessing import connection, get_context, process, util
from multiprocessing.context import ProcessError, get_spawning_popen
from os import getpid
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

from fastmgr.baseproxy import AutoProxy, as_authkey, authkey_for
from fastmgr.client import sessions
from fastmgr.client.connections import authkeys
from fastmgr.client.serverprocess import also_eof, end_server, join
from fastmgr.client.sessions import (
    carried_address,
    engine_of,
    retire_sessions,
    scheme_of,
    session_with,
)
from fastmgr.creation import Read, creating, method_that_creates
from fastmgr.link.stream import SIGNALS_INTERVAL
from fastmgr.pipeline import Pipeline
from fastmgr.stock.dialect import Token, listener_and_client, stock_client

if TYPE_CHECKING:
    from multiprocessing.managers import BaseManager as _StockManager

    from fastmgr.onengine import Beside
    from fastmgr.server.server import Server
else:
    # To a type checker our managers are the stdlib's, too: annotations name those.
    _StockManager = object

__all__ = ["BaseManager", "LoadedLater", "State", "load", "server_names"]

#: Names of `fastmgr.managers`, and the module that has them: a process that is only a client loads
#: no server, nor the objects that a server has.
server_names = dict.fromkeys(("Server", "all_methods", "public_methods"), "server.server")
server_names["Value"] = "kinds.values"


def load(name: str) -> Any:
    """Return what one of `server_names` stands for."""
    return getattr(importlib.import_module(f"fastmgr.{server_names[name]}"), name)


class LoadedLater:
    """An attribute of a class that stands for one of `server_names`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __get__(self, instance: object, owner: type) -> Any:
        return load(self.name)


class State:
    """Where a manager is in its life: in ``value`` one of INITIAL, STARTED, SHUTDOWN."""

    __slots__ = ("value",)

    INITIAL = 0
    STARTED = 1
    SHUTDOWN = 2

    value: int


_M = TypeVar("_M", bound="BaseManager")

#: Seconds that `shutdown` waits for each of the server's answers; then it terminates it.
ANSWER_TIMEOUT = 10.0

#: What a manager has for its process alone, or makes anew: it is not pickled.
_LOCAL = frozenset(("_Client", "_Listener", "_process", "_session_", "shutdown"))


def _address_of_environment() -> str | None:
    """Return the address of ``FASTMGR_ADDRESS``, which a program need not know of."""
    address = os.environ.get("FASTMGR_ADDRESS") or None
    if address is not None and scheme_of(address) is None:
        raise ValueError(
            f"FASTMGR_ADDRESS={address!r}: an engine's address is needed, scheme://..., for each "
            "manager without one would listen there"
        )
    return address


class BaseManager(_StockManager):
    """Creates a server process, or connects to one, and shares objects by it.

    Parameters
    ----------
    address : address, optional
        Where the server listens: a path, or a (host, port) tuple.  None for a
        fresh Unix socket in a private directory.  ``scheme://...`` is an engine's
        (docs/engines.md).
    authkey : bytes, optional
        What client and server prove to each other; the current process's key
        by default.
    serializer : str
        A key of `listener_client`: ``'pickle'``, ``'xmlrpclib'`` or a user's own.
    ctx : multiprocessing context, optional
        Starts the server.
    shutdown_timeout : float
        Seconds for the server to end when told to, before it is terminated, and
        as many again before it is killed.
    arena : str, path or bool
        A file in which the counters, values and arrays that have a name are kept, also after
        the server has ended or was killed.  True for memory that ends with the server, False to
        share none.

    Examples
    --------
    >>> class Account:
    ...     def __init__(self, balance):
    ...         self._balance = balance
    ...     def pay(self, amount):
    ...         self._balance -= amount
    ...         return self._balance
    >>> class Bank(fastmgr.BaseManager):
    ...     pass
    >>> Bank.register("Account", Account)
    >>> with Bank(ctx=fork) as bank:
    ...     bank.Account(10).pay(3)
    7
    """

    _registry: ClassVar[dict[str, tuple[Any, Any, Any, Any]]] = {}
    if TYPE_CHECKING:
        _Server: ClassVar[type[Server]]
    else:  # no annotation, which `typing.get_type_hints` would look up
        _Server = LoadedLater("Server")

    #: The types that a fastmgr server beside an engine hosts, and that server.
    _local_types: ClassVar[frozenset[str]] = frozenset()
    _beside: Beside | None = None
    #: Whether a manager without an address takes the engine's that ``FASTMGR_ADDRESS`` names.
    _uses_environment = False
    #: A `util.Finalize`, there once `start` has been called.
    shutdown: Any

    def __init__(
        self,
        address: Any = None,
        authkey: bytes | None = None,
        serializer: str = "pickle",
        ctx: Any = None,
        *,
        shutdown_timeout: float = 1.0,
        arena: str | os.PathLike[str] | bool = True,
    ) -> None:
        if authkey is None:
            authkey = process.current_process().authkey
        if arena == "":  # as a path it would be the current folder
            raise ValueError(f"arena={arena!r}: the path of a file is needed, or True or False")
        if address is None and self._uses_environment:
            address = _address_of_environment()
        self._address = carried_address(address)
        self._authkey = as_authkey(authkey)
        self._state = State()
        self._state.value = State.INITIAL
        self._serializer = serializer
        self._Listener = listener_and_client(serializer)[0]
        self._Client = stock_client(serializer)
        self._ctx = ctx or get_context()
        self._shutdown_timeout = shutdown_timeout
        self._arena = arena if isinstance(arena, bool) else os.path.abspath(arena)
        self._process: Any = None

    @classmethod
    def from_address(
        cls: type[_M], address: Any, authkey: bytes | None = None, serializer: str = "pickle"
    ) -> _M:
        """Return a manager of this class that is connected to a running server.

        Parameters
        ----------
        address : address
            Where the server listens.
        authkey : bytes, optional
            The server's key, ``b""`` if a ``fastmgr serve`` has none; that of the current process
            by default.
        serializer : str
            The server's.

        Returns
        -------
        BaseManager
            It can be used at once, and has nothing to shut down.

        Raises
        ------
        AuthenticationError, OSError, EOFError
            As `connect` does.
        """
        manager = cls(address, authkey, serializer)
        manager.connect()
        return manager

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name not in _LOCAL}
        state["_state"] = self._state.value
        # As with proxies the key travels only to a process that is being spawned.
        state["_authkey"] = self._authkey if get_spawning_popen() is not None else None
        if type(self._ctx).__module__ == "multiprocessing.context":
            state["_ctx"] = self._ctx.get_start_method()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._process = None
        self._state = State()
        self._state.value = state["_state"]
        if state["_authkey"] is None:
            self._authkey = as_authkey(authkey_for(self._address))
        if isinstance(state["_ctx"], str):
            self._ctx = get_context(state["_ctx"])
        self._Listener = listener_and_client(self._serializer)[0]
        self._Client = stock_client(self._serializer)
        if self._state.value == State.STARTED:
            self.connect()

    def __repr__(self) -> str:
        process, code = self._process, None
        state = {State.INITIAL: "not started", State.SHUTDOWN: "shut down"}.get(self._state.value)
        if process is not None:
            if process._parent_pid == getpid():  # only the parent can tell
                code = process.exitcode
            state = f"{state or 'started'}, process {process.pid}"
            if code is not None:
                state += f", which has ended (exit code {code})"
        elif state is None:
            # `join` forgets a process that has ended.
            ended = "shutdown" in self.__dict__ and sessions.scheme_of(self._address) is None
            state = "ended" if ended else "connected"
        return f"<{type(self).__name__} at {self._address!r}, {state}>"

    def _require_initial(self) -> None:
        state = self._state.value
        known = {State.STARTED: "Already started server", State.SHUTDOWN: "Manager has shut down"}
        if state != State.INITIAL:
            raise ProcessError(known.get(state, f"Unknown state {state!r}"))

    def get_server(self) -> Server:
        """Return a server for this process to run by ``serve_forever()``.

        Raises
        ------
        ProcessError
            The manager has been started, connected or shut down.
        """
        self._require_initial()
        if engine_of(self._address) is not None:
            raise ValueError(f"{self._address!r} is an engine's: no process of ours serves there")
        server = self._Server(self._registry, self._address, self._authkey, self._serializer)
        if self._arena is not True:
            server.use_arena(self._arena)
        return server

    def connect(self) -> None:
        """Connect to the server that runs at the manager's address.

        Raises
        ------
        AuthenticationError
            The key is not the server's.
        OSError, EOFError
            There is no server.
        """
        session = session_with(self._address, self._serializer, self._authkey)
        # A server that was restarted here is met by a fresh connection, not by a stale one.
        session.connect()
        self._state.value = State.STARTED
        self._session_ = session
        if self._local_types and scheme_of(self._address) is not None:
            from fastmgr import onengine

            onengine.end_with(self)

    @property
    def _session(self) -> Any:
        session = self.__dict__.get("_session_")
        if session is None or session.retired or session.address != self._address:
            session = session_with(self._address, self._serializer, self._authkey)
            self._session_ = session
        return session

    def start(
        self, initializer: Callable[..., object] | None = None, initargs: Iterable[Any] = ()
    ) -> None:
        """Start the server in a process of its own.

        Parameters
        ----------
        initializer : callable, optional
            Called first, in the new process.
        initargs : iterable
            What it is called with.

        Raises
        ------
        ProcessError
            The manager has been started, connected or shut down.
        EOFError
            The process ended before it could serve; what it said is on stderr.
        OSError, ValueError
            The address cannot be used, or the arena's file is another server's, cannot be opened,
            or is no such file.  These are EOFErrors as well.
        """
        self._require_initial()
        if initializer is not None and not callable(initializer):
            raise TypeError("initializer must be a callable")
        if (engine := engine_of(self._address)) is not None:
            from fastmgr import onengine

            return onengine.start(self, engine, initializer, initargs)
        reader, writer = connection.Pipe(duplex=False)
        # Without a copy of its own the child notices where a handler's exception ended our wait.
        util.register_after_fork(reader, connection.Connection.close)
        served = (self._registry, self._address, self._authkey, self._serializer)
        self._process = self._ctx.Process(
            target=type(self)._run_server,
            args=(*served, writer, initializer, initargs),
            # A user's own `_run_server` may not know this argument: most calls go without.
            kwargs={} if self._arena is True else {"arena": self._arena},
        )
        if getattr(self._ctx, "get_start_method", lambda: "fork")() == "fork":
            self._Server  # noqa: B018 (loaded here once, and not in each process that is forked)
        ident = ":".join(str(i) for i in self._process._identity)
        self._process.name = f"{type(self).__name__}-{ident}"
        try:
            with writer:
                self._process.start()
            self._await_server(reader)
        except BaseException:
            # Else the end of the program waits for a server that nobody can shut down: a signal's
            # handler may raise in any of these lines.
            if self._process.pid is not None:
                self._process.kill()
            raise
        finally:
            reader.close()

    def _await_server(self, reader: Any) -> None:
        """Wait until the process that was started serves, or says why it cannot."""
        while not reader.poll(SIGNALS_INTERVAL):
            pass  # a signal's handler may raise here what it likes
        try:
            answer = reader.recv()
        except EOFError:
            join(self._process)
            where = "" if self._address is None else f" at {self._address!r}"
            raise EOFError(
                f"the manager's process ended before it could serve{where} "
                f"(exit code {self._process.exitcode}); what it said is on stderr"
            ) from None
        if isinstance(answer, Exception):
            join(self._process)
            raise also_eof(answer)
        self._address = answer
        authkeys[answer] = key = self._authkey
        client = sessions.control_client(self._serializer, ANSWER_TIMEOUT)
        self.shutdown = util.Finalize(
            self,
            type(self)._finalize_manager,
            args=(self._process, answer, key, self._state, client, self._shutdown_timeout),
            exitpriority=0,
        )
        self._state.value = State.STARTED

    @classmethod
    def _run_server(
        cls, registry: dict[str, Any], address: Any, authkey: bytes, serializer: str, writer: Any,
        initializer: Callable[..., object] | None = None, initargs: tuple[Any, ...] = (),
        arena: str | bool = True,
    ) -> None:  # fmt: skip
        from fastmgr.server.process import run_server

        run_server(
            cls._Server, registry, address, authkey, serializer, writer, initializer, initargs,
            arena,
        )  # fmt: skip

    def _create(self, typeid: str, /, *args: Any, **kwds: Any) -> tuple[Token, tuple[str, ...]]:
        """Have the server make an object; return its token and the exposed names.

        The reference that comes with it is the caller's to return by ``decref``,
        except inside the create methods, whose proxy takes it over.
        """
        if self._state.value != State.STARTED:
            # The type is the stdlib's, where this is an assert.
            if self._state.value == State.SHUTDOWN:
                raise AssertionError(f"the manager at {self._address!r} has been shut down")
            raise AssertionError("server not yet started: call start() or connect() first")
        if isinstance(self._address, str) and "://" in self._address:  # an engine's, perhaps
            from fastmgr import onengine

            host = onengine.host_of(self, typeid)
            if host is not self:
                return host._create(typeid, *args, **kwds)
        ident, exposed, reference = self._session.create(typeid, args, kwds, not creating.depth)
        if reference is not None:
            creating.reference = reference
        return Token(typeid, self._address, ident), exposed

    def join(self, timeout: float | None = None) -> None:
        """Wait for the server's process to end, if `start` began one.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait at most.
        """
        if self._process is not None:
            join(self._process, timeout)
            if not self._process.is_alive():
                self._process = None

    def _ask(self, join: Callable[[Any, Any], Any], name: str, *args: Any) -> Any:
        """Call one of a server's own functions; join what a server beside an engine replies."""
        found = self._session.control(name, args)
        if self._beside is not None and self._beside.opened is not None:
            found = join(found, self._beside.opened._session.control(name, args))
        return found

    def _debug_info(self) -> str:
        """Return a line or two on each shared object."""
        return self._ask(lambda *both: "\n".join(filter(None, both)), "debug_info")

    def _number_of_objects(self) -> int:
        """Return how many objects are shared."""
        return self._ask(operator.add, "number_of_objects")

    def names(self) -> list[str]:
        """Return the names under which the server keeps objects, those of an arena's file too."""
        return self._ask(operator.add, "kept_names")

    def forget(self, name: str) -> bool:
        """Drop a name, and what is kept under it.

        Clients that hold the object keep it, as one that has no name.  The name can then be given
        to another object.

        Parameters
        ----------
        name : str

        Returns
        -------
        bool
            Whether there was such a name.
        """
        return self._ask(operator.or_, "forget_name", name)

    def pipeline(self, errors: Literal["raise", "return"] = "raise") -> Pipeline:
        """Return a pipeline: calls of this manager's proxies that are made together.

        Parameters
        ----------
        errors : {'raise', 'return'}
            Whether the first error is raised, once all calls have been made, or
            each stands in its call's place among the results.

        Returns
        -------
        Pipeline
        """
        return Pipeline(self._session, errors)

    def __enter__(self: _M) -> _M:
        if self._state.value == State.INITIAL:
            self.start()
        if self._state.value == State.SHUTDOWN:
            raise ProcessError("Manager has shut down")
        return self

    def __exit__(self, exc_type: object, exc_val: object, exc_tb: object) -> None:
        self.shutdown()

    @staticmethod
    def _finalize_manager(
        process: Any, address: Any, authkey: bytes, state: State, _Client: Callable[..., Any],
        shutdown_timeout: float,
    ) -> None:  # fmt: skip
        try:
            end_server(process, address, authkey, _Client, shutdown_timeout)
        except BaseException:
            # Nobody calls this again, and the end of the program waits for the process, which need
            # not heed a signal that it can ignore or that waits until it goes on.
            process.kill()
            raise
        finally:
            state.value = State.SHUTDOWN
            retire_sessions(address)

    @property
    def address(self) -> Any:
        """Where the server listens."""
        return self._address

    @classmethod
    def register(
        cls,
        typeid: str,
        callable: Callable[..., Any] | None = None,
        proxytype: Any = None,
        exposed: Any = None,
        method_to_typeid: Mapping[str, str] | None = None,
        create_method: bool = True,
        *,
        engine: Literal["local"] | None = None,
        readers: Iterable[str] = (),
    ) -> None:
        """Register a type with this class of managers.

        Parameters
        ----------
        typeid : str
            Names the type, and the method that creates objects of it.
        callable : callable, optional
            Makes an object in the server.  None where objects come only from
            methods of others.
        proxytype : type or callable, optional
            Makes a proxy; `AutoProxy` by default.
        exposed : sequence of str, optional
            Names of the methods that proxies may call; by default the proxy
            type's ``_exposed_``, else every public method.
        method_to_typeid : dict, optional
            For methods that return an object to be shared in its turn: the
            type it is shared as.
        create_method : bool
            Whether to give the class a method called `typeid`.
        engine : {None, 'local'}
            Where the objects are if the manager has an engine's address.  None: the engine hosts
            them, or creating one raises `NotHosted`.  'local': a fastmgr server beside the engine
            hosts them, a process on this host that belongs to the manager.  A type that the class
            has already needs no more: ``register("Pool", engine="local")``.
        readers : iterable of str, optional
            Methods that change nothing.  A client on the host may return again what they returned
            until another is called.  None, if anything else changes the object.
        """
        if engine not in (None, "local"):
            raise ValueError(f"engine={engine!r}: 'local' or None is needed")
        if "_registry" not in cls.__dict__:
            cls._registry = cls._registry.copy()
        given = callable, exposed, method_to_typeid, proxytype
        if engine is not None and all(one is None for one in given):
            callable, exposed, method_to_typeid, proxytype = cls._registry.get(typeid, given)
        if proxytype is None:
            proxytype = AutoProxy
        exposed = exposed or getattr(proxytype, "_exposed_", None)
        method_to_typeid = method_to_typeid or getattr(proxytype, "_method_to_typeid_", None)
        for name in chain.from_iterable((method_to_typeid or {}).items()):
            if type(name) is not str:  # the error's type is the stdlib's, where it is an assert
                raise AssertionError(f"{name!r} is not a string")
        given = callable, exposed, method_to_typeid, proxytype
        cls._registry[typeid] = Read(given, readers) if readers else given
        cls._local_types = cls._local_types - {typeid} | ({typeid} if engine else set())
        if create_method:
            setattr(cls, typeid, method_that_creates(typeid, callable, proxytype))


BaseManager.__module__ = State.__module__ = "fastmgr.managers"
