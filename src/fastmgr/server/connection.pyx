"""One accepted connection, and where it is in its life; where connections arrive.

`Conn.place` says which thread owns the connection and its stream: the loop, a worker, or nobody.
`Conn.end` says how the peer ended, as far as the server knows.  Only the methods of `Conn` change
the two; each says which thread may call it.  docs/architecture.md has the drawing.
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.math cimport INFINITY

from fastmgr.link.stream cimport FLAG_FOLLOWS, OP_GOODBYE

import errno
from multiprocessing import AuthenticationError, util
from time import monotonic

from fastmgr.link.handshake import FAILURE, HANDSHAKE_LIMIT, Challenger, Garbage

# Connections that have yet to prove the key; the oldest go first when there are more.
cdef int MOST_UNPROVEN = 1024
# Seconds without accepting when descriptors have run out.
cdef double ACCEPT_PAUSE = 0.1
cdef frozenset SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


cdef class Handler:
    """What the loop and its connections ask of the server's other parts; the .pxd says when."""

    cdef int begin(self) except -1:
        raise NotImplementedError

    cdef int end(self) except -1:
        raise NotImplementedError

    cdef int serve(self, Conn conn) except -1:
        raise NotImplementedError

    cdef int answer(self, Conn conn) except -1:
        raise NotImplementedError

    cdef int leave(self, Conn conn) except -1:
        raise NotImplementedError

    cdef int hand_off(self, Conn conn) except -1:
        raise NotImplementedError

    cdef int turn(self) except -1:
        raise NotImplementedError

    cdef int respond(self, Conn conn, object message) except -1:
        raise NotImplementedError


@cython.final
cdef class Conn(Owner):
    """One accepted connection; made by the loop's thread."""

    def __init__(self, Stream stream, Handler handler):
        self.stream = stream
        self.handler = handler
        self.name = ""
        self.peer = None, ""
        self.tally = &self.own
        self.loop = PyThread_get_thread_ident()

    def send(self, message):
        """Reply to the current request: ``Server.shutdown`` does ``c.send(('#RETURN', None))``."""
        self.handler.respond(self, message)

    def close(self):
        """Close the connection once the current request is done with; any thread may call this."""
        self.closing = True

    cdef bint is_there(self) noexcept:
        """Whether the client is there; it may be dead without the loop knowing it yet."""
        return not self.stream.at_end()

    cdef void serve_no_more(self) noexcept:
        self.closing = True

    cdef int pin(self) except -1:
        """Keep the calling worker for this connection alone: it may own something by now."""
        self.pinned = True
        self.stream.set_timeout(0)
        if self.stock is not None:
            self.stock.may_idle = False
        return 0

    # -- where it is: for the loop; a worker has `to_receiving` and `to_serving` ------

    cdef int _move(self, int origins, Place place) except -1:
        assert PyThread_get_thread_ident() == self.loop, "not the loop's thread"
        assert origins >> self.place & 1, f"from {Place(self.place)!r} to {Place(place)!r}"
        self.place = place
        return 0

    cpdef int to_loop(self) except -1:
        """The loop serves the connection again: in its next turn, after a wait or a worker."""
        return self._move(1 << QUEUED | 1 << PARKED | 1 << WORKER | 1 << RECEIVING, LOOP)

    cpdef int to_queue(self) except -1:
        """The loop serves the other connections before it goes on with this one."""
        return self._move(1 << LOOP, QUEUED)

    cpdef int to_parked(self) except -1:
        """The connection's call waits; the loop serves nothing of it before that is over."""
        assert self.waiter is not None
        return self._move(1 << LOOP, PARKED)

    cpdef int to_worker(self) except -1:
        """The loop gives the connection and its stream to a worker."""
        return self._move(1 << LOOP, WORKER)

    cpdef int to_closed(self) except -1:
        """The loop is about to close the descriptor."""
        return self._move(1 << LOOP | 1 << QUEUED | 1 << PARKED, CLOSED)

    def close_copy(self):
        """In a forked child of the server: close the copies of the parent's descriptors."""
        self.place = CLOSED
        self.stream.close()
        self.stream.detach_mailbox()

    # -- how it ends: the thread that notices the end first calls one of these --------

    cpdef int note_hang_up(self) except -1:
        """The poller has told the loop of the hang-up while the worker receives."""
        assert PyThread_get_thread_ident() == self.loop and self.place == RECEIVING
        if self.end == ALIVE:
            self.end = HUNG_UP
        return 0

    cpdef bint note_goodbye(self) except -1:
        """The owner has taken a goodbye from the stream; return whether the end is news."""
        assert self.stream.header.op == OP_GOODBYE and self.session is not None
        if self.end >= IN_ORDER:
            return False        # the loop has seen it behind the call that was served
        self._end_in_order(&self.stream.header)
        return True

    cpdef bint note_end(self) except -1:
        """The peer is gone, or is to be gone; return whether that is news.

        The loop calls this, unless the worker receives, or the worker does.  A goodbye may lie
        behind a call that is under way, or behind requests that nobody will serve.
        """
        cdef Header last
        if self.end >= IN_ORDER:
            return False
        assert self.place != RECEIVING
        if self.session is not None:
            if self.stream.ends_cut_off(&last):
                self.cut_off = last.flags & FLAG_FOLLOWS != 0
            elif last.op == OP_GOODBYE:
                self._end_in_order(&last)
                return True
        self.end = LOST
        return True

    cdef void _end_in_order(self, const Header *goodbye) noexcept:
        self.end = IN_ORDER
        self.untaken = goodbye.call
        if goodbye.handle:
            self.session.clean = True   # the process ends, and not only its thread


