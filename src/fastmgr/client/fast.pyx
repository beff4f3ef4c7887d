# cython: auto_pickle=False
"""The client's half: sessions, references and the call path of a proxy.

A process has one `ClientSession` with each server it holds proxies of.  Each
thread that calls has a channel of its own in it; the session counts what the
process holds, so that the server need hear only of an object's first proxy and
of its last.

A reference is dropped at any moment and in any thread, also inside a call.  What is
done then is C alone: no signal's handler can run in it, and nothing can be raised.
The release goes at once over a channel that is free, else it is *due*, and goes with
the next request or after the call under way.  `ClientSession`'s books are changed only
in steps that allocate nothing the garbage collector tracks, and so cannot be
interrupted by a finalizer.
"""

cimport cython
from cpython.dict cimport PyDict_DelItem, PyDict_GetItem
from cpython.exc cimport PyErr_WriteUnraisable
from cpython.object cimport PyObject
from cpython.pythread cimport PyThread_get_thread_ident
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact

from fastmgr.client.fastchannel cimport Channel, FastChannel, PickledReply
from fastmgr.link.message cimport begin_message
from fastmgr.link.stream cimport (
    FLAG_ANONYMOUS, FLAG_FOLLOWS, FLAG_GAINS, FLAG_ONEWAY, MAILBOX, OP_CALL, OP_CONTROL,
    OP_CREATE, OP_ERROR, OP_FAILED, OP_INCREF, OP_LOCATE, OP_PROXY, OP_REFUSED, OP_RETURN, Stream,
)
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.atomics cimport THREAD_BITS
from fastmgr.wire.writer cimport Writer

import os
import sys
import threading
import weakref
from multiprocessing import AuthenticationError, process, util

from fastmgr.client.fastchannel import StaleConnection, StockChannel
from fastmgr.link.introduction import SESSION_ID_SIZE, Introducer
from fastmgr.link.cutter import KINDS
from fastmgr.link.switches import is_off
from fastmgr.link.sockets import HANDSHAKE_TIMEOUT, connect, is_loss, named, settle
from fastmgr.stock.dialect import (
    RemoteError, StockConnection, convert_to_error, dispatch, stock_client, uses_raw_sockets,
)

# Seconds for a connection that is made while an exception is on its way to who waits for it.
HASTE = 2.0

# Methods whose callers catch whatever they raise, as debuggers and logs do: what one-way calls
# have to tell is left for the next call of another.
cdef frozenset FOR_THE_EYE = frozenset(("__repr__", "__str__"))

# Keys by the address that they have opened: a proxy that comes without its key (nested in a
# container, or from a queue) finds it here.
authkeys = {}


cdef extern from "Python.h":
    int Py_AddPendingCall(int (*function)(void *) except -1, void *argument)
    PyObject *PyObject_CallMethod(object self, const char *name, const char *format)

# Seconds for each step of returning a reference to a server of the stdlib.
cdef double RELEASE_TIMEOUT = 10.0
# How often handlers of signals may raise before an interrupted connection is replaced.
cdef int MOST_HANDLERS = 100


@cython.final
@cython.no_gc
cdef class Holding:
    """What this process holds of one object."""


@cython.final
@cython.no_gc
cdef class Ref:
    """One proxy's reference; dropping it is releasing it.

    It takes no part in cycles (what it points to never points back), so it is
    dropped exactly once, whatever the collector does to the proxy.
    """

    def __dealloc__(self):
        if self.holding is not None:
            self.holding.local -= 1
            if self.holding.local == 0:
                self.session.drop(self.holding)


@cython.final
cdef class Tenancy:
    """A thread's hold on its channel, dropped when the thread ends."""

    def __dealloc__(self):
        if self.session is None or self.channel is None or not self.channel.usable:
            return
        session = self.session()
        if session is not None:
            (<ClientSession>session).lose(self.channel, True)


# Whether this process has ever made a one-way call: the others need not ask what a call gains.
cdef bint makes_oneway_calls = False

# Every session of this process, for the child of a fork.
cdef object sessions = weakref.WeakSet()

# Where signals' handlers run.
cdef unsigned long main_thread = threading.main_thread().ident


cdef int flush_later(void *argument) except -1:
    """Between two steps of the main thread's program, where a handler may raise what it likes."""
    cdef ClientSession session = <ClientSession>argument
    Py_DECREF(session)      # see `ask_for_flush`
    session.flush_asked = False
    try:
        session.flush()
    except BaseException:
        session.ask_for_flush()
        raise
    return 0


