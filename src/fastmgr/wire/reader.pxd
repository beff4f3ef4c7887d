"""Bytes to values."""

cdef class Reader:
    """A cursor over bytes it does not own; the caller keeps them alive."""

    cdef const char *pos
    cdef const char *end
    cdef bint allow_pickle
    cdef bint carry           # pickles become `Opaque`, allowed or not; `feed` clears it
    cdef list buffers         # those that OUTSIDE stands for, in order
    cdef Py_ssize_t next_buffer
    # Begin with the values at `data`, whose large buffers are `buffers` (None for none).
    cdef void feed(self, const char *data, size_t n, list buffers, bint allow_pickle) noexcept
    # Return the next value. After an exception `pos` is anywhere up to `end`: feed again.
    cdef object get(self)
    cdef bint done(self) noexcept
