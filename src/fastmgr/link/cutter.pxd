"""What a frame is, and bytes cut into frames."""

from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_CheckExact, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE

from fastmgr.link.system cimport uint8_t, uint16_t, uint32_t, uint64_t

# The fast dialect's header: little-endian, packed, before every body.
cdef packed struct Header:
    uint64_t size      # bytes of the body
    uint64_t handle    # the object meant, 0 for none
    uint32_t call      # the call's id, which the reply gives back
    # The method's place in METHODS, from 1, or 0: its name begins the body. In a reply: whether the
    # server spins for the next request.
    uint16_t method
    uint8_t op
    uint8_t flags

cdef enum:
    HEADER_SIZE = 24
    KEEP_CAPACITY = 256 * 1024  # bytes that an idle stream's buffer has at most
    MAILBOX = 0x7fffffff        # of OP_ATTACH: not an arena's segment, but the connection's mailbox

cpdef enum Op:
    # Requests
    OP_CALL = 1       # handle, method; body: name, args, kwds
    OP_CREATE = 2     # body: typeid, args, kwds
    OP_CONTROL = 3    # body: function name, args, kwds
    OP_INCREF = 4     # body: handles; the reply: which of them are gone, and why
    OP_RELEASE = 5    # body: (handle, count) pairs; no reply
    # The connection ends in order; with handle 1 the process does. No reply. The call, if any, is
    # the first whose reply the client did not read: the server takes back what that reply and later
    # ones gave.
    OP_GOODBYE = 6
    OP_LOCATE = 7     # handle; the reply: where its cell is, None: it has none, False: no arena
    OP_ATTACH = 8     # handle: a segment's number or MAILBOX; the reply comes with its descriptor
    # Replies
    OP_RETURN = 16
    OP_ERROR = 17
    OP_TRACEBACK = 18
    OP_PROXY = 19     # handle; body: exposed, typeid, proxy type or None
    OP_UNSERIALIZABLE = 20
    # Sent before a reply: one-way calls have failed. The handle is their number; body: the text of
    # the first failure, its operation and its payload.
    OP_FAILED = 21
    OP_REFUSED = 22   # a call with FLAG_GAINS was not made, since a one-way call had failed

cdef enum:
    FLAG_PICKLED = 1    # some value of the body is a pickle
    FLAG_ANONYMOUS = 2  # OP_CREATE: the reference is not the session's; a later decref returns it
    FLAG_FOLLOWS = 4    # OP_CALL: the client has not read the reply to the call before
    FLAG_CARRIED = 8    # OP_CALL: the server may keep its pickle and hand it back unread
    FLAG_BUFFERS = 16   # large buffers come behind the values (see BufferTable)
    FLAG_ONEWAY = 32    # OP_CALL: no reply
    FLAG_GAINS = 64     # OP_CALL: not to be made if a one-way call before it has failed
    # OP_CALL: the client would keep the reply. OP_RETURN: it may, at the version in the handle.
    FLAG_VERSION = 128

# With FLAG_BUFFERS a body is: this, a uint64 for each buffer (its size; in the top bit whether it
# is to arrive as a bytearray), the values, the buffers.
cdef packed struct BufferTable:
    uint64_t count
    uint64_t values    # bytes of the values

cdef enum Status:
    FRAME_READY = 1
    FRAME_PARTIAL = 0
    FRAME_EOF = -1
    FRAME_TIMEOUT = -2
    FRAME_TOO_LARGE = -3

# Write the table of a body with buffers; return the bytes of the buffers.
cdef size_t write_table(char *at, size_t values, list buffers, list writable) except? 0


# A buffer is exact bytes or a bytearray.
cdef inline char *data_of(object buffer) noexcept:
    if PyByteArray_CheckExact(buffer):
        return PyByteArray_AS_STRING(buffer)
    return PyBytes_AS_STRING(buffer)


cdef inline size_t size_of(object buffer) noexcept:
    if PyByteArray_CheckExact(buffer):
        return <size_t>PyByteArray_GET_SIZE(buffer)
    return <size_t>PyBytes_GET_SIZE(buffer)


cdef class Cutter:
    cdef char *data            # owned (malloc); data[start:end] has arrived and is not taken yet
    cdef size_t start, end, capacity
    cdef size_t limit          # the largest body accepted; 0: any
    cdef bint filled           # the last bytes took all the room that `data` had
    cdef bint fast             # the framing is the fast dialect's, else the stdlib's
    cdef bint in_buffers       # of the frame at `start` the values are here, the buffers not yet
    cdef bint into_buffer      # `into` points into the last of `buffers`, else into `data`
    cdef Header header         # of the last frame
    cdef const char *body      # of the last frame; borrowed, valid until `make_room`
    cdef size_t size
    cdef list buffers          # of the last frame, those made so far; None for none
    cdef size_t rewind         # where the last frame began, for `untake`
    cdef size_t buffer_at      # bytes of the last of `buffers` that have arrived
    cdef char *into            # where the next bytes go
    cdef size_t room           # and how many may come

    cdef int make_more_room(self) except -1
    cdef int cut(self) except -9
    # Undo the last `take`.
    cdef void untake(self) noexcept
    cdef bint is_cut_off(self, Header *last, const char *unread, size_t size) noexcept
    cdef void drop_all(self) noexcept
    cdef bint fill_buffers(self, size_t before) except -1
    cdef int grow_buffer(self, size_t size) except -1

    cdef inline int make_room(self) except -1:
        """Make room for the next bytes, at `into`."""
        if self.start != self.end or self.filled or self.capacity == 0:
            return self.make_more_room()
        self.start = self.end = 0
        self.into_buffer = False
        self.into = self.data
        self.room = self.capacity
        return 0

    cdef inline int take(self) except -9:
        """Cut the next frame off, if it is whole: FRAME_READY, _PARTIAL or _TOO_LARGE."""
        return self.cut() if self.start != self.end else FRAME_PARTIAL

    cdef inline void drop_buffers(self) noexcept:
        """Forget the last frame's buffers, and free a large `data` that has nothing in it."""
        if self.buffers is not None or self.capacity > KEEP_CAPACITY:
            self.drop_all()


cdef inline void received(Cutter self, size_t n) noexcept:
    """Count `n` bytes that have come to `into`."""
    if self.into_buffer:
        self.buffer_at += n
    else:
        self.end += n
        self.filled = self.end == self.capacity


cdef inline bint is_drained(Cutter cutter) noexcept:
    """Whether all bytes that have arrived are taken."""
    return cutter.start == cutter.end