@cython.final
cdef class ClientSession:
    """What this process and one server have with each other.

    Parameters
    ----------
    address : address
        The server's.
    serializer : str
        A key of `listener_client`.
    authkey : bytes
    timeout : float, optional
        Seconds that each answer may take.
    """

    def __init__(self, address, serializer, authkey, timeout=None):
        self.address = address
        self.timeout = timeout
        self.serializer = serializer
        self.stock = serializer != "pickle"
        self.authkey = authkey
        self.holdings = {}
        self.inherited = []
        self.releases = []
        self.reset()
        sessions.add(self)
        util.register_after_fork(self, _introduce_child)

    def __dealloc__(self):
        cdef Holding holding
        while self.first_due is not NULL:
            holding = <Holding>self.first_due
            self.first_due = holding.next_due
            Py_DECREF(holding)

    def reset(self):
        """Begin anew, with no connection: at first, and in the child of a fork.

        The proxies of a forked child are counted in its books but unknown to the
        server, which hears of them with the child's first connection, made at once.
        """
        cdef Holding holding
        self.id = os.urandom(SESSION_ID_SIZE)
        self.has_nothing()
        self.end_view()
        self.local = threading.local()
        self.channels = []
        self.orphan = None
        self.farewell = None
        self.private = None
        self.forget_due()
        for holding in list(self.holdings.values()):
            holding.owed = 0

    def after_fork_in_child(self):
        """Use the inherited connections no more: they are the parent's."""
        cdef Channel channel
        self.inherited += [c for c in (*self.channels, self.orphan) if c is not None]
        for channel in self.inherited:
            channel.renew_lock()
            channel.usable = False
        self.reset()

    def introduce_child(self, bint known, bint hasty):
        """In the child of a fork: make `known` what it holds, and close the parent's sockets.

        In this order: as long as a copy of its connections is open the parent's session lives,
        though the parent may end this moment (a program that becomes a daemon), and with it the
        objects.  What is not made known in time is with the child's first call.
        """
        cdef Channel channel
        try:
            if known and self.holdings and not self.retired:
                self.hasty = PyThread_get_thread_ident() if hasty else 0
                self.channel()
        except Exception as error:
            if not self.is_lost(error) and not isinstance(error, AuthenticationError):
                raise
            # They may be proxies of a manager that has been shut down.
            util.info("incref failed: %s", error)
        finally:
            self.hasty = 0
            for channel in self.inherited:
                channel.abandon()
            self.inherited = []

    def end_view(self):
        """What proxies know of the arena is not to be relied on any more."""
        if self.view is not None:
            self.view.usable = False

    cdef void took(self) noexcept:
        """This process has taken a lock or permit: if it is killed the server is to know.

        So the session outlives the last proxy, and its connection the last thread that called.
        """
        if self.taken == 0:
            Py_INCREF(self)
        self.taken += 1

    cdef void gave(self) noexcept:
        """A lock or permit was given back; who took it may have been another process."""
        if self.taken == 1:
            self.has_nothing()
        elif self.taken:
            self.taken -= 1

    cdef void has_nothing(self) noexcept:
        if self.taken:
            self.taken = 0
            Py_DECREF(self)

    cdef bint has_posted(self) except -1:
        """Whether the calling thread has made one-way calls that may not have been served."""
        cdef Channel channel
        cdef Tenancy tenancy = getattr(self.local, "connection", None)
        cdef unsigned long me = PyThread_get_thread_ident()
        while tenancy is not None and tenancy.channel.holder == me:
            tenancy = tenancy.spare
        if tenancy is None or not tenancy.channel.usable:
            return False    # nobody connects to find out
        channel = tenancy.channel
        return channel.failed or isinstance(channel, FastChannel) and (<FastChannel>channel).posted

    cdef uint64_t thread_number(self) except 0:
        """The calling thread's, among those of this process that have had to do with the server."""
        number = getattr(self.local, "number", None)
        if number is None:
            # 24 bits of it are sent: after 16 million threads it begins anew.
            self.local.number = number = self.threads % ((1 << THREAD_BITS) - 1) + 1
            self.threads += 1
        return number

    # -- the arena --------------------------------------------------------

    cdef object locate(self, object ident, uint64_t handle):
        """Ask where an object's cell is; its kind, segment, offset, size, and what else is known.

        None where this process cannot have it.
        """
        cdef View view
        cdef Segment segment
        if self.stock or not isinstance(self.channel(), FastChannel):
            return None
        view = self.view
        if view.none:
            return None
        op, found = self.perform(OP_LOCATE, 0, ident, handle, None, None, None)
        if found is False:
            view.none = True
        if op != OP_RETURN or not found:
            return None
        kind, number, offset, size, about = found
        if view.alive is NULL and self.segment(view, 0) is None:
            return None
        segment = self.segment(view, number)
        if segment is None or not view.usable or view is not self.view:
            return None
        segment.place(offset, size)
        return kind, segment, offset, size, about

    cdef Segment segment(self, View view, object number):
        """A segment, mapped now if it was not; None if that is impossible."""
        cdef Segment segment = view.segment(number)
        if segment is None:
            segment = self.attach(number)
            if segment is None:
                view.none = True
            else:
                view.keep(segment)
        return segment

    cdef Segment attach(self, object number):
        """Have a segment passed over the calling thread's channel; None if that is impossible."""
        cdef Channel channel = self.channel()
        try:
            return (<FastChannel?>channel).attach(number)
        except BaseException as error:
            if not channel.usable:
                self.lose(channel, channel.interrupted)
            if not isinstance(error, MemoryError) and not is_loss(error):
                raise
            util.info("the manager's memory cannot be mapped: %s", error)

    cdef int have_mailbox(self, FastChannel channel) except -1:
        """Have a mailbox for the calling thread's channel, if there can be one."""
        cdef Segment segment
        channel.asked = True
        if not self.view.none:
            segment = self.attach(MAILBOX)
            if segment is not None:
                segment.forget_fd()
                channel.stream.attach_mailbox(segment, False)
        return 0

    # -- channels ---------------------------------------------------------

    cdef Channel channel(self):
        """The calling thread's channel, opened if there is none."""
        cdef Tenancy tenancy, outer = None
        cdef unsigned long me
        cdef object found = getattr(self.local, "connection", None)
        if found is not None:
            tenancy = <Tenancy>found
            if tenancy.channel.usable and tenancy.channel.holder == 0:
                return tenancy.channel
        # A signal's handler and a finalizer may call while a call of their thread is under way.
        me = PyThread_get_thread_ident()
        tenancy = found
        while tenancy is not None and tenancy.channel.holder == me:
            outer, tenancy = tenancy, tenancy.spare
        if tenancy is None or not tenancy.channel.usable:
            tenancy = self.open_channel()
            if outer is None:
                self.local.connection = tenancy
            else:
                outer.spare = tenancy
        return tenancy.channel

    def lost_channel(self):
        """What the calling thread's last request that failed for its connection went over."""
        return getattr(self.local, "lost", None)

    def connect(self):
        """Open a connection for the calling thread, in place of the one it has."""
        cdef object old = getattr(self.local, "connection", None)
        self.local.connection = self.open_channel()
        if old is not None:
            self.lose((<Tenancy>old).channel, False)

    def hurry(self, double seconds):
        """Let no answer over the calling thread's channel take longer from now on.

        False where the thread has none over which it could ask something at once.
        """
        cdef Tenancy tenancy = getattr(self.local, "connection", None)
        cdef FastChannel channel
        if tenancy is None or type(tenancy.channel) is not FastChannel:
            return False
        channel = tenancy.channel
        if not channel.usable or channel.holder != 0 or channel.posted:
            return False
        self.timeout = seconds
        channel.limit = seconds
        channel.stream.look_for_signals()       # the clock is looked at then, too
        return True

    def stock_connection(self):
        """Return the calling thread's connection in the stdlib's dialect; None where it has none.

        A thread that speaks the fast dialect is given a second one when this is first called.
        """
        cdef Tenancy tenancy = getattr(self.local, "connection", None)
        if tenancy is None or not tenancy.channel.usable:
            return None
        if tenancy.stock is None:
            if isinstance(tenancy.channel, StockChannel):
                tenancy.stock = tenancy.channel.conn
            else:
                tenancy.stock = self.dial_stock(thread_name())
        return tenancy.stock

    cdef Tenancy open_channel(self):
        """Open a channel for the calling thread."""
        cdef Channel channel = None
        cdef Tenancy tenancy
        name = thread_name()
        util.debug("connecting to the manager at %r", self.address)
        try:
            if not self.stock and uses_raw_sockets("pickle"):
                channel = self.open_fast(name)
            if channel is None:
                self.stock = True
                channel = self.open_stock(name)
        except OSError as error:
            if self.retired and error.errno is not None and self.is_lost(error):
                raise OSError(
                    error.errno, f"the manager at {self.address!r} has been shut down") from None
            raise
        channel.thread = PyThread_get_thread_ident()
        tenancy = Tenancy()
        tenancy.channel = channel
        tenancy.session = weakref.ref(self)
        return tenancy

    cdef object time_to_dial(self):
        """Seconds that connecting may take; None for as long as a handshake may."""
        return HASTE if self.hasty == PyThread_get_thread_ident() else self.timeout

    cdef Channel open_fast(self, object name):
        """A channel that speaks the fast dialect; None if the server does not."""
        cdef bint shares = not is_off("FASTMGR_ARENA")
        introducer = Introducer(self.id, name, self.thread_number())
        cdef Stream stream = connect(
            self.address, self.authkey, introducer.introduce, self.time_to_dial())
        cdef FastChannel channel
        try:
            answer = introducer.read_answer(stream.recv_bytes())
        except (OSError, EOFError, AuthenticationError) as error:
            if isinstance(error, AuthenticationError) or is_loss(error):
                raise named(error, self.address) from None
            raise
        if answer is None:
            stream.close_fd()
            if self.instance is not None:
                raise AuthenticationError(
                    f"the server at {self.address!r} proves less than it did before: "
                    "another may answer in its place"
                )
            return None
        stream.fast = True
        self.instance, resumed, number, place = answer
        channel = FastChannel(stream)
        if not resumed or self.view is None or not self.view.usable:
            self.end_view()
            self.view = View(
                <uint64_t>number << THREAD_BITS, place if shares else 0, self.instance, self.view)
        self.adopt(channel)
        if not resumed and self.holdings:
            try:
                self.reclaim(channel)
            except BaseException as error:
                self.lose(channel, channel.interrupted)
                if isinstance(error, StaleConnection):
                    raise named(error.args[0], self.address) from None
                if is_loss(error):
                    raise named(error, self.address) from None
                raise
        settle(stream, receives_in_time=self.timeout is not None)
        channel.limit = self.timeout or 0.0
        return channel

    cdef Channel open_stock(self, object name):
        channel = StockChannel(self.dial_stock(name))
        self.adopt(channel)
        return channel

    cdef object dial_stock(self, object name):
        """A connection whose requests are a thread's calls, in the stdlib's dialect."""
        conn = stock_client(self.serializer, self.time_to_dial() or HANDSHAKE_TIMEOUT)(
            self.address, authkey=self.authkey)
        dispatch(conn, None, "accept_connection", (name,))
        if isinstance(conn, StockConnection):
            conn.timeout = self.timeout
            settle(conn.stream, receives_in_time=self.timeout is not None)
        return conn

    cdef int adopt(self, Channel channel) except -1:
        authkeys[self.address] = self.authkey
        self.channels.append(channel)
        if self.orphan is not None:
            orphan, self.orphan = self.orphan, None
            self.lose(orphan, False)
        if self.farewell is None:
            self.prepare_farewell()
        return 0

    def prepare_farewell(self):
        """Have the process say goodbye when it ends."""
        # Before a manager's own finalizer (0), after users' (> 10).
        self.farewell = util.Finalize(
            self, _say_goodbye, args=(weakref.ref(self),), exitpriority=10
        )

    cdef int reclaim(self, FastChannel channel) except -1:
        """Tell a server that does not know this session what it holds."""
        cdef Holding holding
        cdef list asked, handles = []
        self.forget_due()
        asked = list(self.holdings.values())
        for holding in asked:
            holding.owed = 0
            handles.append(holding.handle)
        missing = channel.request(OP_INCREF, 0, 0, None, handles, None, None)[1]
        for holding in asked:
            if holding.handle in missing:
                util.info("%s", missing[holding.handle])
            else:
                holding.owed += 1
                if holding.local == 0:      # dropped meanwhile
                    self.drop(holding)
        return 0

    cdef int replace_orphan(self) except -1:
        """Open a connection in place of an interrupted one, whose call then ends in the server.

        It would go on waiting there otherwise, and take what others should have.
        """
        cdef object raised = None
        self.hasty = PyThread_get_thread_ident()
        try:
            for _ in range(MOST_HANDLERS):
                try:
                    self.channel()
                    break
                except BaseException as error:
                    if isinstance(error, AuthenticationError) or self.is_lost(error):
                        util.debug("the interrupted connection stays open: %s", error)
                        break
                    raised = error      # one more signal's handler did it
        finally:
            self.hasty = 0
        if raised is not None:
            raise raised
        return 0

    cdef int lose(self, Channel channel, bint keep) except -1:
        """A channel is not to be used again.

        With `keep` it stays open as long as it is all that shows the server that
        this process lives.
        """
        channel.usable = False
        if channel is self.orphan and keep:
            return 0
        if channel in self.channels:
            self.channels.remove(channel)
        needed = self.holdings or self.taken
        if keep and needed and not self.channels and self.orphan is None:
            self.orphan = channel
        else:
            channel.close()
            if not self.channels and self.orphan is None:
                self.end_view()     # the server ends the session
        return 0

    # -- the books --------------------------------------------------------

    def held(self):
        """Return the idents of the objects that this process has proxies of."""
        cdef Holding holding
        return [ident for ident, holding in list(self.holdings.items()) if holding.local]

    def acquire(self, ident):
        """Take a reference to an object, for one proxy.

        Raises
        ------
        RemoteError
            The object is gone.
        """
        cdef Holding holding = self.holdings.get(ident)
        if holding is None:
            self.ask_for(ident, handle_of(ident))
            holding = self.holding_of(ident)
            holding.owed += 1
        return self.refer_to(holding)

    cdef Holding holding_of(self, object ident):
        """What the books say of an object that the server has counted a reference of."""
        cdef Holding holding = self.holdings.get(ident)
        if holding is None:
            holding = Holding()
            holding.ident = ident
            holding.handle = handle_of(ident)
            holding = self.holdings.setdefault(ident, holding)
        return holding

    cdef Ref refer_to(self, Holding holding):
        cdef Ref ref = Ref()
        holding.local += 1
        ref.session = self
        ref.holding = holding
        return ref

    cdef Ref given(self, object ident):
        """The server has counted a reference for us: hold it until a proxy has one of its own.

        A custom proxy may take none.
        """
        cdef Holding holding = self.holding_of(ident)
        holding.owed += 1
        return self.refer_to(holding)

    cdef int ask_for(self, object ident, uint64_t handle) except -1:
        """Have the server count a reference for this process."""
        if not isinstance(self.channel(), FastChannel):
            self.one_shot("incref", (ident,), {})
            return 0
        _op, missing = self.perform(OP_INCREF, 0, ident, handle, None, (handle,), None)
        if missing:
            raise RemoteError(f"KeyError: {missing[handle]!r} (by {self.address!r})\n")
        return 0

    # -- releases -----------------------------------------------------------

    cdef void drop(self, Holding holding) noexcept:
        """The last reference to an object was dropped: return what the server counts.

        This runs inside deallocations.
        """
        cdef PyObject *found
        if holding.is_due:
            return
        if self.retired or holding.owed == 0 or self.send_release(holding):
            holding.owed = 0
            if PyUnicode_CheckExact(holding.ident):     # else comparing it may run any code
                self.strike(holding)
                return
        holding.is_due = self.some_due = True
        holding.next_due = self.first_due
        self.first_due = <PyObject *>holding
        Py_INCREF(holding)
        if not self.is_fast():
            # That takes Python code. In the main thread a signal's handler may raise in it: there
            # it runs between two steps of the program. Elsewhere it runs now, as a `__del__` does.
            if PyThread_get_thread_ident() != main_thread or not self.ask_for_flush():
                found = PyObject_CallMethod(self, "flush_now", NULL)
                if found is NULL:
                    PyErr_WriteUnraisable(self)
                else:
                    Py_DECREF(<object>found)

    cdef void strike(self, Holding holding) noexcept:
        """Take what nothing is held of out of the books."""
        if PyDict_GetItem(self.holdings, holding.ident) is <PyObject *>holding:
            PyDict_DelItem(self.holdings, holding.ident)

    cdef bint ask_for_flush(self) noexcept:
        """Have the main thread send what is due as soon as it can; the session lives till then."""
        if not self.flush_asked:
            Py_INCREF(self)
            self.flush_asked = Py_AddPendingCall(flush_later, <void *>self) == 0
            if not self.flush_asked:
                Py_DECREF(self)
        return self.flush_asked

    cdef bint send_release(self, Holding holding) noexcept:
        """Return a reference at once, if a channel is free; the calling thread's comes first."""
        cdef unsigned long me = PyThread_get_thread_ident()
        cdef Channel channel
        cdef bint mine
        for mine in range(1, -1, -1):
            for channel in self.channels:
                if (
                    (channel.thread == me) == mine and type(channel) is FastChannel
                    and (<FastChannel>channel).release(holding.handle, <uint64_t>holding.owed)
                ):
                    return True
        return type(self.orphan) is FastChannel and (<FastChannel>self.orphan).release(
            holding.handle, <uint64_t>holding.owed)

    cdef bint is_fast(self) noexcept:
        """Whether a channel of the session can bring a release that is due."""
        cdef Channel channel
        for channel in self.channels:
            if type(channel) is FastChannel:
                return True
        return type(self.orphan) is FastChannel

    cdef list take_due(self):
        """What is to be returned: (handle, or ident for a stock server, and count) of each."""
        cdef list due, none = []
        cdef Holding holding
        cdef Py_ssize_t owed
        self.some_due = False
        due = self.releases
        self.releases = none
        while self.first_due is not NULL:
            holding = <Holding>self.first_due
            self.first_due = holding.next_due
            Py_DECREF(holding)
            holding.is_due = False
            if holding.local == 0:      # else another proxy has taken it meanwhile
                # Out of the books before anything is allocated: a finalizer that runs there may
                # want the object again.
                owed = holding.owed
                holding.owed = 0
                self.strike(holding)
                if owed:
                    due.append((holding.ident if self.stock else holding.handle, owed))
        return due

    cdef int put_back(self, list due) except -1:
        """What was taken has not been sent."""
        self.releases.extend(due)
        self.some_due = True
        return 0

    cdef int forget_due(self) except -1:
        """The server counts nothing for us any more."""
        self.take_due()
        return 0

    cdef int flush(self) except -1:
        """Send the releases that are due, unless a call under way will."""
        if self.stock:
            return self.flush_stock()
        self.flush_fast()
        return 0

    cdef void flush_fast(self) noexcept:
        """Send the releases that are due to a server of ours, where a channel is free.

        There is no Python code in it, so it may run while a result that must not get lost waits
        to be returned: no handler of a signal can raise here.
        """
        cdef Channel channel
        cdef list due = self.take_due()
        if not due or not self.channels and self.orphan is None:
            return      # without a connection the server has ended the session
        for channel in [*self.channels, self.orphan]:
            if type(channel) is FastChannel and (<FastChannel>channel).send_alone(due):
                return
        self.put_back(due)

    def flush_now(self):
        """Send the releases that are due."""
        self.flush()

    cdef int flush_stock(self) except -1:
        """Return references to a stock server: over a connection each, as the stdlib does."""
        cdef list due = self.take_due()
        self.put_back([(ident, 1) for ident, count in due for _ in range(count)])
        while self.releases:
            conn = None
            try:
                conn = stock_client(self.serializer, RELEASE_TIMEOUT)(
                    self.address, authkey=self.authkey)
                try:
                    # From here on nobody can tell whether the server has heard it.
                    ident, _count = self.releases.pop()
                    dispatch(conn, None, "decref", (ident,), {})
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
        return 0

    cpdef bint is_lost(self, error) except -1:
        """`is_loss`, which cannot tell where the connections themselves are the user's code."""
        if uses_raw_sockets(self.serializer):
            return is_loss(error)
        return isinstance(error, (OSError, EOFError))

    # -- requests -----------------------------------------------------------

    cdef tuple perform(
        self, uint8_t op, uint8_t flags, object ident, uint64_t handle, object name, object args,
        object kwds
    ):
        """Make a request over the calling thread's channel; once more if that was dead."""
        cdef Channel channel
        cdef list due = None
        cdef bint again = False
        cdef tuple reply
        while True:
            try:
                channel = self.channel()
            except OSError as error:
                if again and self.is_lost(error):
                    raise dead from error
                raise
            if flags & FLAG_GAINS and channel.failed:
                return channel.with_failure((<int>OP_REFUSED, None))
            try:
                if isinstance(channel, FastChannel):
                    if (<FastChannel>channel).wants_mailbox():
                        self.have_mailbox(channel)
                    if self.some_due:
                        due = self.take_due()
                    reply = (<FastChannel>channel).request(op, flags, handle, name, args, kwds, due)
                else:
                    reply = channel.call(ident, name, args, kwds)
            except BaseException as error:
                if channel.usable:
                    # It failed before anything was sent, or after all was received.
                    if due and not (<FastChannel>channel).send_alone(due):
                        self.put_back(due)
                    raise
                self.local.lost = channel
                self.lose(channel, channel.interrupted)
                if not isinstance(error, StaleConnection):
                    if self.orphan is channel:
                        self.replace_orphan()
                    if self.some_due and not self.stock:
                        self.flush_fast()
                    if self.is_lost(error):
                        raise named(error, self.address) from None
                    raise
                if due:
                    self.put_back(due)
                    due = None
                dead = named(error.args[0], self.address)
                if again:
                    raise dead from None
                again = True
                continue
            if self.some_due and not self.stock:     # to a stock server they go by themselves
                self.flush_fast()
            if channel.failed:
                if op == OP_CALL and reply is not None and name not in FOR_THE_EYE:
                    return channel.with_failure(reply)
                if isinstance(channel, FastChannel):
                    (<FastChannel>channel).set_posted(True)     # no fast path may pass it over
            return reply

    def pipeline(self, list calls):
        """Make many calls together.

        Parameters
        ----------
        calls : list
            Of each call the proxy, the name, the arguments and the keywords (or None), one
            after the other.

        Returns
        -------
        list
            What the replies carry.
        list of (index, operation, payload)
            The replies that are not plain results.

        Raises
        ------
        OSError, EOFError
            The connection failed; how many calls were served is unknown.
        """
        cdef list due, replies, others = []
        cdef Py_ssize_t i, count = len(calls) // 4
        cdef size_t start
        cdef Writer frames
        cdef Channel channel
        cdef tuple reply
        if not calls:
            return [], []
        channel = self.channel()
        if not isinstance(channel, FastChannel):
            replies = []
            for i in range(0, len(calls), 4):
                reply = self.perform(
                    OP_CALL, 0, calls[i]._id, 0, calls[i + 1], calls[i + 2], calls[i + 3])
                if reply[0] != OP_RETURN:
                    others.append((len(replies), *reply))
                replies.append(reply[1])
            return replies, others
        due = self.take_due()
        try:
            # All of it before it takes the lock: pickling may call another proxy over this channel.
            frames = Writer()
            start = (<FastChannel>channel).begin(frames, due)
            for i in range(count):
                (<FastChannel>channel).put_call(
                    frames, begin_message(frames) if i else start, OP_CALL,
                    FLAG_FOLLOWS if i else 0, (<Target?>calls[4 * i])._handle,
                    calls[4 * i + 1], calls[4 * i + 2], calls[4 * i + 3],
                )
            replies = (<FastChannel>channel).pipeline(frames, count, others)
        except BaseException as raised:
            if channel.usable or isinstance(raised, StaleConnection):
                self.put_back(due)      # nothing was sent
            if not channel.usable:
                self.lose(channel, channel.interrupted)
                if self.orphan is channel:
                    self.replace_orphan()
            if isinstance(raised, StaleConnection):
                raised = raised.args[0]
            if not channel.usable and is_loss(raised):
                raise named(raised, self.address) from None
            raise
        for i, other in enumerate(others):
            if isinstance(other[2], PickledReply):
                try:
                    replies[other[0]] = (<PickledReply>other[2]).load()
                    others[i] = other[0], other[1], replies[other[0]]
                except Exception as error:
                    others[i] = other[0], <int>OP_ERROR, error
        if channel.failed:
            if not others or others[0][0] != 0:
                others.insert(0, (0, <int>OP_RETURN, replies[0]))
            others[0] = 0, *channel.with_failure(others[0][1:])
        for i, other in enumerate(others):
            if other[1] == OP_PROXY:
                others[i] = other[0], other[1], (*other[2], self.given(other[2][0]))
        if self.some_due:
            self.flush_fast()
        return replies, others

    def post(self, proxy, name, args, kwds):
        """Make a call for which no reply comes; a failure shows with the thread's next call."""
        global makes_oneway_calls
        cdef Channel channel = self.channel()
        cdef tuple reply, before
        makes_oneway_calls = True
        if isinstance(channel, FastChannel):
            self.perform(
                OP_CALL, FLAG_ONEWAY, proxy._id, (<Target?>proxy)._handle, name, args, kwds
            )
            channel = self.channel()
            if isinstance(channel, FastChannel):
                (<FastChannel>channel).lend(proxy._id, (<Target>proxy)._ref)
            return
        # A stock server knows nothing of the kind, and replies.
        failed, channel.failed = channel.failed, 0
        before = channel.failure
        try:
            try:
                reply = self.perform(OP_CALL, 0, proxy._id, 0, name, args, kwds)
            except (OSError, EOFError):
                raise
            except Exception as error:
                if channel.usable:
                    raise           # nothing was sent
                reply = <int>OP_ERROR, error
            if reply[0] == OP_PROXY:
                proxy._settle(*reply)
            elif reply[0] != OP_RETURN:
                if not failed:
                    call = f"{proxy._token.typeid}.{name}() of object {proxy._id}"
                    before = call, reply
                failed += 1
        finally:
            channel = self.channel()
            channel.failure, channel.failed = before, failed

    def create(self, typeid, args, kwds, bint anonymous):
        """Have an object made; return its ident, the exposed methods' names and the reference.

        An anonymous reference is nobody's: a ``decref`` has to return it, as in
        the stdlib; None stands for it.
        """
        if isinstance(self.channel(), FastChannel):
            op, reply = self.perform(
                OP_CREATE, FLAG_ANONYMOUS if anonymous else 0, None, 0, typeid, args, kwds
            )
            if op != OP_RETURN:
                raise convert_to_error(KINDS[op], reply)
        else:
            reply = self.one_shot("create", (typeid, *args), kwds)
        return *reply, None if anonymous else self.given(reply[0])

    def control(self, name, args=(), kwds=None):
        """Call one of the server's public functions."""
        if not isinstance(self.channel(), FastChannel):
            return self.one_shot(name, args, kwds or {})
        op, payload = self.perform(OP_CONTROL, 0, None, 0, name, args, kwds)
        if op == OP_RETURN:
            return payload
        raise convert_to_error(KINDS[op], payload)

    cdef object one_shot(self, object name, object args, object kwds):
        """A public function over a connection of its own, as the stdlib does it."""
        conn = stock_client(self.serializer, self.timeout)(self.address, authkey=self.authkey)
        try:
            return dispatch(conn, None, name, tuple(args), kwds)
        except EOFError as error:
            if self.is_lost(error):
                raise named(error, self.address) from None
            raise
        finally:
            conn.close()

    # -- the end ------------------------------------------------------------

    def goodbye(self):
        """Return everything in order and close; a later call would begin anew."""
        cdef Channel channel
        cdef Holding holding
        cdef Py_ssize_t owed
        if self.stock:
            for holding in list(self.holdings.values()):
                if holding.owed and not holding.is_due:
                    owed = holding.owed
                    holding.owed = 0
                    self.releases.append((holding.ident, owed))
            if not self.retired:
                self.flush()
        else:
            self.forget_due()
            for holding in list(self.holdings.values()):
                holding.owed = 0        # the server takes back what this process had
            for channel in [*self.channels, self.orphan]:
                if isinstance(channel, FastChannel):
                    (<FastChannel>channel).await_posted()
            for channel in [*self.channels, self.orphan]:
                if isinstance(channel, FastChannel):
                    (<FastChannel>channel).say_goodbye(True)
                    break
        self.disconnect()

    cdef int disconnect(self) except -1:
        cdef Channel channel
        self.end_view()
        for channel in [*self.channels, self.orphan]:
            if channel is not None:
                channel.close()
        self.channels = []
        self.orphan = None
        return 0

    def retire(self):
        """The server has been shut down: there is nobody to return references to."""
        self.retired = True
        self.forget_due()
        self.disconnect()
        self.has_nothing()


