"""Bytes cut into frames, without a descriptor; no body is looked into.

Two framings share one buffer: the stdlib's (a signed 32-bit big-endian length, or -1 and an
unsigned 64-bit one) and the fast dialect's 24-byte header.
"""

from cpython.bytearray cimport PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.bytes cimport _PyBytes_Resize, PyBytes_FromStringAndSize
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memmove, memset

# The stdlib's names for the operations of replies.
KINDS = {
    <int>OP_RETURN: "#RETURN", <int>OP_ERROR: "#ERROR", <int>OP_TRACEBACK: "#TRACEBACK",
    <int>OP_PROXY: "#PROXY", <int>OP_UNSERIALIZABLE: "#UNSERIALIZABLE",
}
OPS = {kind: op for op, kind in KINDS.items()}

cdef enum:
    FIRST_CAPACITY = 2048
    BUSY_CAPACITY = 64 * 1024   # what `data` grows to while each receive fills it
    WRITABLE_SHIFT = 63         # in a buffer's size
    ADDRESS_BITS = 47           # no process has more memory
    FEW_BUFFERS = 16            # a frame with more has so many bytes for each of the others:
    BYTES_A_BUFFER = 64 * 1024  # `wire.writer` makes no smaller ones
    TRUSTED_STEP = 64 * 1024 * 1024     # bytes that are allocated ahead of those that have arrived

# What `want` says of a frame that is refused.
cdef size_t REFUSED = <size_t>-1


cdef inline size_t be32(const unsigned char *p) noexcept:
    return (<size_t>p[0] << 24) | (<size_t>p[1] << 16) | (<size_t>p[2] << 8) | p[3]


cdef size_t write_table(char *at, size_t values, list buffers, list writable) except? 0:
    cdef BufferTable head
    cdef uint64_t size
    cdef size_t i, total = 0
    head.count = <uint64_t>len(buffers)
    head.values = values
    memcpy(at, &head, sizeof(head))
    at += sizeof(head)
    for i in range(head.count):
        size = size_of(buffers[i])
        total += size
        size |= <uint64_t>bool(writable[i]) << WRITABLE_SHIFT
        memcpy(at + 8 * i, &size, 8)
    return total


cdef inline size_t want(Cutter self) noexcept:
    """Bytes of the frame at `start` without its buffers, as far as they are known by now."""
    cdef size_t have = self.end - self.start
    cdef const unsigned char *p = <const unsigned char *>self.data + self.start
    cdef size_t size, prefix = HEADER_SIZE
    if self.fast:
        if have < HEADER_SIZE:
            return HEADER_SIZE
        size = (<const Header *>p).size
        if size > <size_t>-1 - HEADER_SIZE:
            return REFUSED
    elif have < 4:
        return 4
    elif p[0] < 0x80:
        size, prefix = be32(p), 4
    elif be32(p) != 0xffffffff:
        return REFUSED       # a negative length other than -1 means nothing
    elif have < 12:
        return 12
    elif p[4] >= 0x80:
        return REFUSED
    else:
        size, prefix = be32(p + 4) << 32 | be32(p + 8), 12
    if self.limit and size > self.limit:
        return REFUSED
    if self.fast and (<const Header *>p).flags & FLAG_BUFFERS:
        return want_with_buffers(<const Header *>p, have)
    return prefix + size


cdef size_t want_with_buffers(const Header *header, size_t have) noexcept:
    """Bytes of a frame up to its buffers, as far as they are known by now."""
    cdef const BufferTable *table = <const BufferTable *>(header + 1)
    cdef size_t left = header.size
    if left < sizeof(BufferTable):
        return REFUSED
    if have < HEADER_SIZE + sizeof(BufferTable):
        return HEADER_SIZE + sizeof(BufferTable)
    left -= sizeof(BufferTable)
    if table.count == 0 or table.count > left // 8 or table.values > left - table.count * 8:
        return REFUSED
    if table.count > FEW_BUFFERS + left // BYTES_A_BUFFER:
        return REFUSED      # an object is made of each, however small the buffer is
    return HEADER_SIZE + sizeof(BufferTable) + table.count * 8 + table.values


