from fastmgr.server.table cimport Entry

cdef bint may_make(object function) except -1
cdef bint keeps(Entry entry, object name, object args) except -1
cdef bint is_blind(object obj, object name)
cdef bint shows_values(Entry entry, object name) except -1
cdef int note_carried(Entry entry) except -1
cpdef int look_inside(Entry entry) except -1