cdef object thread_name():
    """What the server calls the thread that serves the calling one, as in the stdlib."""
    name = process.current_process().name
    thread = threading.current_thread()
    return name if thread is threading.main_thread() else f"{name}|{thread.name}"


def _say_goodbye(reference):
    session = reference()
    if session is not None:
        session.goodbye()


def _introduce_child(session):
    """In a child that multiprocessing forked, which has just forgotten all finalizers."""
    if (<ClientSession>session).farewell is not None:
        session.prepare_farewell()
    session.introduce_child(True, False)


cdef void introduce_hastily(ClientSession session) noexcept:
    """What is raised is shown, and the other sessions have their turn."""
    session.introduce_child(not session.stock, True)    # a stock one keeps what a dead client had


def _after_fork_in_child():
    global main_thread
    main_thread = PyThread_get_thread_ident()
    inherited = list(sessions)
    # All of them before one dials: what runs meanwhile may use another.
    for session in inherited:
        session.after_fork_in_child()
    # A child of multiprocessing has neither its name nor its finalizers yet.
    if sys._getframe().f_globals.get("__name__", "").startswith("multiprocessing."):
        return
    for session in inherited:
        introduce_hastily(session)


os.register_at_fork(after_in_child=_after_fork_in_child)


cdef class Target:
    """Which object a call is of; the part of a proxy that its session sees."""


cdef uint64_t handle_of(object ident) noexcept:
    """The handle that an ident spells; 0, which is no object's, if it spells none."""
    try:
        return int(ident, 16)
    except (OverflowError, TypeError, ValueError):
        return 0
