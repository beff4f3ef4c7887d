# cython: auto_pickle=False
"""A session in the stdlib's dialect, over any serializer.

A thread has a connection for its calls. All else takes a connection of its own each time, as in
the stdlib: to make an object, to count a reference, to return one.
"""

cimport cython
from libc.math cimport INFINITY
from cpython.exc cimport PyErr_WriteUnraisable
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF

from fastmgr.client.connections cimport Channel, Connections, ThreadChannel, main_thread
from fastmgr.client.limits cimport begin_limited, end_of_calls, limits, seconds_to_dial
from fastmgr.client.references cimport Holding
from fastmgr.client.session cimport Outcome, Target, note_oneway_calls, outcome_of
from fastmgr.link.stream cimport OP_ERROR, OP_PROXY, OP_RETURN

from multiprocessing import AuthenticationError, util
from queue import Empty, Full
from threading import BrokenBarrierError
from time import monotonic

from fastmgr.client.connections import StaleConnection
from fastmgr.client.limits import GRACE, limit_is_over, unanswered, unlimited
from fastmgr.client.session import introduced, raised as raised_outcome
from fastmgr.link.sockets import Missing, connect_timeout, is_loss, named, settle
from fastmgr.link.cutter import OPS
from fastmgr.stock.dialect import (
    RemoteError, StockConnection, convert_to_error, dispatch, stock_client,
)

cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) except -1, void *argument)
    PyObject *PyObject_CallMethod(object self, const char *name, const char *format)

# Calls of the stdlib's types that may wait, by name: the types, where the timeout is among the
# arguments, and what the flag before it is called that says whether to wait at all.
cdef tuple NO_WAIT = ((), 0, None)
cdef dict WAITS = {
    "acquire": (
        frozenset(("Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition")), 1, "blocking"),
    "get": (frozenset(("Queue", "JoinableQueue")), 1, "block"),
    "put": (frozenset(("Queue", "JoinableQueue")), 2, "block"),
    "wait": (frozenset(("Event", "Condition", "Barrier")), 0, None),
}
# Seconds for each step of returning a reference.
cdef double RELEASE_TIMEOUT = 10.0


@cython.final
cdef class StockChannel(Channel):
    """A connection that speaks the stdlib's dialect.

    Parameters
    ----------
    conn : connection
        Anything with ``send``, ``recv`` and ``close``, already accepted by the server.
    """

    cdef readonly object conn

    def __init__(self, conn):
        self.conn = conn

    cdef object call(self, object ident, object name, object args, object kwds):
        """Call a method; return its plain result, or an `Outcome`."""
        self.hold()
        try:
            kind, payload = self.ask((ident, name, args, kwds or {}))
        finally:
            self.let_go()
        op = OPS.get(kind)
        if op is None:
            raise convert_to_error(kind, payload)
        return payload if op == OP_RETURN else outcome_of(op, payload, 0)

    cdef object ask(self, tuple request):
        """Send a request and receive its reply."""
        if limits and isinstance(self.conn, StockConnection):
            self.conn.stream.set_end(begin_limited())
        try:
            self.conn.send(request)
        except BaseException as error:
            lost = self.is_lost(error)
            if lost and isinstance(error, TimeoutError) and limit_is_over():
                self.usable = False
                raise unanswered("the server", False) from None
            if lost and isinstance(error, (BrokenPipeError, ConnectionResetError)):
                self.usable = False
                raise StaleConnection(error) from None
            if isinstance(self.conn, StockConnection) and self.conn.sends:
                self.end(error)
            raise
        try:
            return self.conn.recv()
        except BaseException as error:
            # Also where the reply could not be decoded: nobody knows how far it was read.
            self.usable = False
            self.interrupted = not self.is_lost(error)
            if not self.interrupted and isinstance(error, TimeoutError) and limit_is_over():
                raise unanswered("the server", None) from None
            raise

    cdef bint is_lost(self, error) except -1:
        """`is_loss`, which cannot tell where the connection itself is the user's code."""
        if isinstance(self.conn, StockConnection):
            return is_loss(error)
        return isinstance(error, (OSError, EOFError))

    cpdef object close(self):
        self.usable = False
        self.conn.close()

    cpdef object abandon(self):
        self.close()


