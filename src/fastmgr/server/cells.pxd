from fastmgr.memory.arena cimport Arena
from fastmgr.server.connection cimport Conn
from fastmgr.server.driver cimport Driver
from fastmgr.server.replies cimport Replies
from fastmgr.server.table cimport Session, Table

cdef class Cells:
    cdef Arena arena              # None: nothing is shared
    cdef Table table
    cdef Replies replies

    cdef int open(self) except -1
    cdef int close(self) except -1
    cdef int enter(self, Session session) except -1
    cdef int leave(self, Session session) except -1
    cdef int locate(self, Conn conn, Driver by) except -1
    cdef int attach(self, Conn conn, Driver by) except -1
