from fastmgr.kinds.waits cimport Waiter
from fastmgr.server.connection cimport Conn
from fastmgr.server.disposal cimport Disposal, Gifts
from fastmgr.server.driver cimport Driver
from fastmgr.server.loop cimport Loop
from fastmgr.server.replies cimport Replies
from fastmgr.server.table cimport Entry

cdef class Parking:
    cdef Loop loop
    cdef Replies replies
    cdef Gifts gifts
    cdef Disposal disposal

    cdef int begin(
        self, Conn conn, Entry entry, Driver by, object name, object args, object kwds
    ) except -1
    cdef int answer(self, Conn conn) except -1
    cdef int end(self, Conn conn) except -1
    cdef int reply_given(self, Conn conn, Driver by, Waiter waiter, object value) except -1
    cdef int discard(self, Waiter waiter) except -1
