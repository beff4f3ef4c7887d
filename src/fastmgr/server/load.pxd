"""What is left of processors, which decides who may spin, and of descriptors."""

cdef enum:
    RECENT = 16

cdef class Load:
    cdef bint may_spin            # a processor is left for it
    cdef int cores
    cdef int recent[RECENT]       # the descriptors of the last requests, negative from workers
    cdef unsigned int served      # requests so far

    cdef int count(self) noexcept


cdef inline int note_request(Load load, int fd, bint on_loop) noexcept:
    load.recent[load.served % RECENT] = fd if on_loop else -fd
    load.served += 1
    return load.count() if load.served % RECENT == 0 else 0
