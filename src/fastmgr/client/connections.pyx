# cython: auto_pickle=False
"""A session that reaches its server over connections, one for each thread.

Here are the connections' lives: which thread has which, what keeps the session alive, what
happens to them in a fork and at the end of the process.  A `Channel` is a connection and the
lock that is held during a call.
"""

cimport cython
from cpython.exc cimport PyErr_CheckSignals
from cpython.pythread cimport (
    NOWAIT_LOCK, PY_LOCK_ACQUIRED, PyLockStatus, PyThread_acquire_lock, PyThread_allocate_lock,
    PyThread_free_lock, PyThread_get_thread_ident, PyThread_release_lock, PyThread_type_lock,
)

from fastmgr.client.limits cimport seconds_to_dial
from fastmgr.client.references cimport Holding, References
from fastmgr.link.system cimport FM_SIGNALS_MS

import sys
import threading
import weakref
from multiprocessing import AuthenticationError, process, util
from os import register_at_fork

from fastmgr.client.limits import CallTimeout, limit_is_over, not_dialed, unanswered, unlimited
from fastmgr.link.sockets import connect_timeout, is_loss, named
from fastmgr.stock.dialect import uses_raw_sockets

cdef extern from "Python.h" nogil:
    PyLockStatus PyThread_acquire_lock_timed(PyThread_type_lock, long long microseconds, int intr)

# Seconds for a connection that is made while an exception is on its way to the caller.
HASTE = 2.0
# The same where the exception says that the time of a call is over.
LATE_HASTE = 1.0
# How often handlers of signals may raise before an interrupted connection is replaced.
cdef int MOST_HANDLERS = 100

# Keys by the address that they have opened: a proxy that comes without its key (nested in a
# container, or from a queue) finds it here.
authkeys = {}

main_thread = threading.main_thread().ident

# Every session of this process, for the child of a fork.
cdef object sessions = weakref.WeakSet()


class StaleConnection(Exception):
    """The server had closed the connection before the request could be sent whole."""


cdef class Channel:
    """How one thread reaches one server."""

    def __cinit__(self, *args, **kwds):
        self.lock = PyThread_allocate_lock()
        if self.lock is NULL:
            raise MemoryError("no memory for a lock")
        self.usable = True

    def __dealloc__(self):
        if self.lock is not NULL:
            PyThread_free_lock(self.lock)

    cdef void renew_lock(self) noexcept:
        """In a forked child: the lock may have been held by a thread that is not here.

        It is left to leak, for freeing a held lock is undefined.
        """
        self.lock = PyThread_allocate_lock()
        self.holder = 0

    cdef int hold(self) except -1:
        """Take the lock, without the GIL if it must be waited for."""
        cdef PyLockStatus status
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            while True:
                with nogil:
                    status = PyThread_acquire_lock_timed(self.lock, FM_SIGNALS_MS * 1000, 1)
                if status == PY_LOCK_ACQUIRED:
                    break
                PyErr_CheckSignals()
        self.holder = PyThread_get_thread_ident()
        return 0

    cdef bint hold_now(self) noexcept:
        """Take the lock if it is free."""
        if not PyThread_acquire_lock(self.lock, NOWAIT_LOCK):
            return False
        self.holder = PyThread_get_thread_ident()
        return True

    cdef void let_go(self) noexcept:
        self.holder = 0
        PyThread_release_lock(self.lock)

    cdef int end(self, error) except -1:
        """The channel is out of step, never to be used again: lost, or interrupted in a call."""
        self.usable = False
        self.interrupted = not isinstance(error, StaleConnection) and not is_loss(error)
        return 0

    cpdef object close(self):
        """Close the connection in order."""

    cpdef object abandon(self):
        """Close this process's copy of the connection: it is another's."""


@cython.final
cdef class ThreadChannel:
    """A thread's hold on its channel, dropped when the thread ends."""

    def __dealloc__(self):
        if self.session is None or self.channel is None or not self.channel.usable:
            return
        session = self.session()
        if session is not None:
            (<Connections>session).lose(self.channel, True)