@cython.final
cdef class Acceptor:
    """Accepts connections, and has each prove the key before anything else.

    All of it is the loop's thread's.  It sends nothing: the loop sends what `answer` returns.
    """

    def __init__(self, server, listener):
        self.server = server
        self.listener = listener
        self.unproven = {}
        self.again = self.next = INFINITY

    cdef int fileno(self) except -2:
        """The listener's descriptor; -1 where there is none, or none any more."""
        return -1 if self.listener is None else self.listener.fileno()

    cdef Conn accept(self, Handler handler):
        """Accept one connection; None where no more can be had now, perhaps for a pause."""
        cdef Conn conn
        try:
            sock = self.listener.accept_socket()
        except OSError as error:
            if error.errno in SCARCE:
                # The listener stays readable, so waiting for it would spin.
                util.info("cannot accept: %s; again in %g s", error, ACCEPT_PAUSE)
                self.again = <double>monotonic() + ACCEPT_PAUSE
                self.set_next()
            return None     # else no peer waits, or one gave up before it was accepted
        peer = self.listener.last_peer(sock)
        conn = Conn(Stream(sock.detach(), HANDSHAKE_LIMIT), handler)
        conn.peer = peer
        self.accepted += 1
        conn.handshake = Challenger(self.server.authkey)
        self.unproven[conn] = <double>monotonic() + <double>self.server.handshake_timeout
        self.set_next()
        return conn

    cdef list answer(self, Conn conn):
        """Take one frame of the handshake; return the frames to send.

        The connection is `closing` where the handshake has failed, and has proved the key once
        its handshake is `done`.
        """
        try:
            replies = conn.handshake.feed((<const char *>conn.stream.body)[:conn.stream.size])
        except AuthenticationError as error:
            util.info("connection refused: %s", error)
            self.refused += 1
            conn.serve_no_more()
            return [FAILURE]
        except Garbage as error:
            util.info("connection dropped: %s", error)
            self.refused += 1
            conn.serve_no_more()
            return []
        if conn.handshake.done:
            self.forget(conn)
            conn.stream.limit = 0
            conn.stream.acknowledge()
        return replies

    cdef Conn superfluous(self):
        """The oldest connection that has not proved the key, where there are too many."""
        return next(iter(self.unproven)) if len(self.unproven) > MOST_UNPROVEN else None

    cdef Conn overdue(self, double now):
        """A connection that should have proved the key by now, if there is one."""
        for conn, deadline in self.unproven.items():
            return conn if deadline <= now else None
        return None

    cdef int forget(self, Conn conn) except -1:
        """The connection has proved the key, or is closed."""
        if self.unproven.pop(conn, None) is not None:
            self.set_next()
        return 0

    cdef int resume(self) except -1:
        """A pause without accepting is over."""
        self.again = INFINITY
        return self.set_next()

    cdef int set_next(self) except -1:
        self.next = self.again
        for deadline in self.unproven.values():
            self.next = min(self.next, <double>deadline)
            break       # the oldest comes first
        return 0
