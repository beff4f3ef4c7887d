cimport cython
from cpython.pythread cimport PyThread_get_thread_ident

from fastmgr.kinds.waits cimport Owner
from fastmgr.link.stream cimport Header, Stream
from fastmgr.link.system cimport int64_t, uint32_t, uint64_t
from fastmgr.memory.arena cimport Version
from fastmgr.server.table cimport Session, Tally

cdef enum Verdict:
    KEEP = 0       # the frame is served; the connection stays with the loop
    HAND_OFF = 1   # the connection goes to a worker, with this frame still to serve
    CLOSE = 2
    PARK = 3       # the call waits; no frame is taken before it is answered

cpdef enum Place:
    LOOP           # the loop reads its requests and serves them
    QUEUED         # it has had its share of the loop's turn, and more in the next
    PARKED         # its call waits for a primitive, and no thread is behind it
    WORKER         # a worker serves a request of it
    RECEIVING      # its worker waits for the next request, or is about to see it
    CLOSED         # its descriptor is closed

cpdef enum End:
    ALIVE
    HUNG_UP        # the loop has seen the peer hang up; its worker is to serve what came before
    IN_ORDER       # it said goodbye; what it held is given back
    LOST           # it did not; what it held is given back

cdef class Handler:
    cdef int begin(self) except -1                  # the loop's thread begins
    cdef int end(self) except -1                    # it ends, for whatever reason
    cdef int serve(self, Conn conn) except -1       # the stream's last frame; -> `Verdict`
    cdef int answer(self, Conn conn) except -1      # the parked call is finished; -> `Verdict`
    cdef int leave(self, Conn conn) except -1       # the peer is gone: give back what it held
    cdef int hand_off(self, Conn conn) except -1    # to a worker, until the worker returns it
    cdef int turn(self) except -1                   # the loop has served all that was ready
    cdef int respond(self, Conn conn, object message) except -1   # a server's function replies


@cython.final
cdef class Conn(Owner):
    cdef readonly Stream stream
    cdef readonly Session session  # None: a stock peer
    cdef public object name       # what the peer calls its thread
    cdef readonly tuple peer      # process and address, as the socket tells them
    # What is counted of its calls: in the session, in `own` of a stock peer, or, once the peer has
    # left, in what the table keeps of such peers.
    cdef Tally *tally
    cdef Tally own
    cdef int64_t began            # when the current call began; 0: it is not timed
    cdef int weight               # how many calls its time stands for
    cdef Handler handler
    # Its life, which the methods below alone change.
    cdef readonly Place place
    cdef readonly End end
    cdef readonly bint closing    # nothing more of it is served: the loop closes it
    cdef unsigned long loop       # the loop's thread
    # How it is served.
    cdef object handshake         # its Challenger; None from its first request on
    cdef object stock             # the StockConnection, once a stock peer is served
    cdef readonly bint introduced  # a stock peer has asked for a session (accept_connection)
    cdef bint pinned              # its worker serves no other connection any more
    cdef bint timed               # the socket has its receive timeout
    cdef int streak               # calls in a row that the loop could have served
    cdef uint64_t noted           # handle of the primitive noted last for its session
    cdef bint answered            # a hook has replied to the current request itself
    cdef tuple undelivered        # operation, handle and payload of what a worker must encode
    cdef bint apart               # the next reply is a list whose values share nothing
    # Which version of an object the client may keep the next reply at; None: it may not.
    cdef Version reading
    cdef uint64_t version
    # What the peer is about to read: entries whose proxies are in a reply, and each `Gift`.
    cdef list in_transit
    cdef dict taken               # of a pipeline that releases: handle -> `Gift`s that took from it
    cdef uint32_t untaken         # the first call whose reply the peer has not taken; 0: none
    cdef bint cut_off             # the peer's pipeline ends in the middle of a frame
    # One-way calls that failed since the last reply.
    cdef Py_ssize_t failed        # how many
    cdef tuple failure            # the first: in words, and (operation, payload)

    cpdef int to_loop(self) except -1
    cpdef int to_queue(self) except -1
    cpdef int to_parked(self) except -1
    cpdef int to_worker(self) except -1
    cpdef int to_closed(self) except -1
    cpdef int note_hang_up(self) except -1
    cpdef bint note_goodbye(self) except -1
    cpdef bint note_end(self) except -1
    cdef int pin(self) except -1
    cdef int _move(self, int origins, Place place) except -1
    cdef void _end_in_order(self, const Header *goodbye) noexcept

    cdef inline bint is_with_loop(self) noexcept:
        """Whether the loop owns the connection, so that the loop may close it."""
        return self.place <= PARKED

    cdef inline bint is_gone(self) noexcept:
        """Whether the peer is known to be gone, and what it held is given back."""
        return self.end >= IN_ORDER

    cdef inline int to_receiving(self) except -1:
        """The worker is about to wait for the next request."""
        assert PyThread_get_thread_ident() != self.loop and self.place == WORKER
        self.place = RECEIVING
        return 0

    cdef inline int to_serving(self) except -1:
        """The worker has received."""
        assert PyThread_get_thread_ident() != self.loop and self.place == RECEIVING
        self.place = WORKER
        return 0


@cython.final
cdef class Acceptor:
    cdef object listener          # None: the server accepts connections by itself
    cdef object server            # has the key, and says how long a handshake may take
    cdef dict unproven            # Conn -> by when it must have proved the key, oldest first
    cdef double again             # when a pause without accepting ends; infinite: there is none
    cdef double next              # when there is something to do though nothing arrives
    cdef readonly Py_ssize_t accepted   # connections so far
    cdef readonly Py_ssize_t refused    # of these: that have not proved the key, or not in time

    cdef int fileno(self) except -2
    cdef Conn accept(self, Handler handler)
    cdef list answer(self, Conn conn)
    cdef Conn superfluous(self)
    cdef Conn overdue(self, double now)
    cdef int forget(self, Conn conn) except -1
    cdef int resume(self) except -1
    cdef int set_next(self) except -1
