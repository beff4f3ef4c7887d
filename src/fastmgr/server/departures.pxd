"""The end of a connection, and of a session with its last one."""

from fastmgr.server.cells cimport Cells
from fastmgr.server.connection cimport Conn
from fastmgr.server.disposal cimport Disposal
from fastmgr.server.gifts cimport Gifts
from fastmgr.server.parking cimport Parking
from fastmgr.server.table cimport Session, Table

cdef class Departures:
    cdef Table table
    cdef Cells cells
    cdef Gifts gifts
    cdef Parking parking
    cdef Disposal disposal

    cdef int leave(self, Conn conn) except -1
    cdef int end_exchange(self, Conn conn) except -1
    cdef int end_session(self, Session session) except -1
