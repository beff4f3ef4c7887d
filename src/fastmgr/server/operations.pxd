"""What each operation of the fast dialect does."""

from fastmgr.server.calls cimport Calls
from fastmgr.server.cells cimport Cells
from fastmgr.server.connection cimport Conn
from fastmgr.server.departures cimport Departures
from fastmgr.server.disposal cimport Disposal
from fastmgr.server.driver cimport Driver
from fastmgr.server.gifts cimport Gifts
from fastmgr.server.load cimport Load
from fastmgr.server.parking cimport Parking
from fastmgr.server.replies cimport Replies
from fastmgr.server.table cimport Entry, Table

cdef class Operations:
    cdef object hooks
    cdef Table table
    cdef Load load
    cdef Calls calls
    cdef Replies replies
    cdef Gifts gifts
    cdef Parking parking
    cdef Disposal disposal
    cdef Cells cells
    cdef Departures departures

    cdef int serve(self, Conn conn, Driver by) except -1
    cdef int call(self, Conn conn, Driver by) except -1
    cdef int call_of(self, Conn conn, Entry entry, Driver by, bint carried) except -1
    cdef int call_primitive(
        self, Conn conn, Entry entry, Driver by, object name, object args, object kwds
    ) except -1
    cdef int create(self, Conn conn, Driver by) except -1
    cdef int control(self, Conn conn, Driver by) except -1
    cdef int incref(self, Conn conn, Driver by) except -1
    cdef int release(self, Conn conn, Driver by) except -1
