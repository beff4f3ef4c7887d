"""The life of a session: how servers see that its process lives, and what becomes of it otherwise.

A session has a connection that is subscribed to ``fm:s:<id>``; the functions of our library count
the subscribers.  So a session dies with its process, whatever ends that, and with no clock.  When
the connection is lost while the server goes on, the server may have handed on what the session
held: the session goes on under another id, and who held a lock gets `LockLost`.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from collections.abc import Callable
from multiprocessing import ProcessError, current_process, util
from typing import Any
from urllib.parse import quote

from fastmgr.engines.valkey import library
from fastmgr.engines.valkey.connection import Connection
from fastmgr.engines.valkey.errors import ReplyError, exception_of
from fastmgr.engines.valkey.grants import Grants
from fastmgr.engines.valkey.primaries import follow, is_replica
from fastmgr.stock.dialect import RemoteError

__all__ = ["AGAIN_AFTER", "GRACE", "SWEEP_EVERY", "Life", "enlistment", "subscribe", "sweep"]

#: Seconds after a server's start or a failover in which nobody is taken for dead.
GRACE = 3.0
#: Seconds between two looks for sessions that have died.
SWEEP_EVERY = 3.0
#: Seconds in which a server must answer what it is asked while the caller is interrupted.
ANSWER_IN = 3.0
#: Seconds in which a server must have read its data.
LOADED_IN = 30.0
#: Seconds between two attempts to reach a server that is away.
AGAIN_AFTER = 0.05, 1.0


class Life(Grants):
    """The life of one session with one server.

    Parameters
    ----------
    session : ValkeySession
        It has this as its ``life``.

    Attributes
    ----------
    instance : bytes or None
        Which server judges the session: it changes where a server starts, or takes another's place.
    """

    def __init__(self, session: Any) -> None:
        self._session = weakref.ref(session)
        self.reset()

    def reset(self) -> None:
        """Begin anew, as in the child of a fork."""
        self.instance: bytes | None = None
        self._lock = threading.RLock()  # a signal's handler may call in the midst of this
        self._connection = None
        self._thread: threading.Thread | None = None
        self._over = threading.Event()
        self.hold_nothing()
        self._owed: list[list[Any]] = []

    # -- the connection -----------------------------------------------------------

    def begin(self) -> None:
        """Make sure that the server sees this process, before it owns anything there.

        Raises
        ------
        OSError
            The server cannot be reached.
        """
        if self._connection is not None and self._connection.usable:
            return
        with self._lock:
            if self._connection is not None and self._connection.usable:
                return
            session = self._session()
            assert session is not None
            self._subscribe(session)
            self._start(session, _watch)

    def _start(self, session: Any, watch: Callable[[Any], None]) -> None:
        """Start the thread, unless it runs; see to it that the session ends in order."""
        if self._thread is None or not self._thread.is_alive():
            self._over = threading.Event()
            self._thread = threading.Thread(
                target=watch, args=(self,), daemon=True, name="fastmgr life"
            )
            self._thread.start()
        if self._finalizer is None:
            # Before a manager's own finalizer (0), after users' (> 10).
            self._finalizer = util.Finalize(
                session, _end, args=(weakref.ref(self),), exitpriority=10
            )

    _finalizer: Any = None

    def _subscribe(self, session: Any) -> None:
        """Open the connection, and be seen over it; the caller has the lock."""
        connection = session.dial()
        if is_replica(connection):
            connection.close()
            follow(session)
            connection = session.dial()
        try:
            instance = _ask(connection, b"instance", 0)
            is_another = self.instance is not None and instance == self.instance
            if is_another:
                self._begin_another(session)
            subscribe(connection, session.id)
            self.instance = _ask(connection, b"hello", 0, session.id, str(GRACE))
            _ask(connection, b"enlist", 1, *enlistment(session))
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        if is_another:
            session.references.take_anew()

    def _begin_another(self, session: Any) -> None:
        """The server has gone on without us: be another session, which holds nothing."""
        session.id = os.urandom(8).hex().encode()
        self.lose_all(session)
        self._owed.clear()

    def end(self) -> None:
        """End the session in order: what it holds stays held, as with the stdlib's servers."""
        session = self._session()
        self._over.set()
        connection, self._connection = self._connection, None
        if connection is None:
            return
        if session is not None:
            self.hold_no_more(session)
        try:
            if connection.usable and session is not None:
                self._part(session)
        except (OSError, RemoteError, ProcessError) as error:
            util.debug("the server cannot be told that the session ends: %s", error)
        finally:
            connection.close()
            self._await_thread()

    def _await_thread(self) -> None:
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(ANSWER_IN)

    def holds_something(self) -> bool:
        """Whether the session has references, once it has returned what is due.

        A lock that it holds and has no reference to stays held when it ends.
        """
        session = self._session()
        if session is None:
            return False
        session.references.flush()
        with contextlib.suppress(OSError, RemoteError):
            session.references.collect()
        return bool(session.references.held)

    def _part(self, session: Any) -> None:
        """Tell the server that the session ends."""
        for key in self._held:
            kind = b"semaphore" if b"emaphore-" in key else b"lock"
            session.ask([b"FCALL", b"fm1_" + kind + b"_keep", 1, key, session.id])
        session.references.end()
        session.ask([b"SREM", b"{%b}:sessions" % session.ns, session.id])

    def move(self) -> None:
        """Be seen by another server from now on."""
        if self._connection is not None:
            self._connection.close()

    def abandon(self) -> None:
        """Leave the connection to the parent: this is the child of a fork."""
        if self._connection is not None:
            self._connection.abandon()
        self._finalizer = None
        self.reset()

    def is_seen(self, id_: bytes) -> bool:
        """Return whether the session has that id, and has not been taken for dead under it."""
        session = self._session()
        if session is None or session.id != id_:
            return False
        if not session.run([b"FCALL", b"fm1_dead", 0, id_]):
            return True
        connection = self._connection
        if connection is not None:
            connection.close()
        self.begin()
        return False

    # -- what is to be undone -----------------------------------------------------------

    def withdraw(self, request: list[Any]) -> Any:
        """Make a request that takes a wait back, and return the reply.

        Where the server is away the request is made later, and more than once if need be.
        """
        self.owe(request)
        session = self._session()
        try:
            reply = session.ask(request, timeout=ANSWER_IN)
        except OSError as error:
            util.debug("an interrupted wait is taken back later: %s", error)
            return None
        self._settle(request)
        return reply

    def owe(self, request: list[Any]) -> None:
        """Have a request made when the server is there again."""
        self._owed.append(request)

    def _settle(self, request: list[Any]) -> None:
        with contextlib.suppress(ValueError):
            self._owed.remove(request)

    def _pay(self, session: Any) -> None:
        """Make the requests that are owed since the server was away or the caller interrupted."""
        for request in list(self._owed):
            session.ask(request)
            self._settle(request)


