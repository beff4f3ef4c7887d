"""Values to bytes."""

cdef class Writer:
    """A growable buffer of encoded values; owns `data` (malloc)."""

    cdef char *data           # NULL until the first byte; moves when the buffer grows
    cdef size_t size, capacity
    cdef bint out_of_band     # whether large buffers are left out
    cdef list buffers         # those that were left out: bytes, or bytearrays that nobody changes
    cdef list writable        # whether each has to arrive as a bytearray
    cdef int pickles          # how many were written
    # Make room for `extra` more bytes.
    cdef int grow(self, size_t extra) except -1
    # Append raw bytes; `source` may be NULL when n is 0.
    cdef int write(self, const void *source, size_t n) except -1
    # Encode one value: 0 = compact, 1 = pickled. After an exception nothing was written. Pickling
    # runs users' code, which must not reach this Writer.
    cdef int put(self, object value) except -1
    # Encode one value: 0 = done, 1 = it needs pickle and nothing was written. Runs no users' code.
    cdef int put_compact(self, object value) except -1
    # Encode arguments of a call that `put_compact` cannot: 1 = one of them is a pickle, which the
    # server can hand back unread; 2 = pickled as a whole, or the pickle may refer to a process.
    cdef int put_args(self, tuple args) except -1
    # The same where the first is an iterable of values that share nothing: it becomes a list, in
    # which each value that needs pickle is one. 0 = none does.
    cdef int put_apart(self, tuple args) except -1
    # Encode a list whose values share nothing, each by itself; it returns what `put_args` does.
    cdef int put_each(self, list values) except -1
    # The same without pickle: 1 = one needs it, or all are large, and nothing was written.
    cdef int put_each_compact(self, list values) except -1
    # Make a gap of `n` bytes, and return where it is.
    cdef char *insert(self, size_t at, size_t n) except NULL
    # Forget what was written, and give a large buffer back.
    cdef void reset(self) noexcept


# Whether two copies of the value are as good as one.
cdef bint is_scalar(object value) noexcept
