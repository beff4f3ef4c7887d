from fastmgr.server.cells cimport Cells
from fastmgr.server.connection cimport Conn, Handler
from fastmgr.server.disposal cimport Disposal
from fastmgr.server.driver cimport Load
from fastmgr.server.loop cimport Loop
from fastmgr.server.operations cimport Operations
from fastmgr.server.parking cimport Parking
from fastmgr.server.replies cimport Replies
from fastmgr.server.table cimport Table

cdef class Service(Handler):
    cdef object hooks
    cdef object stock_peers
    cdef object workers
    cdef Table table
    cdef Loop loop
    cdef Load load
    cdef Operations operations
    cdef Replies replies
    cdef Parking parking
    cdef Disposal disposal
    cdef Cells cells
    cdef bint offers_fast         # the fast dialect is spoken to those who ask for it

    cdef int introduce(self, Conn conn, object handshake) except -1
    cdef int serve_fast(self, Conn conn) except -1
    cdef int serve_stock(self, Conn conn) except -1
