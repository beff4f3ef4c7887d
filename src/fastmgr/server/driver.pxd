"""What serves frames: the loop, or a worker."""

from fastmgr.server.connection cimport Conn
from fastmgr.server.load cimport Load
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

cdef class Driver:
    cdef bint on_loop             # only known code may run, and nothing may wait
    cdef Reader reader
    cdef Writer writer            # replies that are not sent yet
    cdef Load load

    cdef int send_replies(self, Conn conn) except -1
