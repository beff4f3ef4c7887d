# cython: auto_pickle=False
"""The sessions of this process: one with each server that it holds proxies of.

The scheme of an address chooses what serves it: without one that is a fastmgr server or one of the
standard library, which the first connection shows; else an engine (see docs/engines.md).
"""

cimport cython

from fastmgr.client.fast cimport FastSession
from fastmgr.client.session cimport Session, Target

import re
import weakref

from fastmgr.client.connections import authkeys
from fastmgr.client.fast import OtherDialect
from fastmgr.client.stock import StockSession
from fastmgr.stock.dialect import stock_client, uses_raw_sockets

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")


@cython.final
cdef class ClientSession(FastSession):
    """A session in the fast dialect, until the server turns out to speak the stdlib's alone.

    From then on another session, in that dialect, does all its work.  A server that has spoken the
    fast dialect must go on doing so, for in the stdlib's another could answer in its place.
    """

    cdef bint is_fast               # the server has proved that it speaks the fast dialect
    cdef Session fallback           # with a server that does not

    cdef Session other(self):
        """The session that does the work; None for this one itself."""
        if not self.is_fast and self.fallback is None:
            try:
                if not uses_raw_sockets(self.serializer):
                    raise OtherDialect
                self.channel()
                self.is_fast = True
            except OtherDialect:
                fallback = StockSession(
                    self.address, self.serializer, self.authkey, self.timeout)
                if self.fallback is None:   # another thread may have found out meanwhile
                    self.fallback = fallback
        return self.fallback

    cpdef object call(self, Target target, object name, object args, object kwds):
        if self.is_fast or self.other() is None:
            return FastSession.call(self, target, name, args, kwds)
        return self.fallback.call(target, name, args, kwds)

    cdef object call_after_posts(
        self, Target target, object name, object args, object kwds, bint takes
    ):
        if self.is_fast or self.other() is None:
            return FastSession.call_after_posts(self, target, name, args, kwds, takes)
        return self.fallback.call_after_posts(target, name, args, kwds, takes)

    def pipeline(self, list calls):
        if not calls or self.other() is None:
            return FastSession.pipeline(self, calls)
        return self.fallback.pipeline(calls)

    def post(self, Target target, name, args, kwds):
        if self.other() is None:
            return FastSession.post(self, target, name, args, kwds)
        return self.fallback.post(target, name, args, kwds)

    def create(self, typeid, args, kwds, bint anonymous=False):
        if self.other() is None:
            return FastSession.create(self, typeid, args, kwds, anonymous)
        return self.fallback.create(typeid, args, kwds, anonymous)

    def acquire(self, Target target):
        if self.is_fast or target._id in self.holdings or self.other() is None:
            return FastSession.acquire(self, target)
        return self.fallback.acquire(target)

    def control(self, name, args=(), kwds=None):
        if self.other() is None:
            return FastSession.control(self, name, args, kwds)
        return self.fallback.control(name, args, kwds)

    cpdef object locate(self, Target target):
        return FastSession.locate(self, target) if self.other() is None else None

    def connect(self):
        cdef bool was_fast = self.is_fast
        if self.other() is not None:
            self.fallback.connect()
        elif was_fast:      # else it has just connected
            FastSession.connect(self)

    # -- what makes no connection -------------------------------------------

    def held(self):
        return FastSession.held(self) if self.fallback is None else self.fallback.held()

    def lost_connection(self):
        if self.fallback is None:
            return FastSession.lost_connection(self)
        return self.fallback.lost_connection()

    def stock_connection(self):
        if self.fallback is None:
            return FastSession.stock_connection(self)
        return self.fallback.stock_connection()

    def forget_connection(self):
        if self.fallback is None:
            FastSession.forget_connection(self)
        else:
            self.fallback.forget_connection()

    def close(self):
        FastSession.close(self)
        if self.fallback is not None:
            self.fallback.close()

    def retire(self):
        FastSession.retire(self)
        if self.fallback is not None:
            self.fallback.retire()


class Engine:
    """What serves the addresses that have a scheme; a package's entry point names one."""

    def carried(self, address):
        """Return the address that managers and proxies carry, without what is secret in it."""
        return address

    def open_session(self, address, serializer, authkey):
        """Return a new session of this process with what serves at an address."""
        raise NotImplementedError

    def start(self, address, registry, authkey):
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


# Engines by scheme.  Those of other packages are added when they are first asked for.
engines = {}


def scheme_of(address):
    """Return the scheme of an engine's address; None for the address of a server's socket."""
    found = _SCHEME.match(address) if isinstance(address, str) else None
    return found[1].lower() if found else None


def engine_of(address):
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


def _load_engine(scheme, address):
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


def carried_address(address):
    """Return an address as managers and proxies carry it; see `Engine.carried`."""
    try:
        engine = engine_of(address)
    except (ImportError, ValueError):
        return address      # which is refused as soon as it is used
    return address if engine is None else engine.carried(address)


_sessions = weakref.WeakValueDictionary()


def session_with(address, serializer, authkey):
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


def retire_sessions(address):
    """The server at `address` has been shut down."""
    for key in [key for key in list(_sessions) if key[0] == address]:
        session = _sessions.pop(key, None)
        if session is not None:
            session.retire()


class _ControlConnection:
    """What `dispatch` calls a server's own functions over, where the server has to prove itself."""

    def __init__(self, session):
        self._session = session

    def send(self, request):
        _ident, name, args, kwds = request
        self._result = self._session.control(name, args, kwds)

    def recv(self):
        return "#RETURN", self._result

    def close(self):
        if self._session is not _sessions.get((self._session.address, self._session.serializer)):
            self._session.retire()  # it was for this alone


def control_client(serializer, timeout):
    """Return what connects for a call of a server's own function: ``client(address, authkey=key)``.

    In the fast dialect if the server has it; no answer may take longer than `timeout` seconds.
    What the calling thread calls over anyway is used for it: the server may have no descriptor
    left for another connection.
    """
    if serializer != "pickle" or not uses_raw_sockets(serializer):
        return stock_client(serializer, timeout)

    def client(address, *, authkey):
        session = _sessions.get((address, serializer))
        if session is None or session.retired or not session.hurry(timeout):
            session = ClientSession(address, serializer, authkey, timeout)
        return _ControlConnection(session)

    return client
