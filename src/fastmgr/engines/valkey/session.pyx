# cython: auto_pickle=False
"""A session with a Valkey server: which thread has which connection, and a command's way.

Each thread has a connection of its own.  A finalizer or a signal's handler may call while a call of
its thread is under way: such a call within a call has a spare connection, which the thread keeps.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_AsUTF8AndSize
from libc.string cimport memchr, memcpy

from fastmgr.client.limits cimport begin_limited, limits
from fastmgr.client.session cimport Session, Target
from fastmgr.engines.valkey.commands cimport Command, FunctionMethod
from fastmgr.engines.valkey.connection cimport Connection

import os
import sys
import threading
import weakref
from multiprocessing import util
from time import monotonic, sleep

from fastmgr.client.limits import CallTimeout, unanswered
from fastmgr.client.session import raised
from fastmgr.engines.valkey.commands import METHODS
from fastmgr.engines.valkey.dialing import dial, require_fit
from fastmgr.engines.valkey.errors import (
    ConnectionLost, ReplyError, exception_of, lost_again,
)
from fastmgr.engines.valkey.fences import Fenced, fence_of, fence_words, lock_key
from fastmgr.engines.valkey.life import Life
from fastmgr.engines.valkey.primaries import follow
from fastmgr.engines.valkey.references import References, control, create
from fastmgr.stock.dialect import NotHosted, RemoteError

cdef dict methods_by_type = METHODS
# Every session of this process, for the child of a fork.
cdef object sessions = weakref.WeakSet()


cdef class ThreadConnections:
    """The connections of one thread; they are closed when the thread ends."""

    def __cinit__(self):
        self.connections = []

    cdef int drop_unusable(self) except -1:
        usable = [one for one in self.connections if (<Connection>one).usable]
        self.lost = self.lost or len(usable) < len(self.connections)
        self.connections = usable
        return 0

    def close(self):
        for connection in self.connections:
            connection.close()

    def abandon(self):
        for connection in self.connections:
            connection.abandon()


cdef class ValkeySession(Session):
    """What this process and one server have with each other.

    Parameters
    ----------
    where : Address
        The server's address, taken apart.

    Attributes
    ----------
    where : Address
    ns : bytes
        The namespace of all keys.
    id : bytes
        Names the session in the server's books.
    """

    def __init__(self, address, serializer, authkey, where):
        super().__init__(address, serializer, authkey)
        self.where = where
        self.timeout = where.timeout
        self.patience = PATIENCE if where.kind == "cluster" else AWAY
        self.ns = where.ns.encode()
        self.prefix = b"{" + self.ns + b":"
        self.references = References(self)
        self.pending = self.references.pending
        self.reset()
        self.life = self.make_life()
        sessions.add(self)
        util.register_after_fork(self, _introduce_child)

    def reset(self):
        """Begin anew, with no connection: at first, and in the child of a fork."""
        self.id = os.urandom(8).hex().encode()
        self.local = threading.local()
        self.fences = {}
        self.opened = weakref.WeakSet()
        self.posting = None

    def make_life(self):
        return Life(self)

    # -- connections ----------------------------------------------------------

    cpdef Connection connection(self):
        """Return a connection of the calling thread that is free; it is opened if need be."""
        cdef ThreadConnections mine = getattr(self.local, "connections", None)
        cdef Connection connection
        if mine is None:
            mine = ThreadConnections()
            self.local.connections = mine
            self.opened.add(mine)
        for connection in mine.connections:
            if connection.usable and not connection.busy:
                return connection
        connection = self.dial()
        while connection.node != self.host:     # another thread has found another primary
            connection.close()
            connection = self.dial()
        mine.drop_unusable()
        mine.connections.append(connection)
        return connection

    def dial(self):
        """Return a new connection: with the server of the address, or with its primary."""
        cdef Connection connection
        cdef object host = self.host
        if host is not None:
            try:
                connection = dial(self.where, host)
                connection.node = host
                return connection
            except OSError:
                if self.host == host:
                    self.host = None    # the server of the address may be the primary again
        return dial(self.where)

    def move_to(self, host):
        """Use another server than that of the address, which is its replica now."""
        cdef ThreadConnections one
        cdef bint is_new = host != self.host
        self.host = host
        for one in list(self.opened):
            # A session that has not begun has changed nothing.
            one.lost = one.lost or (is_new and self.life.instance is not None)
            one.connections = [
                each for each in one.connections if (<Connection>each).node == host
                or (<Connection>each).busy or (<Connection>each).posted]
        if is_new:
            self.life.move()

    cpdef Connection connection_of(self, words):
        """Return a connection of the calling thread with the server that serves a request."""
        return self.connection()

    def servers(self):
        """Return all servers that have objects: each has `ask` and `run`."""
        return [self]

    def connect(self):
        """Make sure that the server is there and will do, over a fresh connection."""
        cdef ThreadConnections mine = getattr(self.local, "connections", None)
        if mine is not None:
            mine.connections = [one for one in mine.connections if (<Connection>one).busy]
        cdef Connection connection = self.connection()
        try:
            require_fit(connection)
        except BaseException:
            connection.close()
            raise

    def forget_connection(self):
        del self.local.connections

    def take_lost(self):
        """Whether a connection of the calling thread was lost since this was asked."""
        cdef ThreadConnections mine = getattr(self.local, "connections", None)
        cdef bint lost = mine is not None and mine.lost
        if lost:
            mine.lost = False
        return lost

    def close(self):
        if self.posting:
            pipelines().await_posts(self.posting)
        self.life.end()
        for one in list(self.opened):
            one.close()

    def retire(self):
        """A manager has been shut down: with its server, if that was a private one.

        Any other server goes on, and another manager of this process may use the session: that
        ends here only if it holds nothing there.
        """
        if self.where.kind == "embedded":
            self.retired = True
            self.close()
        elif not self.life.holds_something():
            self.life.end()

    def after_fork_in_child(self):
        """Use the inherited connections no more: they are the parent's."""
        for one in list(self.opened):
            one.abandon()
        self.life.abandon()
        self.reset()
        self.references.abandon()

    def introduce_child(self):
        """In the child of a fork: hold what the parent held when it forked."""
        self.references.begin_in_child()

    # -- requests -------------------------------------------------------------

    cpdef bytes key_of(self, ident):
        """Return the main key of an object.

        A condition over a lock is called ``<own id>@<the lock's id>``, and has the lock's hash tag.
        """
        cdef str own, lock
        cdef Py_ssize_t size, begun = PyBytes_GET_SIZE(self.prefix)
        cdef const char *text = PyUnicode_AsUTF8AndSize(ident, &size)
        cdef bytes key
        if memchr(text, c"@", size) is not NULL and not ident.startswith("n:"):
            own, _, lock = ident.partition("@")
            return self.prefix + lock.encode() + b"}:" + own.encode()
        key = PyBytes_FromStringAndSize(NULL, begun + size + 1)
        memcpy(PyBytes_AS_STRING(key), PyBytes_AS_STRING(self.prefix), begun)
        memcpy(PyBytes_AS_STRING(key) + begun, text, size)
        PyBytes_AS_STRING(key)[begun + size] = c"}"
        return key

    cpdef object ask(self, words, bint reads=False, timeout=None):
        """Make a request over the calling thread's connection; an error reply is a `ReplyError`.

        Parameters
        ----------
        words : sequence of bytes, str or int
        reads : bool
            The request changes nothing: if the connection is lost it is sent again, once.
        timeout : float, optional
            Seconds until the reply must be there.

        Raises
        ------
        ConnectionLost
            ``applied`` says whether the request may have been served.
        """
        cdef object reply
        if self.pending:
            self.references.flush()
        if self.fences and not reads:
            words = fence_words(self, words)
        cdef Connection connection = self.connection()
        if timeout is None:
            timeout = self.timeout
        try:
            reply = connection.call(words, timeout)
        except BaseException as error:
            if connection.posted or connection.answered:
                pipelines().fail_posts(self, connection)
            if not isinstance(error, ConnectionLost) or (
                error.applied is not False and not reads
            ):
                raise
            try:
                reply = self.connection().call(words, timeout)
            except ConnectionLost as again:
                if reads and again.applied is not False:
                    raise lost_again(again) from None
                raise
        if connection.answered:
            again = pipelines().settle_posts(self, connection)
            if connection.node != self.host:
                connection.close()      # its server is a replica now
                again = True
            if again and reads:         # what was read is from before
                reply = self.connection().call(words, timeout)
        if type(reply) is ReplyError:
            return self.after_error(words, reply, timeout)
        return reply

    def after_error(self, words, reply, timeout=None):
        """Make a request again where that is right; else return its error reply, which says more.

        Each of these replies says that the server has not begun with the request.
        """
        end = monotonic() + (PATIENCE if timeout is None else timeout)
        pause = 0.005
        while type(reply) is ReplyError:
            if reply.is_missing_function:
                from fastmgr.engines.valkey import library

                library.load(self)
                return self.connection().call(words, timeout)
            if reply.code == "WRONGTYPE":
                return wrong_type(reply, words, self.connection())
            if reply.code == "READONLY":
                if not follow(self):
                    break
            elif reply.code not in ("BUSY", "LOADING"):
                break
            if monotonic() > end:
                break
            sleep(pause)
            pause = min(2 * pause, 0.1)
            reply = self.connection().call(words, timeout)
        return reply

    cpdef object run(self, words, bint reads=False, timeout=None):
        """Make a request as `ask` does; raise what an error reply stands for."""
        cdef object reply = self.ask(words, reads, timeout)
        if type(reply) is ReplyError:
            raise exception_of(reply)
        return reply

    def function(self, bytes name, bytes key, *args, bint reads=False, timeout=None):
        """Call a function of our library with one key."""
        return self.run([b"FCALL", b"fm1_" + name, b"1", key, *args], reads, timeout)

    # -- calls ------------------------------------------------------------------

    cpdef object call(self, Target target, object name, object args, object kwds):
        cdef dict methods = methods_by_type.get(target._token.typeid)
        cdef object method = (methods or self.methods_of(target._token.typeid)).get(name)
        if method is None:
            return raised(RemoteError(
                f"AttributeError: a {target._token.typeid} on a Valkey server has no method "
                f"{name!r}\n"))
        cdef bytes key = self.key_of(target._id)
        if limits:
            begin_limited()
        try:
            return self.perform(method, key, args, kwds)
        except ConnectionLost:
            raise
        except CallTimeout as error:
            if error.applied is False and not isinstance(method, Command):
                # A step of several was not made.
                raise unanswered(f"the server at {self.address!r}", None) from None
            raise
        except Exception as error:
            return raised(error)

    cpdef object perform(self, object method, bytes key, object args, object kwds):
        """Do what a method does; return what it returns, raise what it raises."""
        if isinstance(method, Command):
            return self.run_command(<Command>method, key, args, kwds)
        if type(method) is FunctionMethod:
            return (<FunctionMethod>method).apply(self, key, args, kwds)
        return method(self, key, args, kwds)

    cdef object call_after_posts(
        self, Target target, object name, object args, object kwds, bint takes
    ):
        return pipelines().call_after(self, target, name, args, kwds, takes)

    def pipeline(self, list calls):
        if self.fences:
            return Session.pipeline(self, calls)
        return pipelines().run_pipeline(self, calls)

    def post(self, Target target, name, args, kwds):
        if self.fences:
            return Session.post(self, target, name, args, kwds)
        pipelines().post_call(self, target, name, args, kwds)

    cdef object run_command(self, Command command, bytes key, object args, object kwds):
        """Make the request of a method, and return what the method returns."""
        cdef object reply = self.ask(command.request(key, args, kwds, self), command.reads)
        try:
            if type(reply) is ReplyError:
                raise command.failure(reply, key, args, kwds, self)
            return command.result(reply, key, args, kwds, self)
        except CallTimeout:
            raise unanswered(f"the server at {self.address!r}", None) from None

    def fence(self, Target target):
        """Return the number of the grant by which this process holds a lock."""
        return fence_of(self, lock_key(self.key_of(target._id)))

    def fenced(self, Target target):
        """Return a block in which what the thread changes carries the lock's fence."""
        return Fenced(self, lock_key(self.key_of(target._id)))

    def methods_of(self, typeid):
        """Return the methods of a type, by name.

        Raises
        ------
        NotHosted
            A Valkey server cannot host the type.
        """
        methods = METHODS.get(typeid)
        if methods is None:
            raise NotHosted(
                f"a Valkey server cannot host a {typeid}: use a fastmgr server for it, whose "
                "address has no scheme\n")
        return methods

    def create(self, typeid, args, kwds, bint anonymous=False):
        return create(self, typeid, args, kwds, anonymous)

    def acquire(self, Target target):
        return self.references.take(target._id)

    def held(self):
        return list(self.references.held)

    def control(self, name, args=(), kwds=None):
        return control(self, name, args, kwds)


