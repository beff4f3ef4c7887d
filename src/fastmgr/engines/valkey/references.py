"""References: what this process holds in a server, and what the values in its containers hold.

A process has one `Reference` to an object however many proxies it has; when the last is dropped the
reference is returned.  A container has references to the objects of which its values contain
proxies.  The client takes them before it stores such a value, and returns them after it has removed
one.  A client that is killed between leaves a reference too many, never one too few.

References are returned together, before the next request of the session: a finalizer, which may
run at any moment, only notes that one is to be returned.
"""

from __future__ import annotations

import contextlib
import os
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import quote, unquote

from fastmgr.client.session import Target
from fastmgr.engines.valkey.commands import METHODS, Procedure
from fastmgr.engines.valkey.errors import ConnectionLost, ReplyError, exception_of
from fastmgr.engines.valkey.life import sweep
from fastmgr.engines.valkey.values import decode, encode, references
from fastmgr.kinds.rows import BY_TYPEID
from fastmgr.stock.dialect import RemoteError

__all__ = [
    "Maker", "Reference", "References", "create", "fetch", "gone", "hold", "make_ident", "operand",
    "release", "require", "store", "take_out",
]  # fmt: skip

#: Keys that a server is asked for in one step of a scan.
SCANNED = b"1000"
#: Seconds that a server may take besides those for which it is told to wait.
SLACK = 3.0
#: What a server returns for an object that may be part of a cycle.
CONTAINED = [b"C"]
#: More objects that may hold each other are not looked at.
LARGEST_CYCLE = 1000


class Reference:
    """One reference of this process to an object; it is returned when this is dropped."""

    __slots__ = ("__weakref__", "ident", "owner", "session_id")

    def __init__(self, owner: References, ident: str) -> None:
        self.owner, self.ident, self.session_id = owner, ident, owner.session.id

    def __del__(self) -> None:
        if self.session_id == self.owner.session.id:  # else it was a parent process's
            self.owner.pending.append((self.ident, b"s:" + self.session_id))


class References:
    """What a session holds, and what it is to return."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.held: weakref.WeakValueDictionary[str, Reference] = weakref.WeakValueDictionary()
        self.pending: deque[tuple[str, bytes]] = deque()
        self.flushing = False
        #: The keys of objects that only values hold, and that may hold each other.
        self.suspects: set[bytes] = set()

    def take(self, ident: str) -> Reference:
        """Return a reference to an object.

        Raises
        ------
        RemoteError
            The object is gone.
        """
        found = self.held.get(ident)
        if found is None:
            session = self.session
            session.life.begin()
            session.function(b"take", session.key_of(ident), b"s:" + session.id, 1)
            found = self.adopt(ident)
        return found

    def adopt(self, ident: str) -> Reference:
        """Return a reference that the server has counted already."""
        found = self.held[ident] = Reference(self, ident)
        return found

    def flush(self) -> None:
        """Return what is to be returned, and what went with the objects of which that was the end.

        What cannot be returned now is left to the next call.
        """
        if self.flushing:
            return
        self.flushing = True
        try:
            while self.pending:
                counts: dict[tuple[str, bytes], int] = {}
                while self.pending:
                    drop = self.pending.popleft()
                    counts[drop] = counts.get(drop, 0) + 1
                self._drop(counts)
        except (OSError, RemoteError):
            pass  # the next call will tell
        finally:
            self.flushing = False

    def end(self) -> None:
        """Return everything, as the session ends in order."""
        held, self.held = self.held, weakref.WeakValueDictionary()
        mine = b"s:" + self.session.id
        for ident, reference in list(held.items()):
            reference.session_id = b""  # it has been returned
            self.pending.append((ident, mine))
        self.flush()
        self.collect()

    def _drop(self, counts: dict[tuple[str, bytes], int]) -> None:
        while counts:
            (ident, holder), count = counts.popitem()
            try:
                key = self.session.key_of(ident)
                values = self.session.function(b"drop", key, holder, count)
            except BaseException as error:
                if isinstance(error, RemoteError) or getattr(error, "applied", None) is False:
                    counts[ident, holder] = count  # else the server may have done it
                for drop, count in counts.items():
                    self.pending.extend([drop] * count)
                raise
            self.dropped(key, values)

    def dropped(self, key: bytes, values: Sequence[bytes]) -> None:
        """Go on with what the server returned as references to an object were dropped."""
        if values == CONTAINED:
            self.suspects.add(key)
        else:
            release(self.session, key, values)

    def collect(self) -> None:
        """Remove the objects that hold each other, and that nobody else holds.

        Each is found from one whose last reference a session has dropped.
        """
        while self.suspects:
            members = self._holding_each_other(self.suspects.pop())
            if members:
                request = [b"FCALL", b"fm1_collect", len(members), *members]
                # A cluster refuses objects of several slots: a cycle over them stays.
                found = self.session.ask(request)
                if isinstance(found, list):
                    for member, values in zip(members, found, strict=True):
                        release(self.session, member, values)
            self.flush()

    def _holding_each_other(self, key: bytes) -> list[bytes]:
        """Return an object and all that hold it, directly or not; [] where a session holds one."""
        members = {key: None}
        due = [key]
        while due:
            found = self.session.function(b"containers", due.pop(), reads=True)
            if found is None or len(members) > LARGEST_CYCLE:
                return []
            due += [other for other in found if other not in members]
            members.update(dict.fromkeys(found))
        return list(members)

    def abandon(self) -> None:
        """Leave what is to be returned to the parent process: this is the child of a fork."""
        self.pending.clear()
        self.suspects.clear()
        self.flushing = False

    def begin_in_child(self) -> None:
        """Hold what the parent process held, as this is the child of a fork."""
        if self.held:
            with contextlib.suppress(OSError, RemoteError):  # the next call will tell
                self.session.life.begin()
                self.take_anew()

    def take_anew(self) -> None:
        """Count what this process holds under the session's new id."""
        session = self.session
        for ident, reference in list(self.held.items()):
            try:
                session.function(b"take", session.key_of(ident), b"s:" + session.id, 1)
            except RemoteError:
                continue  # the object is gone
            reference.session_id = session.id


