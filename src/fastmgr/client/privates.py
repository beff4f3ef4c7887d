"""What programs find under the private names of the stdlib's proxies.

There, `BaseProxy._address_to_local` has for each server the connections of this process's threads
and the idents that it holds: the ``_tls`` and ``_idset`` of its proxies.  Here a `Session`
has all that, and what is below shows it.  Nothing of this is made before it is asked for.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, MutableMapping, MutableSet
from multiprocessing import util
from typing import Any

from fastmgr.client.session import Session
from fastmgr.stock.dialect import dispatch

__all__ = ["Connections", "Idents", "Locals", "OnDemand", "privates_of", "return_reference"]


class Connections(threading.local):
    """``BaseProxy._tls``: its ``connection`` is the calling thread's, in the stdlib's dialect.

    As there, a thread has one from its first call, or `BaseProxy._connect`, on.  It is opened when
    it is asked for, since our own calls go by another.
    """

    __slots__ = ("_session",)  # one for all threads: what is not a slot is a thread's own
    _session: weakref.ref[Session]

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)

    @property
    def connection(self) -> Any:
        """The thread's connection; AttributeError where it has none."""
        given = self.__dict__.get("connection")
        if given is not None:
            return given
        session = self._session()
        found = session.stock_connection() if session is not None else None
        if found is None:
            raise AttributeError("this thread has no connection to the manager: call _connect()")
        return found

    @connection.setter
    def connection(self, connection: Any) -> None:
        self.__dict__["connection"] = connection

    @connection.deleter
    def connection(self) -> None:
        given = self.__dict__.pop("connection", None)
        session = self._session()
        try:
            if session is not None:
                session.forget_connection()
        except AttributeError:
            if given is None:
                raise


class Idents(MutableSet[str]):
    """``BaseProxy._idset``: the idents of the objects that this process has proxies of.

    What a program adds, whose proxies count for themselves, is there as well.
    """

    def __init__(self, session: Session) -> None:
        self._session = weakref.ref(session)
        self._added: set[str] = set()

    def _all(self) -> set[str]:
        session = self._session()
        return self._added.union(session.held() if session is not None else ())

    def __contains__(self, ident: object) -> bool:
        return ident in self._all()

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def add(self, ident: str) -> None:
        self._added.add(ident)

    def discard(self, ident: str) -> None:
        self._added.discard(ident)

    @classmethod
    def _from_iterable(cls, idents: Iterable[Any]) -> set[Any]:
        return set(idents)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._all()!r})"


def privates_of(session: Session) -> tuple[Connections, Idents]:
    """Return a session's entry in `BaseProxy._address_to_local`."""
    if session.private is None:
        session.private = Connections(session), Idents(session)
    found: tuple[Connections, Idents] = session.private
    return found


class Locals(MutableMapping[Any, "tuple[Connections, Idents]"]):
    """``BaseProxy._address_to_local``: address to `privates_of` the session with its server.

    Proxies that are made after an entry was deleted begin anew, as in the stdlib.
    """

    def __init__(self, sessions: MutableMapping[tuple[Any, str], Session]) -> None:
        self._sessions = sessions

    def __getitem__(self, address: Any) -> tuple[Connections, Idents]:
        for key, session in list(self._sessions.items()):
            if key[0] == address:
                return privates_of(session)
        raise KeyError(address)

    def __setitem__(self, address: Any, value: object) -> None:
        raise TypeError(f"what is known of {address!r} is its session's, and not to be replaced")

    def __delitem__(self, address: Any) -> None:
        keys = [key for key in list(self._sessions) if key[0] == address]
        if not keys:
            raise KeyError(address)
        for key in keys:
            self._sessions.pop(key, None)

    def __iter__(self) -> Iterator[Any]:
        return iter(dict.fromkeys(address for address, _serializer in list(self._sessions)))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class OnDemand:
    """An attribute that is found when it is asked for; a program may set another in its place."""

    def __init__(self, find: Callable[[Any], Any]) -> None:
        self._find = find
        self.__doc__ = find.__doc__

    def __get__(self, obj: Any, owner: type | None = None) -> Any:
        return self if obj is None else self._find(obj)


def return_reference(token: Any, *others: Any) -> None:
    """``BaseProxy._decref``: return a reference that a program has counted by ``incref`` itself.

    Parameters
    ----------
    token : Token
    *others
        The key, the manager's state or None, ``_tls``, ``_idset`` and ``_Client`` of the proxy;
        before them Python 3.15 has a number that tells proxies apart.
    """
    authkey, state, tls, idents, client = others[-5:]
    idents.discard(token.id)
    if state is None or state.value == state.STARTED:
        try:
            util.debug("DECREF %r", token.id)
            conn = client(token.address, authkey=authkey)
            dispatch(conn, None, "decref", (token.id,))
        except Exception as error:
            util.debug("... decref failed: %s", error)
    else:
        util.debug("DECREF %r -- manager already shutdown", token.id)
    if not idents and hasattr(tls, "connection"):
        util.debug("thread %r has no more proxies so closing conn", threading.current_thread().name)
        tls.connection.close()
        del tls.connection