cdef size_t announced(const Header *header, size_t i, bint *writable) noexcept:
    """The announced size of a buffer; `writable` becomes whether it is to be a bytearray."""
    cdef uint64_t size
    memcpy(&size, <const char *>(header + 1) + sizeof(BufferTable) + 8 * i, 8)
    writable[0] = size >> WRITABLE_SHIFT
    return size & ~(<uint64_t>1 << WRITABLE_SHIFT)


cdef bint buffers_add_up(const Header *header, size_t before) noexcept:
    """Whether the announced buffers fill the frame exactly behind its first `before` bytes."""
    cdef size_t left = header.size - (before - HEADER_SIZE)
    cdef size_t size, i
    cdef bint writable
    for i in range((<const BufferTable *>(header + 1)).count):
        size = announced(header, i, &writable)
        if size > left or size >> ADDRESS_BITS:
            return False
        left -= size
    return left == 0


cdef class Cutter:
    """Bytes as they arrive, cut into frames; those of a large buffer go where they are to stay."""

    def __dealloc__(self):
        free(self.data)

    cdef int cut(self) except -9:
        """Cut the frame at `start` off, if it is whole; see `take`."""
        cdef size_t have = self.end - self.start
        cdef size_t whole, prefix
        cdef const char *at
        if self.buffers is not None and not self.in_buffers:
            self.buffers = None
        whole = want(self)
        if have < whole:
            return FRAME_TOO_LARGE if whole == REFUSED else FRAME_PARTIAL
        at = self.data + self.start
        if not self.fast:
            prefix = 12 if <unsigned char>at[0] == 0xff else 4
        elif not (<const Header *>at).flags & FLAG_BUFFERS:
            prefix = HEADER_SIZE
            self.header = (<const Header *>at)[0]
        else:
            prefix = whole - <size_t>(<const BufferTable *>(at + HEADER_SIZE)).values
            if not self.in_buffers:
                if not buffers_add_up(<const Header *>at, whole):
                    return FRAME_TOO_LARGE
                self.buffers = []
                self.buffer_at = 0
                self.in_buffers = True
            try:
                if not self.fill_buffers(whole):
                    return FRAME_PARTIAL
            except MemoryError:
                self.buffers = None     # no frame can be cut off behind this one
                self.in_buffers = True
                raise
            self.in_buffers = False
            self.header = (<const Header *>at)[0]
        self.rewind = self.start
        self.body = at + prefix
        self.size = whole - prefix
        self.start += whole
        return FRAME_READY

    cdef bint fill_buffers(self, size_t before) except -1:
        """Move the bytes that belong to the buffers from `data` into them; whether all are whole.

        They begin `before` bytes behind the frame's start.  Each buffer is made when the one before
        it is whole, and a long one grows as it arrives: what a peer has only announced costs no
        memory.  Where the last is not whole the next bytes are received into it.
        """
        cdef const Header *header = <const Header *>(self.data + self.start)
        cdef size_t count = (<const BufferTable *>(header + 1)).count
        cdef size_t at = self.start + before, made = len(self.buffers)
        cdef size_t n
        cdef bint writable
        cdef size_t whole = announced(header, made - 1, &writable) if made else 0
        while True:
            if self.buffer_at == whole:
                if made == count:
                    break
                whole = announced(header, made, &writable)
                n = min(whole, <size_t>TRUSTED_STEP)
                if writable:
                    buffer = PyByteArray_FromStringAndSize(NULL, <Py_ssize_t>n)
                else:
                    buffer = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>n)
                self.buffers.append(buffer)
                self.buffer_at = 0
                made += 1
            elif self.buffer_at == size_of(self.buffers[made - 1]):
                n = self.buffer_at + max(self.buffer_at, <size_t>TRUSTED_STEP)
                self.grow_buffer(min(whole, n))
            buffer = self.buffers[made - 1]
            n = min(size_of(buffer) - self.buffer_at, self.end - at)
            memcpy(data_of(buffer) + self.buffer_at, self.data + at, n)
            at += n
            self.buffer_at += n
            if self.buffer_at < size_of(buffer):
                break
        n = at - (self.start + before)
        if n:       # what is behind the buffers belongs to the next frame
            memmove(self.data + at - n, self.data + at, self.end - at)
            self.end -= n
        return made == count and self.buffer_at == whole

    cdef int grow_buffer(self, size_t size) except -1:
        """Give the last buffer that size."""
        cdef PyObject *only
        buffer = self.buffers.pop()
        if PyByteArray_CheckExact(buffer):
            PyByteArray_Resize(buffer, <Py_ssize_t>size)
        else:
            only = <PyObject *>buffer       # bytes are resized by their only owner
            Py_INCREF(buffer)
            buffer = None
            _PyBytes_Resize(&only, <Py_ssize_t>size)
            buffer = <object>only
            Py_DECREF(buffer)
        self.buffers.append(buffer)
        return 0

    cdef void untake(self) noexcept:
        self.start = self.rewind
        self.in_buffers = self.buffers is not None

    cdef bint is_cut_off(self, Header *last, const char *unread, size_t size) noexcept:
        """Whether what the peer has sent, and we have not taken, ends in the middle of a frame.

        `unread` is that part of it which was not received.  `last` becomes the header of the last
        frame, whole or cut off, with operation 0 where there is none.  A frame that is cut off in
        its header is taken for one that follows others.  The frames are followed from the first,
        for the end of a frame that was sent in part may look like anything.
        """
        cdef const char *data = self.data + self.start
        cdef size_t at = 0, have, i
        cdef bint writable
        memset(last, 0, HEADER_SIZE)
        if self.in_buffers:
            memcpy(last, data, HEADER_SIZE)
            if self.buffers is None:
                return True
            i = max(len(self.buffers), 1) - 1
            while i < (<const BufferTable *>(data + HEADER_SIZE)).count:
                at += announced(<const Header *>data, i, &writable)
                i += 1
            at -= self.buffer_at
            data += want(self)      # bytes of another frame are here if the buffers are whole
        have = <size_t>(self.data + self.end - data)
        size += have
        while at < size:
            if size - at < HEADER_SIZE:
                last.op = 0
                last.flags = FLAG_FOLLOWS
                return True
            for i in range(<size_t>HEADER_SIZE):
                (<char *>last)[i] = data[at] if at < have else unread[at - have]
                at += 1
            if last.size > size - at:
                return True
            at += last.size
        return at > size

    cdef int make_more_room(self) except -1:
        cdef size_t have = self.end - self.start
        cdef size_t needed = FIRST_CAPACITY
        cdef size_t capacity
        cdef char *grown
        self.into_buffer = False
        if self.in_buffers:
            buffer = self.buffers[len(self.buffers) - 1]
            if self.buffer_at < size_of(buffer):
                self.into_buffer = True
                self.into = data_of(buffer) + self.buffer_at
                self.room = size_of(buffer) - self.buffer_at
                return 0
        if have == 0:
            self.start = self.end = 0
        else:
            # What the peer announces costs us no more than what it has sent and a step.
            needed = max(needed, min(want(self), have + TRUSTED_STEP))
            if needed <= have:      # a whole frame is here, and the caller receives more
                needed = have + FIRST_CAPACITY
        if self.filled and self.capacity < BUSY_CAPACITY:
            needed = max(needed, self.capacity * 2)
        if self.start and self.start + needed > self.capacity:
            memmove(self.data, self.data + self.start, have)
            self.start, self.end = 0, have
        if needed > self.capacity:
            capacity = max(needed, self.capacity * 2)
            grown = <char *>realloc(self.data, capacity)
            if grown == NULL:
                raise MemoryError(f"no memory for a frame of {needed} bytes")
            self.data = grown
            self.capacity = capacity
        self.into = self.data + self.end
        self.room = self.capacity - self.end
        return 0

    cdef void drop_all(self) noexcept:
        if not self.in_buffers:
            self.buffers = None
        if self.start == self.end and self.capacity > KEEP_CAPACITY:
            free(self.data)
            self.data = NULL
            self.start = self.end = self.capacity = 0
