"""What serves frames, a loop or a worker, and what a loop asks of the rest of the server."""

from fastmgr.server.connection cimport Conn, Responder
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

cdef class Driver:
    cdef bint on_loop             # only known code may run, and nothing may wait
    cdef Reader reader
    cdef Writer writer            # replies that are not sent yet

    cdef int send_replies(self, Conn conn) except -1

cdef class Worker(Driver):
    pass

cdef class Handler(Responder):
    cdef int begin(self) except -1
    cdef int end(self) except -1
    cdef int serve(self, Conn conn) except -1
    cdef int answer(self, Conn conn) except -1
    cdef int leave(self, Conn conn) except -1
    cdef int hand_off(self, Conn conn) except -1
    cdef int turn(self) except -1
