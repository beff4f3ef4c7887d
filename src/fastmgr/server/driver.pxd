from fastmgr.kinds.waits cimport Waiter
from fastmgr.server.connection cimport Conn, Responder
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

cdef class Handler(Responder):
    cdef int begin(self) except -1                  # the loop's thread begins
    cdef int end(self) except -1                    # it ends, for whatever reason
    cdef int serve(self, Conn conn) except -1       # the stream's last frame; -> `Verdict`
    cdef int answer(self, Conn conn) except -1      # the parked call is finished; -> `Verdict`
    cdef int leave(self, Conn conn) except -1       # the peer is gone: return what it held
    cdef int hand_off(self, Conn conn) except -1    # to a worker, until the worker returns it
    cdef int turn(self) except -1                   # the loop has served all that was ready


cdef inline int note_request(Load load, int fd, bint on_loop) noexcept:
    load.recent[load.served % RECENT] = fd if on_loop else -fd
    load.served += 1
    return load.count() if load.served % RECENT == 0 else 0
