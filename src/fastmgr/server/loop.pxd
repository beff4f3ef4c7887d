"""Accepting, authenticating and watching any number of connections on one thread."""

from fastmgr.kinds.waits cimport Owner, Waiter
from fastmgr.link.mailbox cimport fm_mailroom
from fastmgr.link.stream cimport Stream
from fastmgr.link.system cimport fm_poller, fm_spinner, uint32_t, uint64_t
from fastmgr.server.load cimport Load
from fastmgr.server.table cimport Session
from fastmgr.server.timers cimport Timers
from fastmgr.wire.codec cimport Reader, Writer

cdef enum Verdict:
    KEEP = 0       # the frame is served; the connection stays with the loop
    HAND_OFF = 1   # the connection goes to a worker, with this frame still to serve
    CLOSE = 2
    PARK = 3       # the call waits; no frame is taken before it is answered

cdef class Conn(Owner):
    cdef readonly Stream stream
    cdef object challenger        # None once both sides have proved the key
    cdef object handshake         # the same from then on, until the first request
    cdef double deadline          # by when they must have
    cdef readonly Session session  # None: a stock peer
    cdef public Waiter parked            # what its call waits for; None if it does not
    cdef object server            # whose connection this is
    cdef readonly object name     # what the peer calls its thread
    cdef object stock             # the StockConnection, once a stock peer is served
    cdef readonly bint introduced  # a stock peer has asked for a session (accept_connection)
    cdef bint on_worker
    cdef bint pinned              # the worker is this connection's for life
    cdef int streak               # calls in a row that the loop could have served
    cdef uint64_t noted           # handle of the primitive that it noted last for its session
    cdef bint left                # it counts no more in its session
    cdef bint clean               # the peer closed it in order
    cdef bint receiving           # its worker waits for, or is about to see, what comes next
    cdef bint hung_up             # the peer has, while the worker was receiving
    cdef bint waits               # it has had its share of the turn, and frames are at hand
    cdef bint finished            # the worker, or a hook, wants it closed: the loop does that
    cdef bint closed
    cdef bint timed               # the socket has its receive timeout
    cdef bint answered            # a hook has replied to the current request itself
    # What the peer is about to read: entries whose proxies are in a reply, and each `Gift`.
    cdef list in_transit
    cdef dict taken               # of a pipeline that releases: handle -> `Gift`s that took from it
    cdef uint32_t untaken         # the first call whose reply the peer has not taken; 0: none
    cdef Py_ssize_t failed        # calls without a reply since the last reply
    cdef tuple failure            # of the first of them: in words, and (operation, payload)
    cdef tuple undelivered        # operation, handle and payload of what a worker must encode

cdef class Driver:
    cdef bint on_loop             # only known code may run, and nothing may wait
    cdef Reader reader
    cdef Writer writer            # replies that are not sent yet
    cdef Load load

    cdef int send_replies(self, Conn conn) except -1

cdef class Handler:
    cdef int begin(self) except -1
    cdef int end(self) except -1
    cdef int serve(self, Conn conn) except -1
    cdef int answer(self, Conn conn) except -1
    cdef int leave(self, Conn conn) except -1
    cdef int hand_off(self, Conn conn) except -1
    cdef int turn(self) except -1

cdef class Loop(Driver):
    cdef fm_poller poller
    cdef fm_mailroom mail         # the mailboxes of connections in `conns`, which keep them
    cdef int wake_read, wake_write
    cdef unsigned long ident      # the loop's thread
    cdef fm_spinner spinner
    cdef Handler handler          # while the loop runs
    cdef object listener
    cdef object server
    cdef readonly dict conns      # fd -> Conn
    cdef dict unproven            # Conn -> None, oldest first
    cdef dict watched             # fd -> callable
    cdef list backlog             # connections that wait for their next share
    cdef list inbox               # connections coming back from workers
    cdef bint stopping
    cdef bint accepting
    cdef double accept_again
    cdef list due                 # finished waiters whose clients wait for the reply
    cdef Timers timers            # of parked calls
    cdef object tick              # called about once a second, or None
    cdef double next_tick

    cdef int dispatch_event(self, int fd, int ready) except -1
    cdef int accept_burst(self) except -1
    cdef int readable(self, Conn conn, int ready) except -1
    cdef int drain(self, Conn conn) except -1
    cdef int postpone(self, Conn conn) except -1
    cdef int answer(self, Conn conn) except -1
    cdef int prove(self, Conn conn) except -1
    cdef int send(self, Conn conn, const char *data, size_t size, list buffers) except -1
    cdef int flush(self, Conn conn) except -1
    cdef int set_interest(self, Conn conn, int interest) except -1
    cdef int attend(self, Conn conn) except -1
    cdef int open(self, Conn conn) noexcept
    cdef int shut(self, Conn conn) except -1
    cdef int disregard(self, Conn conn, int interest) except -1
    cdef int entrust(self, Conn conn) except -1
    cdef int give_back(self, Conn conn) except -1
    cdef int give_up(self, Conn conn) except -1
    cdef int take_back(self, Conn conn) except -1
    cdef int drop(self, Conn conn) except -1
    cdef int wake(self) noexcept
    cdef int timeout_ms(self) except -2
    cdef int housekeeping(self) except -1
    cdef int serve_all(self) except -1
    cdef int set_timer(self, Waiter waiter) except -1
    cdef int hang_up(self, Conn conn) except -1
