"""The values of the fast dialect, for other modules. `codec.pyx` describes the encoding."""

cdef enum:
    FM_WIRE_PICKLE = 0        # first byte of a value that only `pickle.loads` can read


cdef class Opaque:
    """A value that is kept as the pickle it came as."""

    cdef bytes data
    cdef tuple buffers        # bytes and bytearrays that nobody else has; None for none
    # The value; runs whatever code the pickle names.
    cpdef object load(self)


cdef class Writer:
    """A growable buffer of encoded values; owns `data` (malloc)."""

    cdef char *data           # NULL until the first byte; moves whenever the buffer grows
    cdef size_t size          # bytes written
    cdef size_t capacity
    cdef bint out_of_band       # whether large buffers are left out
    cdef list buffers        # those that were: bytes, or bytearrays that nobody changes
    cdef list writable        # whether each has to arrive as a bytearray
    cdef int pickles          # written
    # Make room for `extra` more bytes.
    cdef int grow(self, size_t extra) except -1
    # Append raw bytes, `source` may be NULL when n is 0.
    cdef int write(self, const void *source, size_t n) except -1
    # Encode one value: 0 = compact, 1 = pickled. On an exception nothing was written.
    # Pickling runs users' code, which must not reach this Writer.
    cdef int put(self, object value) except -1
    # Encode one value: 0 = done, 1 = it needs pickle and nothing was written. Runs no users' code.
    cdef int put_compact(self, object value) except -1
    # Encode the arguments of a call: 0 = compact, 1 = with one pickle that need not be read to be
    # handed back, 2 = pickled.
    cdef int put_args(self, tuple args) except -1
    # Make a gap of `n` bytes, and return where it is.
    cdef char *insert(self, size_t at, size_t n) except NULL
    # Forget what was written, and give a large buffer back.
    cdef void reset(self) noexcept


cdef class Reader:
    """A cursor over bytes it does not own; the caller keeps them alive."""

    cdef const char *pos
    cdef const char *end
    cdef bint allow_pickle
    cdef bint carry           # pickles become `Opaque`; takes precedence, set after `feed`
    cdef list buffers        # what OUTSIDE stands for, in order
    cdef Py_ssize_t next_buffer
    # Begin with the values at `data`, whose large buffers are `buffers` (None for none).
    cdef void feed(self, const char *data, size_t n, list buffers, bint allow_pickle) noexcept
    # The next value. After an exception `pos` is anywhere up to `end`: feed again.
    cdef object get(self)
    cdef bint done(self) noexcept


# Whether nobody can tell two copies of the value from one.
cdef bint is_scalar(object value) noexcept
