"""One accepted connection, and where it is in its life."""

from fastmgr.kinds.waits cimport Owner
from fastmgr.link.stream cimport Stream
from fastmgr.link.system cimport uint32_t, uint64_t
from fastmgr.server.table cimport Session

cdef enum Verdict:
    KEEP = 0       # the frame is served; the connection stays with the loop
    HAND_OFF = 1   # the connection goes to a worker, with this frame still to serve
    CLOSE = 2
    PARK = 3       # the call waits; no frame is taken before it is answered

cdef class Responder:
    cdef int respond(self, Conn conn, object message) except -1

cdef class Conn(Owner):
    cdef readonly Stream stream
    cdef object challenger        # None once both sides have proved the key
    cdef object handshake         # the same from then on, until the first request
    cdef double deadline          # by when they must have
    cdef readonly Session session  # None: a stock peer
    cdef Responder responder
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
