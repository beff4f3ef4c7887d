"""What the threads of a session have been granted: locks and permits."""

cdef class Grants:
    cdef public object _session     # weak: the `ValkeySession`
    cdef public object _connection  # shows the one server that the process lives; None in a cluster
    cdef public dict _held          # of each lock or semaphore: by thread how often, and the fence
    cdef public dict _lost          # the same of what the session held when it was taken for dead
    cdef dict permits       # of each semaphore: by thread the wait by which it got its last permit

    cdef bint is_begun(self) except -1
    cpdef object thread(self)
    cpdef bytes name(self)
    cpdef int took(self, bytes key, object fence) except -1
    cpdef int gave(self, bytes key, object number=*) except -1
    cpdef list grant(self, bytes key)
    cpdef int note_permit(self, bytes key, bytes name) except -1
    cpdef bytes permit(self, bytes key)
    cpdef int check(self, bytes key, bint gives=*) except -1
