from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.server.connection cimport Conn
from fastmgr.server.gifts cimport Gifts
from fastmgr.server.table cimport Entry, Table

cdef class Calls:
    cdef object hooks
    cdef object create            # a user's Server.create: shares what stock peers are returned
    cdef Table table
    cdef Gifts gifts
    cdef dict proxytypes          # typeid -> "module:name" of its proxy type, or None

    cdef object perform(
        self, object c, Conn conn, Entry entry, object ident, object name, object args,
        object kwds, uint8_t *op, uint64_t *handle
    )
    cdef object perform_versioned(
        self, object c, Conn conn, Entry entry, object ident, object name, object args,
        object kwds, uint8_t *op, uint64_t *handle
    )
    cdef tuple make_proxy(self, object c, Conn conn, Entry parent, object typeid, object result)

cpdef Entry create(
    object hooks, object typeid, object args, object kwds, bint known=*, bint anew=*
)
cpdef tuple create_for_stock(object hooks, object typeid, object args, object kwds)
cpdef tuple failed_creation(object hooks, object typeid, object kwds, object error)
cdef bint may_make(object function) except -1
cdef bint keeps(Entry entry, object name, object args) except -1
cdef bint is_blind(object obj, object name)
cdef bint shows_values(Entry entry, object name) except -1
cdef int note_carried(Entry entry) except -1
cpdef int look_inside(Entry entry) except -1
cpdef int show(Entry entry) except -1
