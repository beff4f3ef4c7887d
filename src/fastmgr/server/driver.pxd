from fastmgr.kinds.waits cimport Waiter
from fastmgr.link.system cimport fm_now_ns, uint32_t
from fastmgr.server.connection cimport Conn
from fastmgr.server.table cimport Entry
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

cdef enum:
    RECENT = 16
    TIMED = 16          # the loop times about one call in so many

cdef class Load:
    cdef bint may_spin            # a processor is left for it
    cdef int cores
    cdef int recent[RECENT]       # the descriptors of the last requests, negative from workers
    cdef unsigned int served      # requests so far

    cdef int count(self) noexcept

cdef class Timers:
    cdef list heap                # of (deadline, serial, Waiter)
    cdef Py_ssize_t serial        # of the last timer that was set
    cdef double next              # the first deadline; infinite for none

    cdef bint set(self, Waiter waiter, Py_ssize_t conns) except -1
    cdef int expire(self, double now) except -1

cdef class Driver:
    cdef bint on_loop             # only known code may run, and nothing may wait
    cdef Reader reader
    cdef Writer writer            # replies that are not sent yet
    cdef int untimed              # calls until the next one whose time is taken
    cdef uint32_t seed            # of the steps between those

    cdef int send_replies(self, Conn conn) except -1

cdef class Worker(Driver):
    pass

cdef class Disposal:
    cdef object workers
    cdef list doomed              # what a worker drops once the loop's turn is over
    cdef readonly int disposing   # threads that are dropping objects this moment

    cdef int drop(self, list dead) except -1
    cdef int drop_elsewhere(self, list dead) except -1
    cdef int doom(self, object value) except -1
    cdef int turn(self) except -1

cdef bint is_hard_to_drop(Entry entry) except -1
cdef bint is_plain(object value) noexcept


cdef inline int note_request(Load load, int fd, bint on_loop) noexcept:
    load.recent[load.served % RECENT] = fd if on_loop else -fd
    load.served += 1
    return load.count() if load.served % RECENT == 0 else 0


cdef inline void begin_call(Conn conn, Driver by) noexcept:
    """Take the time at which a call begins: a worker of each, the loop of one in `TIMED` or so.

    To read the clock twice costs up to a tenth of what the loop needs for a small call.
    """
    if by.untimed > 0:
        by.untimed -= 1
        return
    conn.began = fm_now_ns()
    conn.weight = 1
    if by.on_loop:
        # The steps differ, for programs make their calls in rows that repeat.
        by.seed = by.seed * 1103515245 + 12345
        by.untimed = TIMED // 2 + <int>(by.seed >> 16) % TIMED
        conn.weight = TIMED
