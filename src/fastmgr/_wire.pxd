"""The values of the fast dialect, for other modules. `_wire.pyx` describes the encoding."""

cdef enum:
    FM_WIRE_PICKLE = 0        # first byte of a value that only `pickle.loads` can read


cdef class Writer:
    """A growable buffer of encoded values; owns `data` (malloc)."""

    cdef char *data           # NULL until the first byte; moves whenever the buffer grows
    cdef size_t size          # bytes written
    cdef size_t capacity
    # Make room for `extra` more bytes.
    cdef int grow(self, size_t extra) except -1
    # Append raw bytes, `source` may be NULL when n is 0.
    cdef int write(self, const void *source, size_t n) except -1
    # Encode one value: 0 = compact, 1 = pickled. On an exception nothing was written.
    # Pickling runs users' code, which must not reach this Writer.
    cdef int put(self, object value) except -1
    # Encode one value: 0 = done, 1 = it needs pickle and nothing was written. Runs no users' code.
    cdef int put_compact(self, object value) except -1
    # Forget what was written, and give a large buffer back.
    cdef void reset(self) noexcept


cdef class Reader:
    """A cursor over bytes it does not own; the caller keeps them alive."""

    cdef const char *pos
    cdef const char *end
    cdef bint allow_pickle
    cdef void feed(self, const char *data, size_t n, bint allow_pickle) noexcept
    # The next value. After an exception `pos` is anywhere up to `end`: feed again.
    cdef object get(self)
    cdef bint done(self) noexcept
