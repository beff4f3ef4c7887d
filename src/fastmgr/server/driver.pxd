from fastmgr.kinds.waits cimport Waiter
from fastmgr.server.connection cimport Conn
from fastmgr.server.table cimport Entry
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

cdef enum:
    RECENT = 16

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