def subscribe(connection: Connection, id_: bytes) -> None:
    """Have a server see over a connection that the session of an id lives."""
    name = quote(current_process().name, safe="")
    connection.call([b"CLIENT", b"SETNAME", b"fastmgr:%b:%b" % (id_, name.encode())])
    connection.send([b"SUBSCRIBE", b"fm:s:" + id_])
    # The server confirms by a push, which comes before the reply to this; or refuses by an error.
    reply = connection.call([b"PING"], ANSWER_IN)
    if isinstance(reply, ReplyError):
        raise exception_of(reply)
    connection.pushes.clear()


def enlistment(session: Any) -> tuple[bytes, bytes, int]:
    """Return the list of sessions of a namespace, and what a session says to be put there."""
    return b"{%b}:sessions" % session.ns, session.id, library.VERSION


def _ask(connection: Connection, function: bytes, keys: int, *args: Any) -> Any:
    """Call a function over a connection; give the server the library where it has none."""
    words = [b"FCALL", b"fm1_" + function, keys, *args]
    end = time.monotonic() + LOADED_IN
    reply = connection.call(words)
    while isinstance(reply, ReplyError) and reply.code == "LOADING" and time.monotonic() < end:
        time.sleep(AGAIN_AFTER[0])
        reply = connection.call(words)
    if isinstance(reply, ReplyError) and "unction not found" in reply.text:
        library.load(connection)
        reply = connection.call(words)
    if isinstance(reply, ReplyError):
        raise exception_of(reply)
    return reply


