"""Pickles among the values: made, looked over, read, or carried unread."""

cdef class Opaque:
    """A value that is kept as the pickle it came as."""

    cdef bytes data
    cdef tuple buffers        # bytes, and bytearrays that nobody else has; None for none
    # Return the value; runs whatever code the pickle names.
    cpdef object load(self)


cdef object unpickle(bytes data, object buffers)
cdef bytes pickled(object value, list buffers)
cdef bint names_a_process(bytes data) except -1
cdef bint has_reducer(object kind) except -1