cdef object pipelines():
    """The module of that name, which knows this one."""
    from fastmgr.engines.valkey import pipelines as module

    return module


cdef object wrong_type(object reply, object words, Connection connection):
    """The error reply that says which key holds something that is not ours."""
    cdef object word = words[0] if type(words[0]) is bytes else str(words[0]).encode()
    if word.upper() in (b"FCALL", b"FCALL_RO"):
        key, wanted = words[3], "value of a shared object"
    else:
        key, wanted = words[1], TYPES.get(word[:1].upper(), "string")
    found = connection.call([b"TYPE", key])
    found = found.decode() if type(found) is bytes else "value of another type"
    return ReplyError(
        b"WRONGTYPE the key %b holds a %b, not a %b: another program has put it there; nothing was "
        b"changed" % (bytes(key), found.encode(), wanted.encode()))


# By the first letter of a command: what it expects at a key.
TYPES = {b"H": "hash", b"L": "list", b"R": "list", b"S": "set", b"Z": "zset", b"B": "list"}
# Seconds for which a server may be busy, where the address says nothing of a time.
cdef double PATIENCE = 30.0
# Seconds for a server that was lost to be there again, before a wait is given up.
cdef double AWAY = 10.0


def _introduce_child(session):
    try:
        session.introduce_child()
    except Exception as error:
        util.debug("the child of a fork cannot say that it holds what its parent holds: %s", error)


def _after_fork_in_child():
    inherited = list(sessions)
    for session in inherited:
        session.after_fork_in_child()
    # A child of multiprocessing has neither its name nor its finalizers yet.
    if sys._getframe().f_globals.get("__name__", "").startswith("multiprocessing."):
        return
    for session in inherited:
        _introduce_child(session)


os.register_at_fork(after_in_child=_after_fork_in_child)
