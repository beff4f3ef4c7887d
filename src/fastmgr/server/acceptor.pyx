"""Where connections arrive, and which of them have yet to prove the key.

All of it is the loop's thread's.  Nothing is sent here: the loop sends what `answer` returns.
"""

cimport cython

from fastmgr.link.stream cimport Stream

import errno
from multiprocessing import AuthenticationError, util
from time import monotonic

from fastmgr.link.handshake import FAILURE, HANDSHAKE_LIMIT, Challenger, Garbage

# Connections that have yet to prove the key; the oldest go first when there are more.
cdef int MOST_UNPROVEN = 1024
cdef double FOREVER = float("inf")
# Seconds without accepting when descriptors have run out.
cdef double ACCEPT_PAUSE = 0.1
cdef frozenset SCARCE = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


@cython.final
cdef class Acceptor:
    """Accept connections, and have each prove the key before anything else.

    Parameters
    ----------
    server : Server
        Gives ``authkey`` and ``handshake_timeout`` (seconds).
    listener : Listener or None
        Where connections arrive.
    """

    def __init__(self, server, listener):
        self.server = server
        self.listener = listener
        self.unproven = {}
        self.again = self.next = FOREVER

    cdef int fileno(self) except -2:
        """The listener's descriptor; -1 where there is none, or none any more."""
        return -1 if self.listener is None else self.listener.fileno()

    cdef Conn accept(self, Responder responder):
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
        conn = Conn(Stream(sock.detach(), HANDSHAKE_LIMIT), responder)
        conn.handshake = Challenger(self.server.authkey)
        self.unproven[conn] = <double>monotonic() + <double>self.server.handshake_timeout
        self.set_next()
        return conn

    cdef list answer(self, Conn conn):
        """Take one frame of the handshake; return the frames to send.

        The connection is `closing` where the handshake has failed, and has proved the key once
        its handshake is `done`.
        """
        cdef list replies
        try:
            replies = conn.handshake.feed((<const char *>conn.stream.body)[:conn.stream.size])
        except AuthenticationError as error:
            util.info("connection refused: %s", error)
            conn.serve_no_more()
            return [FAILURE]
        except Garbage as error:
            util.info("connection dropped: %s", error)
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
        self.again = FOREVER
        return self.set_next()

    cdef int set_next(self) except -1:
        self.next = self.again
        for deadline in self.unproven.values():
            self.next = min(self.next, <double>deadline)
            break       # the oldest comes first
        return 0
