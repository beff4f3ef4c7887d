"""RESP3, the servers' protocol: words to bytes, bytes to replies.  Nothing here opens a socket."""

cdef enum:
    MOST_DEPTH = 64

cdef class Encoder:
    cdef char *data                 # owned
    cdef size_t size, capacity

    cdef int reserve(self, size_t more) except -1
    cdef int put_head(self, char mark, size_t number) except -1
    cdef int put_word(self, const char *word, size_t size) except -1
    cpdef int add(self, words) except -1
    cdef int add_words(self, words) except -1
    cpdef int clear(self) except -1

cdef class Parser:
    cdef char *data                 # owned; bytes from `start` to `end` are not parsed yet
    cdef size_t start, end, capacity
    cdef size_t scanned             # no line's end is before this
    cdef readonly size_t wanted     # how many bytes the value under way has at least
    cdef int depth                  # of the aggregates under way
    cdef Py_ssize_t[MOST_DEPTH] left
    cdef char[MOST_DEPTH] kinds
    cdef list containers            # of the aggregates under way
    cdef public list pushes         # pushes that have arrived; the owner takes them out

    cdef char *room(self, size_t least, size_t *size) except NULL
    cdef object next(self)
    cdef object parse_value(self)
    cdef object parse_text(self, char mark, char *line, size_t size, size_t after)
    cdef object begin(self, char mark, Py_ssize_t count)
    cdef object completed(self, object value)
    cdef object end_aggregates(self)

cdef object incomplete