cdef tuple bounded(Target target, object name, object args, object kwds, double seconds):
    """The arguments by which a call waits for `seconds` at most; None if that is none of ours.

    A server of the stdlib goes on with a call whose client has left: it would take the item.
    """
    cdef Py_ssize_t place
    cdef object flag, timeout
    cdef dict by_name = dict(kwds or {})
    cdef list given = [*args]
    typeids, place, flag = WAITS.get(name, NO_WAIT)
    if target._token.typeid not in typeids:
        return None
    timeout = given[place] if len(given) > place else by_name.get("timeout")
    del given[place:]
    if flag:
        if not (given[place - 1] if len(given) == place else by_name.get(flag, True)):
            return None
        del given[place - 1:]
        by_name[flag] = True
    if timeout is not None and timeout != -1 and (
        type(timeout) not in (int, float) or timeout <= seconds
    ):
        return None     # its own time is over before, or the server is to say what is wrong with it
    by_name["timeout"] = seconds
    return given, by_name


cdef bint has_waited_out(object name, object reply) except -1:
    """Whether the reply to such a call says that the time is over."""
    if type(reply) is not Outcome:
        return reply is False and name in ("acquire", "wait")
    return (<Outcome>reply).op == OP_ERROR and isinstance(
        (<Outcome>reply).payload, (Empty, Full, BrokenBarrierError))


cdef object dial(Connections session, object name):
    """A connection for a thread's calls, which the server calls by `name`."""
    conn = stock_client(session.serializer, session.time_to_dial())(
        session.address, authkey=session.authkey)
    try:
        with Missing("to accept the thread's calls"):
            dispatch(conn, None, "accept_connection", (name,))
    except BaseException as error:
        conn.close()
        if session.is_lost(error):
            raise named(error, session.address) from None
        raise
    if isinstance(conn, StockConnection):
        conn.timeout = session.timeout
        settle(conn.stream)
    return conn


cdef int flush_later(void *argument) except -1:
    """Between two steps of the main thread's program, where a handler may raise what it likes."""
    cdef StockSession session = <StockSession>argument
    Py_DECREF(session)      # see `ask_for_flush`
    session.flush_asked = False
    try:
        session.flush()
    except BaseException:
        session.ask_for_flush()
        raise
    return 0