# -- values in containers ---------------------------------------------------------


def ident_at(session: Any, key: bytes) -> bytes:
    """Return the id of the object whose main key this is."""
    inner, _, own = key[len(session.ns) + 2 :].partition(b"}")
    return own[1:] + b"@" + inner if own else inner


def _holder(session: Any, key: bytes) -> bytes:
    return b"c:" + ident_at(session, key)


def store(session: Any, key: bytes, value: object) -> bytes:
    """Encode a value for a container; the container then has its references.

    Raises
    ------
    RemoteError
        An object that the value has a proxy of is gone.
    """
    data = encode(value, session.address)
    if data[:1] == b"R":
        hold(session, key, data)
    return data


def hold_all(session: Any, key: bytes, values: Sequence[bytes], typeid: str | None = None) -> None:
    """Take the references of a container to what encoded values contain.

    `typeid` is that of a container that is being made: it must be there first, for references of a
    container that is not there may be taken for those of one that is gone.
    """
    referring = [data for data in values if data[:1] == b"R"]
    if referring and typeid is not None:
        session.function(b"make", key, typeid, session.id)
    for data in referring:
        hold(session, key, data)


def hold(session: Any, key: bytes, data: bytes, count: int = 1) -> None:
    """Take the references of a container to what an encoded value contains."""
    holder = _holder(session, key)
    for ident in references(data):
        session.function(b"take", session.key_of(ident), holder, count)


def fetch(session: Any, data: bytes) -> Any:
    """Return a value that stays in its container."""
    return decode(data, session.address)


def take_out(session: Any, key: bytes, data: bytes) -> Any:
    """Return a value that is in its container no more."""
    value = decode(data, session.address)
    if data[:1] == b"R":
        release(session, key, (data,))
    return value


def release(session: Any, key: bytes, values: Sequence[bytes | None]) -> None:
    """Have the references returned that a container had for values that are in it no more."""
    for data in values:
        if data and data[:1] == b"R":
            holder = _holder(session, key)
            session.references.pending.extend([(ident, holder) for ident in references(data)])


def operand(value: Any) -> Any:
    """Return an argument that a method looks into: of a proxy, a copy of its referent."""
    return value._getvalue() if isinstance(value, Target) else value  # type: ignore[attr-defined]


# -- objects --------------------------------------------------------------------------


def gone(key: bytes) -> RemoteError:
    """Return the error of a call of an object that is not there."""
    return RemoteError(f"the object {key.decode()} is gone\n")


def require(session: Any, key: bytes) -> None:
    """Tell an object that is empty from one that is gone.

    Raises
    ------
    RemoteError
        It is gone.
    """
    if not session.run([b"EXISTS", key + b":m"], True):
        raise gone(key)


class Maker(Procedure):
    """What makes the objects of a type: ``make(session, typeid, args, kwds)`` returns an ident."""

    def make(self, session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any]) -> str:
        raise NotImplementedError


class _Making(threading.local):
    ident: str | None = None  # of what this thread has begun to make

    def begin(self) -> str | None:
        outer, self.ident = self.ident, None
        return outer


_making = _Making()


def make_ident(typeid: str) -> str:
    _making.ident = ident = f"{typeid}-{os.urandom(8).hex()}"
    return ident


