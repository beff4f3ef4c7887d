from fastmgr.kinds.waits cimport Waiter
from fastmgr.link.system cimport uint32_t, uint64_t
from fastmgr.server.connection cimport Conn
from fastmgr.server.driver cimport Disposal, Driver
from fastmgr.server.loop cimport Loop
from fastmgr.server.replies cimport Replies
from fastmgr.server.table cimport Entry, Table

cdef class Gift:
    cdef uint32_t call
    cdef list keys                # of entries: the reply gave a reference to each; or None
    cdef bint anonymous           # the session does not hold these references
    cdef uint64_t handle          # of the primitive that the call took from
    cdef Waiter waiter            # of that call; None: it took from no primitive
    cdef object value             # what the waiter was given
    cdef bint is_hard             # whether the loop must not drop the value: it may be a user's

cdef class Gifts:
    cdef Table table
    cdef Disposal disposal

    cdef Gift note(self, Conn conn)
    cdef bint share(self, Conn conn, Entry entry, bint anonymous) except -1
    cdef bint retain(self, Conn conn, list keys) except -1
    cdef bint lend(self, Conn conn, Gift gift, Waiter waiter, object value) except -1
    cdef bint is_late(self, Conn conn, Gift gift) except -1
    cdef int taken(self, Conn conn, bint on_loop) except -1
    cdef int taken_but_proxies(self, Conn conn, bint on_loop) except -1
    cdef int returned(self, Conn conn, object count) except -1
    cdef int left(self, Conn conn) except -1
    cdef int take_back(self, Conn conn, list given, bint cut_off) except -1
    cdef int drop(self, list given) except -1

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
