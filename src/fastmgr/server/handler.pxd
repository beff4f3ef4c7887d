"""The loop's driver: what it does with the connections that the loop owns."""

from fastmgr.server.cells cimport Cells
from fastmgr.server.connection cimport Conn
from fastmgr.server.departures cimport Departures
from fastmgr.server.disposal cimport Disposal
from fastmgr.server.driver cimport Handler
from fastmgr.server.loop cimport Loop
from fastmgr.server.operations cimport Operations
from fastmgr.server.parking cimport Parking
from fastmgr.server.replies cimport Replies
from fastmgr.server.service cimport Service
from fastmgr.server.table cimport Table

cdef class ServerHandler(Handler):
    cdef object hooks
    cdef Table table
    cdef Loop loop
    cdef Operations operations
    cdef Replies replies
    cdef Parking parking
    cdef Disposal disposal
    cdef Cells cells
    cdef Departures departures
    cdef Service service
    cdef bint offers_fast         # the fast dialect is spoken to those who ask for it

    cdef int introduce(self, Conn conn, object handshake) except -1
