# cython: auto_pickle=False
"""RESP3, the servers' protocol: words to bytes, bytes to replies.  Nothing here opens a socket.

A request is an array of words.  A reply is one value; an error is the value `ReplyError`, which may
also stand within an aggregate.  A push comes by itself, between two replies; an attribute comes
before the value that it is about, and is dropped.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, realloc
from libc.string cimport memchr, memcpy, memmove

from fastmgr.engines.valkey.errors import ProtocolError, ReplyError

incomplete = object()
# For Python, which does not see names of the module's contract.
INCOMPLETE = incomplete

cdef enum:
    FIRST_CAPACITY = 16384
    KEPT_CAPACITY = 1 << 20     # a buffer that had to be larger is given back
    HEAD = 24                   # a mark, 20 digits, the end of the line
    MOST_LINE = 1 << 20         # of a line that does not say how long it is

# What marks an aggregate, and values per element of it.
cdef char ATTRIBUTE = b"|", MAP = b"%", PUSH = b">", SET = b"~", ARRAY = b"*"


cdef class Encoder:
    """Requests, one after the other, in one piece of memory."""

    def __dealloc__(self):
        free(self.data)

    cdef int reserve(self, size_t more) except -1:
        cdef size_t capacity = self.capacity or FIRST_CAPACITY
        cdef char *data
        if self.size + more <= self.capacity:
            return 0
        while capacity < self.size + more:
            capacity *= 2
        data = <char *>realloc(self.data, capacity)
        if data is NULL:
            raise MemoryError(f"no memory for a request of {self.size + more} bytes")
        self.data = data
        self.capacity = capacity
        return 0

    cdef int put_head(self, char mark, size_t number) except -1:
        """Put a mark, a number and the end of a line."""
        cdef char[HEAD] text
        cdef int at = HEAD
        self.reserve(HEAD)
        text[at - 1] = b"\n"
        text[at - 2] = b"\r"
        at -= 2
        while True:
            at -= 1
            text[at] = <char>(c"0" + number % 10)
            number //= 10
            if number == 0:
                break
        at -= 1
        text[at] = mark
        memcpy(self.data + self.size, text + at, HEAD - at)
        self.size += HEAD - at
        return 0

    cdef int put_word(self, const char *word, size_t size) except -1:
        self.put_head(b"$", size)
        self.reserve(size + 2)
        memcpy(self.data + self.size, word, size)
        self.size += size
        memcpy(self.data + self.size, b"\r\n", 2)
        self.size += 2
        return 0

    cpdef int add(self, words) except -1:
        """Append a request.

        Parameters
        ----------
        words : sequence of bytes, str or int
            The command and its arguments.

        Raises
        ------
        TypeError
            A word is of another type.  The request is not appended.
        """
        cdef size_t before = self.size
        try:
            self.add_words(words)
        except BaseException:
            self.size = before
            raise
        return 0

    cdef int add_words(self, words) except -1:
        cdef bytes text
        self.put_head(b"*", len(words))
        for word in words:
            if type(word) is bytes:
                text = <bytes>word
            elif isinstance(word, str):
                text = (<str>word).encode()
            elif isinstance(word, int):
                text = b"%d" % word
            elif isinstance(word, (bytes, bytearray, memoryview)):
                text = bytes(word)
            else:
                raise TypeError(f"a word is bytes, str or int, not {type(word).__name__}")
            self.put_word(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
        return 0

    cpdef int clear(self) except -1:
        """Forget all requests."""
        self.size = 0
        if self.capacity > KEPT_CAPACITY:
            free(self.data)
            self.data = NULL
            self.capacity = 0
        return 0

    def __len__(self):
        return self.size

    def __bytes__(self):
        return PyBytes_FromStringAndSize(self.data, self.size)


def encoded(*requests):
    """Return the bytes of requests."""
    encoder = Encoder()
    for words in requests:
        encoder.add(words)
    return bytes(encoder)


cdef object number_in(char *text, size_t size):
    """The whole number of 64 bits that a line spells."""
    cdef unsigned long long value = 0, most = <unsigned long long>1 << 63
    cdef size_t i = 0
    cdef bint negative = size > 0 and text[0] == b"-"
    cdef unsigned int digit
    if negative or (size > 0 and text[0] == b"+"):
        i = 1
    if i == size or size - i > 19:
        raise ProtocolError(f"{text[:size]!r} is no number of 64 bits")
    for i in range(i, size):
        digit = <unsigned char>text[i] - <unsigned int>c"0"
        if digit > 9:
            raise ProtocolError(f"{text[:size]!r} is no number of 64 bits")
        value = value * 10 + digit
    if value >= most and not (negative and value == most):
        raise ProtocolError(f"{text[:size]!r} is no number of 64 bits")
    if negative:
        return -<object>value
    return value


cdef Py_ssize_t length_in(char *text, size_t size) except -2:
    """The length that a line spells; -1 for a value that is null."""
    cdef Py_ssize_t value = 0
    cdef size_t i
    cdef unsigned int digit
    if size == 2 and text[0] == b"-" and text[1] == b"1":
        return -1
    if size == 0 or size > 15:
        raise ProtocolError(f"{text[:size]!r} is no length")
    for i in range(size):
        digit = <unsigned char>text[i] - <unsigned int>c"0"
        if digit > 9:
            raise ProtocolError(f"{text[:size]!r} is no length")
        value = value * 10 + digit
    return value


cdef class Parser:
    """Replies from bytes that arrive in pieces of any size.

    Attributes
    ----------
    pushes : list of list
        Pushes that have arrived; the owner takes them out.
    """

    def __cinit__(self):
        self.containers = []
        self.pushes = []

    def __dealloc__(self):
        free(self.data)

    cdef char *room(self, size_t least, size_t *size) except NULL:
        """Memory for bytes that arrive, of `least` bytes or more; the caller advances `end`."""
        cdef size_t capacity
        cdef char *data
        if self.start == self.end:
            self.start = self.end = self.scanned = 0
            if self.capacity > KEPT_CAPACITY and least <= KEPT_CAPACITY:
                free(self.data)
                self.data = NULL
                self.capacity = 0
        if self.capacity - self.end < least and self.start:
            memmove(self.data, self.data + self.start, self.end - self.start)
            self.end -= self.start
            self.scanned = self.scanned - self.start if self.scanned > self.start else 0
            self.start = 0
        if self.capacity - self.end < least:
            capacity = self.capacity or FIRST_CAPACITY
            while capacity - self.end < least:
                capacity *= 2
            data = <char *>realloc(self.data, capacity)
            if data is NULL:
                raise MemoryError("no memory for a reply")
            self.data = data
            self.capacity = capacity
        size[0] = self.capacity - self.end
        return self.data + self.end

    def feed(self, data):
        """Take bytes that have arrived."""
        cdef Py_buffer buffer
        cdef size_t room
        cdef char *into
        PyObject_GetBuffer(data, &buffer, PyBUF_SIMPLE)
        try:
            if buffer.len:
                into = self.room(<size_t>buffer.len, &room)
                memcpy(into, buffer.buf, <size_t>buffer.len)
                self.end += <size_t>buffer.len
        finally:
            PyBuffer_Release(&buffer)

    def gets(self):
        """Return the next reply; `INCOMPLETE` where not all of it has arrived.

        Raises
        ------
        ProtocolError
            The bytes are no RESP3; the parser is not to be used any more.
        """
        return self.next()

    cdef object next(self):
        cdef object value
        while True:
            value = self.parse_value()
            if value is incomplete:
                return incomplete
            if self.depth == 0 and value is not self:
                return value

    cdef object parse_value(self):
        """Parse one value.

        Returns it where it is a whole reply, else the parser itself; `INCOMPLETE` as `next` does.
        """
        cdef char *at = self.data + self.start
        cdef char *line_end
        cdef size_t size, after
        cdef char mark
        cdef size_t seen = self.scanned if self.scanned > self.start else self.start
        line_end = NULL
        if seen < self.end:
            line_end = <char *>memchr(self.data + seen, b"\n", self.end - seen)
        if line_end is NULL:
            self.scanned = self.end
            self.wanted = 1
            if self.end - self.start > MOST_LINE:
                raise ProtocolError("a line of the server's has no end")
            return incomplete
        self.scanned = line_end - self.data
        size = line_end - at
        if size < 2 or at[size - 1] != b"\r":
            raise ProtocolError(f"{at[:min(size, <size_t>80)]!r} is no line of RESP3")
        mark = at[0]
        at += 1
        size -= 2
        after = line_end + 1 - self.data
        if mark == b"$" or mark == b"=" or mark == b"!":
            return self.parse_text(mark, at, size, after)
        self.start = after
        if mark == b":":
            return self.completed(number_in(at, size))
        if mark == b"+":
            return self.completed(PyBytes_FromStringAndSize(at, size))
        if mark == b"-":
            return self.completed(ReplyError(at[:size]))
        if mark == b"_" and size == 0:
            return self.completed(None)
        if mark == b"#" and size == 1 and (at[0] == b"t" or at[0] == b"f"):
            return self.completed(at[0] == b"t")
        if mark == b"," or mark == b"(":
            try:
                return self.completed(float(at[:size]) if mark == b"," else int(at[:size]))
            except ValueError:
                raise ProtocolError(f"{at[:size]!r} is no number") from None
        if mark == ARRAY or mark == MAP or mark == SET or mark == PUSH or mark == ATTRIBUTE:
            return self.begin(mark, length_in(at, size))
        raise ProtocolError(f"no value of RESP3 begins with {(&mark)[:1]!r}")

    cdef object parse_text(self, char mark, char *line, size_t size, size_t after):
        """Parse a value whose length is said before it."""
        cdef Py_ssize_t length = length_in(line, size)
        cdef char *text = self.data + after
        if length < 0:
            self.start = after
            return self.completed(None)
        if self.end < after + <size_t>length + 2:
            self.wanted = after + <size_t>length + 2 - self.end
            return incomplete
        if text[length] != b"\r" or text[length + 1] != b"\n":
            raise ProtocolError("a text of the server's is longer than it says")
        self.start = after + length + 2
        if mark == b"!":
            return self.completed(ReplyError(text[:length]))
        if mark == b"=":
            if length < 4 or text[3] != b":":
                raise ProtocolError("a verbatim text of the server's does not say its format")
            return self.completed(PyBytes_FromStringAndSize(text + 4, length - 4))
        return self.completed(PyBytes_FromStringAndSize(text, length))

    cdef object begin(self, char mark, Py_ssize_t count):
        """Begin an aggregate, which is complete at once where it is empty."""
        if count < 0:
            return self.completed(None)
        if mark == PUSH and self.depth:
            raise ProtocolError("a push of the server's stands within a reply")
        if self.depth == MOST_DEPTH:
            raise ProtocolError(f"a reply of the server's is nested more than {MOST_DEPTH} deep")
        if mark == MAP or mark == ATTRIBUTE:
            count *= 2
        self.kinds[self.depth] = mark
        self.left[self.depth] = count
        self.depth += 1
        self.containers.append([])
        return self if count else self.end_aggregates()

    cdef object completed(self, object value):
        """Put a value where it belongs; returned where it is a reply by itself."""
        if self.depth == 0:
            return value
        (<list>self.containers[self.depth - 1]).append(value)
        self.left[self.depth - 1] -= 1
        return self if self.left[self.depth - 1] else self.end_aggregates()

    cdef object end_aggregates(self):
        """End the aggregates that are complete, the innermost first."""
        cdef char mark
        cdef object value
        while self.left[self.depth - 1] == 0:
            self.depth -= 1
            mark = self.kinds[self.depth]
            value = self.containers.pop()
            if mark == ATTRIBUTE:
                return self         # the value that it is about comes now
            if mark == PUSH:
                self.pushes.append(value)
                return self
            if mark == MAP:
                value = map_of(value)
            if self.depth == 0:
                return value
            (<list>self.containers[self.depth - 1]).append(value)
            self.left[self.depth - 1] -= 1
        return self


cdef object map_of(list flat):
    """A dict of keys and values that follow each other; a list of pairs where a key has no hash."""
    cdef Py_ssize_t i
    try:
        return {flat[i]: flat[i + 1] for i in range(0, len(flat), 2)}
    except TypeError:
        return [(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)]