cdef class Connections(References):
    """A session whose threads each have a connection.

    Parameters
    ----------
    address : address
    serializer : str
        A key of `listener_client`.
    authkey : bytes
    timeout : float, optional
        Seconds that each answer may take.
    """

    # Whether a forked child tells the server what it holds before it does anything else.
    introduces_at_once = False

    def __init__(self, address, serializer, authkey, timeout=None):
        super().__init__(address, serializer, authkey)
        self.timeout = timeout
        self.inherited = []
        self.reset()
        sessions.add(self)
        util.register_after_fork(self, _introduce_child)

    def reset(self):
        """Begin anew, with no connection: at first, and in the child of a fork.

        The proxies of a forked child are counted in its books but unknown to the
        server, which hears of them with the child's first connection, made at once.
        """
        cdef Holding holding
        self.end_view()
        self.local = threading.local()
        self.channels = []
        self.keepalive = None
        self.exit_finalizer = None
        self.private = None
        self.take_due()
        for holding in list(self.holdings.values()):
            holding.counted = 0

    # -- in the child of a fork ---------------------------------------------

    def after_fork_in_child(self):
        """Use the inherited connections no more: they are the parent's."""
        cdef Channel channel
        self.inherited += self.open_channels()
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

    # -- the calling thread's ------------------------------------------------

    @cython.final
    cdef Channel channel(self):
        """The calling thread's channel, opened if there is none."""
        cdef ThreadChannel mine, outer = None
        cdef unsigned long me
        cdef object found = getattr(self.local, "connection", None)
        if found is not None:
            mine = <ThreadChannel>found
            if mine.channel.usable and mine.channel.holder == 0:
                return mine.channel
        # A signal's handler and a finalizer may call while a call of their thread is under way.
        me = PyThread_get_thread_ident()
        mine = found
        while mine is not None and mine.channel.holder == me:
            outer, mine = mine, mine.spare
        if mine is None or not mine.channel.usable:
            mine = self.open_channel()
            if outer is None:
                self.local.connection = mine
            else:
                outer.spare = mine
        return mine.channel

    cdef Channel channel_again(self, dead):
        """The calling thread's channel, for a request that another was too `dead` to take."""
        try:
            return self.channel()
        except OSError as error:
            if dead is not None and self.is_lost(error):
                raise dead from error
            raise

    cdef ThreadChannel thread_channel(self):
        """What the calling thread has; None where that is nothing it could make a call over."""
        cdef ThreadChannel mine = getattr(self.local, "connection", None)
        return mine if mine is not None and mine.channel.usable else None

    def connect(self):
        """Open a connection for the calling thread, in place of the one it has."""
        cdef object old = getattr(self.local, "connection", None)
        self.local.connection = self.open_channel()
        if old is not None:
            self.lose((<ThreadChannel>old).channel, False)

    def forget_connection(self):
        del self.local.connection

    # -- all of them ---------------------------------------------------------

    cdef list open_channels(self):
        return [*self.channels] if self.keepalive is None else [*self.channels, self.keepalive]

    cdef ThreadChannel open_channel(self):
        """Open a channel for the calling thread."""
        cdef ThreadChannel mine = ThreadChannel()
        util.debug("connecting to the manager at %r", self.address)
        try:
            mine.channel = self.open(thread_name())
        except (OSError, EOFError) as error:
            if isinstance(error, TimeoutError) and type(error) is not CallTimeout and (
                self.is_lost(error) and limit_is_over()
            ):
                raise not_dialed(error) from None
            if not self.is_lost(error):
                raise
            if self.retired and getattr(error, "errno", None) is not None:
                error = OSError(
                    error.errno, f"the manager at {self.address!r} has been shut down")
            raise told(error, False) from None
        mine.channel.thread = PyThread_get_thread_ident()
        mine.session = weakref.ref(self)
        return mine

    cpdef bint is_lost(self, error) except -1:
        """`is_loss`, which cannot tell where the connections themselves are the user's code."""
        if uses_raw_sockets(self.serializer):
            return is_loss(error)
        return isinstance(error, (OSError, EOFError))

    cdef Channel open(self, object name):
        """A new channel, for a thread that the server is to call `name`; calls `adopt`."""
        raise NotImplementedError

    cdef double time_to_dial(self) except -1.0:
        """Seconds that connecting may take."""
        if self.hasty == PyThread_get_thread_ident():
            return seconds_to_dial(HASTE)
        return seconds_to_dial(self.timeout or connect_timeout())

    cdef int adopt(self, Channel channel) except -1:
        """Count a new channel among the session's."""
        authkeys[self.address] = self.authkey
        self.channels.append(channel)
        if self.keepalive is not None:
            old, self.keepalive = self.keepalive, None
            self.lose(old, False)
        if self.exit_finalizer is None:
            self.close_at_exit()
        return 0

    def close_at_exit(self):
        """Have the session closed in order when the process ends."""
        # Before a manager's own finalizer (0), after users' (> 10).
        self.exit_finalizer = util.Finalize(
            self, _close, args=(weakref.ref(self),), exitpriority=10
        )

    cdef int lose(self, Channel channel, bint keep) except -1:
        """A channel is not to be used again.

        With `keep` it stays open as long as it is all that shows the server that
        this process lives.
        """
        channel.usable = False
        if channel is self.keepalive and keep:
            return 0
        if channel in self.channels:
            self.channels.remove(channel)
        if keep and self.is_needed() and not self.channels and self.keepalive is None:
            self.keepalive = channel
        else:
            channel.close()
            if not self.channels and self.keepalive is None:
                self.end_view()     # the server ends the session
        return 0

    cdef bint is_needed(self) noexcept:
        """Whether the server must see that this process lives."""
        return len(self.holdings) != 0

    cdef void end_view(self) noexcept:
        """What proxies know of the server's memory is not to be relied on any more."""

    cdef int replace_keepalive(self) except -1:
        """Open a connection in place of an interrupted one, whose call then ends in the server.

        It would go on waiting there otherwise, and take what others should have.
        """
        cdef object raised = None
        self.hasty = PyThread_get_thread_ident()
        try:
            for _ in range(MOST_HANDLERS):
                try:
                    with unlimited(LATE_HASTE):
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

    cdef object after_failure(self, Channel channel, error):
        """Give up a channel over which a request has failed; return what is to be raised."""
        cdef bint stale = isinstance(error, StaleConnection)
        if channel.usable:
            return error    # it failed before anything was sent, or after all was received
        self.local.lost = channel
        self.lose(channel, channel.interrupted)
        if not stale and self.keepalive is channel:
            self.replace_keepalive()
        if stale:
            return told(named(error.args[0], self.address), False)
        if type(error) is CallTimeout:
            return unanswered(f"the manager's server at {self.address!r}", error.applied)
        return told(named(error, self.address), None) if self.is_lost(error) else error

    cdef int disconnect(self) except -1:
        cdef Channel channel
        self.end_view()
        for channel in self.open_channels():
            channel.close()
        self.channels = []
        self.keepalive = None
        return 0

    def retire(self):
        self.retired = True
        self.take_due()
        self.disconnect()


cdef object told(error, applied):
    """The error of a lost connection, which tells whether the call may have been applied."""
    cdef str words = "; nobody knows whether the call was made: it may have been applied"
    cdef list args = list(error.args)
    if applied is None and args and type(error).__module__ == "builtins":
        last = args.pop()
        if type(last) is str and not last.endswith(words):
            error = type(error)(*args, last + words)
    try:
        error.applied = applied
    except AttributeError:
        pass        # a user's own type
    return error


cdef object thread_name():
    """What the server calls the thread that serves the calling one, as in the stdlib."""
    name = process.current_process().name
    thread = threading.current_thread()
    return name if thread is threading.main_thread() else f"{name}|{thread.name}"


def _close(reference):
    session = reference()
    if session is not None:
        session.close()


def _introduce_child(session):
    """In a child that multiprocessing forked, which has just forgotten all finalizers."""
    if (<Connections>session).exit_finalizer is not None:
        session.close_at_exit()
    session.introduce_child(True, False)


cdef void introduce_hastily(Connections session) noexcept:
    """What is raised is shown, and the other sessions have their turn."""
    session.introduce_child(session.introduces_at_once, True)


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


register_at_fork(after_in_child=_after_fork_in_child)
