from fastmgr.kinds.waits cimport Waiter
from fastmgr.link.system cimport uint32_t, uint64_t
from fastmgr.server.connection cimport Conn
from fastmgr.server.table cimport Entry, Table

cdef class Disposal:
    cdef object workers
    cdef list doomed              # what a worker drops once the loop's turn is over
    cdef readonly int disposing   # threads that are dropping objects this moment

    cdef int drop(self, list dead) except -1
    cdef int drop_elsewhere(self, list dead) except -1
    cdef int doom(self, object value) except -1
    cdef int turn(self) except -1

cdef class Gift:
    cdef uint32_t call
    cdef list keys                # of the entries a reference of which came with it; None for none
    cdef bint anonymous           # which the session does not hold
    cdef uint64_t handle          # of the primitive that it took from
    cdef Waiter waiter            # None: it took from none
    cdef object value             # which it was given
    cdef bint is_hard             # to drop on the loop: it may be a user's

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

cdef bint is_hard_to_drop(Entry entry) except -1
cdef bint is_plain(object value) noexcept
