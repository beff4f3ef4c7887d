from fastmgr.memory.arena cimport Arena
from fastmgr.server.calls cimport Calls
from fastmgr.server.connection cimport Conn
from fastmgr.server.driver cimport Disposal, Driver, Load
from fastmgr.server.gifts cimport Gifts, Parking
from fastmgr.server.replies cimport Replies
from fastmgr.server.table cimport Entry, Session, Table

cdef class Operations:
    # What the service needs as well, it has from here.
    cdef object hooks
    cdef Table table
    cdef Load load
    cdef Calls calls
    cdef Replies replies
    cdef Gifts gifts
    cdef Parking parking
    cdef Disposal disposal
    cdef Arena arena              # None: nothing is shared

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
    cdef int locate(self, Conn conn, Driver by) except -1
    cdef int attach(self, Conn conn, Driver by) except -1
    cdef int leave(self, Conn conn) except -1
    cdef int end_session(self, Session session) except -1