def create(
    session: Any, typeid: str, args: Sequence[Any], kwds: Mapping[str, Any] | None, anonymous: bool
) -> tuple[str, Sequence[str], Reference | None]:
    """Do what `Session.create` says."""
    methods = session.methods_of(typeid)
    row = BY_TYPEID.get(typeid)
    session.life.begin()
    make = methods["#create"]
    outer = _making.begin()
    try:
        if isinstance(make, Maker):
            ident = make.make(session, typeid, args, kwds or {})
        else:
            ident = make_ident(typeid)
            session.perform(make, session.key_of(ident), args, kwds)
        reference = None if anonymous else session.references.adopt(ident)
    except BaseException as error:
        if _making.ident is not None:  # it may be there
            session.references.pending.append((_making.ident, b"s:" + session.id))
        if type(error) is TypeError and row is not None:
            error = _refusal(row, args, kwds) or error
        shown = _creation_error(error, row, kwds)
        if shown is error:
            raise
        raise shown from None
    finally:
        _making.ident = outer
    exposed = row.exposed if row is not None else ()
    return ident, exposed or tuple(name for name in methods if name[0] != "#"), reference


def _refusal(row: Any, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Exception | None:
    """Return what the other engine's constructor raises for arguments, if it does."""
    try:
        row.make(*args, **kwds or {})
    except Exception as error:
        error.__context__ = None  # ours, of what the user has not called
        return error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)
    return None


def _creation_error(
    error: BaseException, row: Any, kwds: Mapping[str, Any] | None
) -> BaseException:
    """Return what a client gets for an exception of a constructor, or of a signal's handler."""
    if not isinstance(error, Exception) or isinstance(error, (OSError, RemoteError)):
        return error
    shown = row.creation_errors if row is not None else "hidden"
    if shown == "shown" or (shown == "named" and (kwds or {}).get("name") is not None):
        return error
    if type(error).__module__ != "builtins":
        return error  # of a handler, a reducer, or of logging in: none of a constructor
    return RemoteError("".join(traceback.format_exception(error)))


# -- names ------------------------------------------------------------------------------


def _name_key(session: Any, name: str) -> bytes:
    return session.key_of("n:" + quote(name, safe="", errors="surrogatepass"))


def find_or_make(
    session: Any, name: Any, make: Callable[[], str], join: Callable[[str, str], None]
) -> str:
    """Return the ident of the object of a name, with a reference; make the object if there is none.

    Parameters
    ----------
    make : callable
        Makes the object and returns its ident.
    join : callable
        ``join(ident, typeid)`` compares what is kept with what is asked for; it may add to it, or
        raise what says that the two do not agree.
    """
    if type(name) is not str:
        raise TypeError(f"name={name!r}: a name is a string")
    at = _name_key(session, name)
    mine = b"s:" + session.id
    while True:
        found = session.run([b"GET", at], True)
        if found is not None:
            ident = found.decode()
            try:
                kind = session.function(b"take", session.key_of(ident), mine, 1)
            except RemoteError:
                session.function(b"name", at, found, b"")  # nothing keeps it any more
                continue
            try:
                join(ident, kind.decode())
            except BaseException:
                session.references.pending.append((ident, mine))
                raise
            return str(ident)
        ident = make()
        key = session.key_of(ident)
        session.function(b"call", key, name.encode("utf-8", "surrogatepass"))
        if session.function(b"name", at, b"", ident) == ident.encode():
            return ident
        session.function(b"call", key, b"")  # another client was first
        session.references.pending.append((ident, mine))


def kept_names(session: Any) -> list[str]:
    keys = scan(session, b"n:*}")
    return sorted(
        unquote(key[len(session.ns) + 4 : -1].decode(), errors="surrogatepass") for key in keys
    )


def described_names(session: Any) -> list[tuple[str, str, str | None]]:
    """Return of each name the type's id; the typecode of a value is not known."""
    idents = [
        (name, session.run([b"GET", _name_key(session, name)], True))
        for name in kept_names(session)
    ]
    return [(name, ident.decode().rpartition("-")[0], None) for name, ident in idents if ident]


def forget_name(session: Any, name: Any) -> bool:
    if not isinstance(name, str):
        return False
    at = _name_key(session, name)
    while True:
        found = session.run([b"GET", at], True)
        if found is None:
            return False
        if session.function(b"name", at, found, b"") == b"":
            break
    key = session.key_of(found.decode())
    with contextlib.suppress(RemoteError):
        session.references.dropped(key, session.function(b"call", key, b""))
    return True


# -- the functions of a server ----------------------------------------------------------