def _end(reference: Any) -> None:
    life = reference()
    if life is not None:
        life.end()


def _watch(life: Life) -> None:
    """Notice that the connection is lost, and have another; look for the dead now and then."""
    pause, longest = AGAIN_AFTER
    swept = time.monotonic()
    while not life._over.is_set():
        connection = life._connection
        try:
            if connection is None or not connection.usable:
                life.begin()
                pause = AGAIN_AFTER[0]
                continue
            connection.push(SWEEP_EVERY / 3)
            session = life._session()
            if session is None or session.retired:
                life.end()
                return
            if is_replica(connection):
                follow(session)
                del session
                continue
            life._pay(session)
            if time.monotonic() - swept > SWEEP_EVERY:
                swept = time.monotonic()
                life.instance = _ask(connection, b"hello", 0, session.id, str(GRACE))
                sweep(session, always=False)
                session.references.collect()
            del session
        except Exception as error:
            if life._over.is_set() or life._session() is None:
                return
            util.debug("the life of a session: %s", error)
            life._over.wait(pause)
            pause = min(2 * pause, longest)


def sweep(session: Any, always: bool = True) -> int:
    """Look for sessions that have died, and return for how many it was put right what they left.

    Unless `always`, do so only if no other session has done so a moment ago, and look at the
    objects only if a session has died.  A client that was killed in the midst of a change may have
    left a container with a reference too many: that goes when the container is gone.
    """
    known = b"{%b}:sessions" % session.ns
    mark = [b"SET", b"{%b}:swept" % session.ns, session.id, b"NX", b"PX", int(SWEEP_EVERY * 900)]
    reply = session.ask(mark)
    if isinstance(reply, ReplyError) and reply.code != "OOM":  # then it is needed most
        raise exception_of(reply)
    if reply is None and not always:
        return 0
    ids = session.run([b"SMEMBERS", known])
    dead = set(ids)
    for server in session.servers():
        dead.intersection_update(_sweep_server(session, server, ids, always))
    if dead:
        session.run([b"SREM", known, *dead])
    return len(dead)


def _sweep_server(session: Any, server: Any, ids: list[bytes], always: bool) -> list[bytes]:
    """Put right what dead sessions left on one server; return which these are."""
    dead: list[bytes] = server.run([b"FCALL", b"fm1_dead", 0, *ids])
    if not dead and not always:
        return dead
    cursor = b"0"
    while True:
        cursor, keys = server.run(
            [b"SCAN", cursor, b"MATCH", _pattern(session.prefix), b"COUNT", 1000]
        )
        for key in keys:
            rest = key.partition(b"}:")[2]
            if rest == b"m" or rest.endswith(b":m"):
                bury(session, key[:-2], dead)
            elif rest.startswith(b"w:") and rest[2:18] in dead:
                session.run([b"UNLINK", key])
        if cursor == b"0":
            break
    return dead


def _pattern(prefix: bytes) -> bytes:
    """Return what matches the keys that begin with a prefix."""
    for special in (b"\\", b"*", b"?", b"[", b"]"):
        prefix = prefix.replace(special, b"\\" + special)
    return prefix + b"*"


def bury(session: Any, key: bytes, dead: list[bytes]) -> None:
    """Drop what sessions that are dead had to do with an object."""
    from fastmgr.engines.valkey.references import release, settle

    try:
        if dead:
            release(session, key, session.run([b"FCALL", b"fm1_bury", 1, key, *dead]))
        settle(session, key, dead)
    except RemoteError as error:
        util.debug("%r is gone, or nothing of ours: %s", key, error)