@cython.final
cdef class StockSession(Connections):
    """A session with a server that speaks the stdlib's dialect."""

    cdef bint flush_asked            # the main thread is going to send what is due

    # -- calls ------------------------------------------------------------

    cpdef object call(self, Target target, object name, object args, object kwds):
        cdef double end = begin_limited() if limits else 0.0
        cdef tuple waits
        if end == 0.0:
            return self.make_call(target, name, args, kwds)
        waits = bounded(target, name, args, kwds, max(end - <double>monotonic(), 0.0))
        if waits is None:
            return self.make_call(target, name, args, kwds)
        with unlimited(end - <double>monotonic() + GRACE):
            reply = self.make_call(target, name, waits[0], waits[1])
        if has_waited_out(name, reply):
            raise unanswered(f"the manager's server at {self.address!r}", False)
        return reply

    cdef object make_call(self, Target target, object name, object args, object kwds):
        cdef StockChannel channel
        cdef object dead = None
        while True:
            channel = <StockChannel>(self.channel() if dead is None else self.channel_again(dead))
            try:
                reply = channel.call(target._id, name, args, kwds)
                break
            except BaseException as error:
                raised = self.after_failure(channel, error)
                if dead is not None or not isinstance(error, StaleConnection):
                    if raised is error:
                        raise
                    raise raised from None
                dead = raised
        if type(reply) is Outcome and (<Outcome>reply).op == OP_PROXY:
            exposed, token = (<Outcome>reply).payload
            return introduced(token.typeid, token.id, exposed, self.receive(token.id))
        return reply

    def post(self, Target target, name, args, kwds):
        cdef Channel channel = self.channel()
        note_oneway_calls()
        try:
            outcome = self.call(target, name, args, kwds)
        except (OSError, EOFError):
            raise
        except Exception as error:
            if channel.usable:
                raise               # nothing was sent
            outcome = raised_outcome(error)
        self.keep_failure(target, name, outcome)
        self.local.posted_over = self.channel()

    cdef object call_after_posts(
        self, Target target, object name, object args, object kwds, bint takes
    ):
        # A call inside another goes over the spare channel, and says nothing.
        cdef Channel posted_over = getattr(self.local, "posted_over", None)
        if posted_over is self.channel():
            return Connections.call_after_posts(self, target, name, args, kwds, takes)
        if posted_over is not None and not posted_over.usable:
            self.local.failure = None
        return self.call(target, name, args, kwds)

    # -- what takes a connection of its own -------------------------------

    def create(self, typeid, args, kwds, bint anonymous=False):
        ident, exposed = self.control("create", (typeid, *args), kwds)
        return ident, exposed, None if anonymous else self.receive(ident)

    cdef int request_reference(self, Target target) except -1:
        self.control("incref", (target._id,))
        return 0

    def control(self, name, args=(), kwds=None):
        self.channel()      # the server is there, and the thread's connection as in the stdlib
        # A server counts at once; to make an object may take long.
        timeout = self.timeout or (connect_timeout() if name == "incref" else None)
        if limits and end_of_calls() != 0.0:
            timeout = seconds_to_dial(timeout or INFINITY)
        conn = None
        try:
            conn = stock_client(self.serializer, timeout)(self.address, authkey=self.authkey)
            return dispatch(conn, None, name, tuple(args), kwds or {})
        except (EOFError, TimeoutError) as error:
            if not self.is_lost(error):
                raise
            if isinstance(error, TimeoutError) and limit_is_over():
                raise unanswered(f"the manager's server at {self.address!r}", None) from None
            raise named(error, self.address) from None
        finally:
            if conn is not None:
                conn.close()

    # -- releases -----------------------------------------------------------

    cdef void release_later(self) noexcept:
        """Have what is due returned, which takes Python code.

        In the main thread a signal's handler may raise in it: there it runs between two steps of
        the program. Elsewhere it runs now, as a `__del__` does.
        """
        cdef PyObject *found
        if PyThread_get_thread_ident() != main_thread or not self.ask_for_flush():
            found = PyObject_CallMethod(self, "flush", NULL)
            if found is NULL:
                PyErr_WriteUnraisable(self)
            else:
                Py_DECREF(<object>found)

    cdef bint ask_for_flush(self) noexcept:
        """Have the main thread send what is due as soon as it can; the session lives till then."""
        if not self.flush_asked:
            Py_INCREF(self)
            self.flush_asked = Py_AddPendingCall(flush_later, <void *>self) == 0
            if not self.flush_asked:
                Py_DECREF(self)
        return self.flush_asked

    def flush(self):
        """Return the references that are due: over a connection each, as the stdlib does."""
        cdef Holding holding
        cdef list due = self.take_due()
        self.put_back([(holding, 1) for holding, count in due for _ in range(count)])
        while self.releases:
            conn = None
            try:
                conn = stock_client(self.serializer, RELEASE_TIMEOUT)(
                    self.address, authkey=self.authkey)
                try:
                    if self.releases:   # else another thread has sent them meanwhile
                        # From here on nobody can tell whether the server has heard it.
                        holding, _count = self.releases.pop()
                        dispatch(conn, None, "decref", (holding.ident,), {})
                finally:
                    conn.close()
            except Exception as error:
                if not self.is_lost(error) and not isinstance(
                    error, (AuthenticationError, RemoteError)
                ):
                    raise       # a signal's handler did; the rest is still due
                util.debug("a release failed: %s", error)
                if conn is None:
                    self.releases = []      # there is no such server any more
        if not self.holdings:
            # A stock server keeps the last object of a connection that stays open.
            self.disconnect()

    def close(self):
        cdef Holding holding
        for holding in list(self.holdings.values()):
            if holding.counted and not holding.is_due:
                self.releases.append((holding, holding.counted))
                holding.counted = 0
        if not self.retired:
            self.flush()
        self.disconnect()

    # -- connections --------------------------------------------------------

    cdef Channel open(self, object name):
        channel = StockChannel(dial(self, name))
        self.adopt(channel)
        return channel

    def stock_connection(self):
        cdef ThreadChannel mine = self.thread_channel()
        return None if mine is None else (<StockChannel>mine.channel).conn