def scan(session: Any, pattern: bytes) -> list[bytes]:
    """Return all keys of the session's namespace that match a pattern behind it."""
    found: set[bytes] = set()
    escaped = b"".join(b"\\%c" % c if c in b"*?[]\\^-" else b"%c" % c for c in session.ns)
    wanted = b"MATCH", b"{" + escaped + b":" + pattern, b"COUNT", SCANNED
    for server in session.servers():
        cursor: Any = None
        while cursor != b"0":
            cursor, keys = server.run([b"SCAN", cursor or b"0", *wanted], True)
            found.update(keys)
    return sorted(found)


def _pairs(flat: Any) -> dict[bytes, bytes]:
    return flat if isinstance(flat, dict) else dict(zip(flat[::2], flat[1::2], strict=False))


def settle(session: Any, key: bytes, dead: Sequence[bytes]) -> None:
    """Remove an object that is held by nobody who is there, and return what it held.

    `dead` are sessions that have died.
    """
    fields = _pairs(session.run([b"HGETALL", key + b":m"], True))
    words: list[Any] = [word for id_ in dead for word in (b"s:" + id_, 0)]
    fields = {field: n for field, n in fields.items() if field not in words}
    for field in fields:
        if field[:2] == b"c:":
            container = session.key_of(field[2:].decode())
            if not session.run([b"EXISTS", container + b":m"], True):
                words += (field, 0)
        elif field == b"name" and not any(other[:2] == b"s:" for other in fields):
            at = _name_key(session, fields[field].decode("utf-8", "surrogatepass"))
            if session.run([b"GET", at], True) != ident_at(session, key):
                words += (field, 0)  # who was about to give it the name has died
    session.references.dropped(key, session.function(b"drop", key, *words))


def number_of_objects(session: Any) -> int:
    session.references.flush()
    sweep(session)
    session.references.flush()
    session.references.collect()
    return len(scan(session, b"*:m"))


def debug_info(session: Any) -> str:
    session.references.flush()
    lines = []
    for meta in scan(session, b"*:m"):
        key = meta[:-2]
        fields = _pairs(session.run([b"HGETALL", meta], True))
        count = sum(int(n) for field, n in fields.items() if field[:2] in (b"s:", b"c:"))
        typeid = fields.get(b"t", b"").decode()
        shown = METHODS.get(typeid, {}).get("__repr__")
        try:
            text = str(session.perform(shown, key, (), None)) if shown is not None else typeid
        except Exception as error:
            text = f"<{typeid}: {error}>"
        ident = ident_at(session, key).decode()
        lines.append(f"  {ident}:       refcount={count}\n    {text[:75]}")
    return "\n".join(lines)


def get_methods(session: Any, token: Any) -> tuple[str, ...]:
    row = BY_TYPEID.get(token.typeid)
    if row is not None and row.exposed:
        return row.exposed
    return tuple(name for name in session.methods_of(token.typeid) if name[0] != "#")


def count_one_more(session: Any, ident: str) -> None:
    session.function(b"take", session.key_of(ident), b"s:" + session.id, 1)


def count_one_less(session: Any, ident: str) -> None:
    session.references.pending.append((ident, b"s:" + session.id))
    session.references.flush()


def wait_for_replicas(session: Any, number: int, seconds: float) -> int:
    """Return how many replicas have what the thread has changed; in a cluster the least of all."""
    words = [b"WAIT", number, max(1, round(1000 * seconds))]
    replies = [server.ask(words, timeout=seconds + SLACK) for server in session.servers()]
    failed = [reply for reply in replies if isinstance(reply, ReplyError)]
    is_replica = any(one.code == "UNBLOCKED" or "replica" in one.text for one in failed)
    if session.take_lost() or is_replica:
        # `WAIT` knows the changes of its own connection alone, and another server's not at all.
        raise ConnectionLost(
            "a connection of this thread was lost, or another server has become the primary of "
            "what the thread has changed: nobody knows whether replicas have that"
        )
    if failed:
        raise exception_of(failed[0])
    return min(replies)


CONTROLS: dict[str, Any] = {
    "wait_for_replicas": wait_for_replicas,
    "number_of_objects": number_of_objects,
    "debug_info": debug_info,
    "get_methods": get_methods,
    "incref": count_one_more,
    "decref": count_one_less,
    "dummy": lambda session: None,
    "described_names": described_names,
    "kept_names": kept_names,
    "forget_name": forget_name,
}


def control(session: Any, name: str, args: Sequence[Any], kwds: Mapping[str, Any] | None) -> Any:
    """Do what `Session.control` says."""
    if name not in CONTROLS:
        raise RemoteError(f"a Valkey server has no {name}\n")
    return CONTROLS[name](session, *args, **kwds or {})
