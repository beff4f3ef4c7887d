"""Whole frames over one connected socket."""

from fastmgr.memory.arena cimport Segment
from fastmgr.link.mailbox cimport fm_mailbox
from fastmgr.link.system cimport fm_spinner, uint8_t, uint16_t, uint32_t, uint64_t

# The fast dialect's header: little-endian, packed, before every body.
cdef packed struct Header:
    uint64_t size      # bytes of the body
    uint64_t handle    # the object meant, 0 for none
    uint32_t call      # given back with the reply
    # The method's place in METHODS from 1, or 0: its name begins the body. Of a reply: whether the
    # server spins for the next request.
    uint16_t method
    uint8_t op
    uint8_t flags

cdef enum:
    HEADER_SIZE = 24

cpdef enum Op:
    # Requests
    OP_CALL = 1       # handle, method; body: name, args, kwds
    OP_CREATE = 2     # body: typeid, args, kwds
    OP_CONTROL = 3    # body: function name, args, kwds
    OP_INCREF = 4     # body: handles; the reply: those that are gone, and why
    OP_RELEASE = 5    # body: (handle, count) pairs; no reply
    # The connection ends in order, with handle 1 the process; no reply. The call, if any, is the
    # first whose reply was not taken: what that and later ones gave is to be taken back.
    OP_GOODBYE = 6
    OP_LOCATE = 7     # handle; the reply: where its cell is, None if it has none, False: no arena
    OP_ATTACH = 8     # handle: a segment's number, or MAILBOX; the reply comes with its descriptor
    # Replies
    OP_RETURN = 16
    OP_ERROR = 17
    OP_TRACEBACK = 18
    OP_PROXY = 19     # handle; body: exposed, typeid, proxy type or None
    OP_UNSERIALIZABLE = 20
    # Before a reply. The handle is how many calls that get no reply have failed; body: the first
    # in words, and its operation and payload.
    OP_FAILED = 21
    # Of a call with FLAG_GAINS behind that: it was not made.
    OP_REFUSED = 22

cdef enum:
    FLAG_PICKLED = 1    # some value of the body is a pickle
    FLAG_ANONYMOUS = 2  # OP_CREATE: the reference is not the session's (a later decref returns it)
    FLAG_FOLLOWS = 4    # OP_CALL: the replies before are not read yet
    FLAG_CARRIED = 8    # OP_CALL: its pickle may be kept and handed back unread
    FLAG_ONEWAY = 32    # OP_CALL: no reply
    FLAG_BUFFERS = 16  # large buffers come behind the values (see BufferTable)
    FLAG_GAINS = 64     # OP_CALL: not to be made if a call before it has failed without a reply

# In place of a segment's number: a segment of the connection's own, which is its mailbox.
cdef enum:
    MAILBOX = 0x7fffffff

# With FLAG_BUFFERS a body is: this, a uint64 for each buffer (its size; the top bit: it is to be
# writable), the values, the buffers.
cdef packed struct BufferTable:
    uint64_t count
    uint64_t values    # bytes of the values

cdef enum Status:
    FRAME_READY = 1
    FRAME_PARTIAL = 0
    FRAME_EOF = -1
    FRAME_TIMEOUT = -2
    FRAME_TOO_LARGE = -3

# What was sent before an end.
cdef enum Ending:
    ENDS_WHOLE = 0
    ENDS_CUT_OFF = 1    # in the middle of a frame

# Bytes of what comes before the values of a body with buffers.
cdef size_t table_size(list buffers) noexcept
# Write it; return the bytes of the buffers.
cdef size_t write_table(char *at, size_t values, list buffers, list writable) except? 0

cdef class Stream:
    cdef int fd                # owned; -1 once closed
    cdef char *data            # owned (malloc); holds data[start:end]
    cdef size_t start, end, capacity
    cdef size_t limit          # the largest body accepted; 0: any
    cdef double until          # by when, on the monotonic clock, all is to be received; 0: ever
    cdef bint filled           # the last receive took all there was room for
    cdef bint fast             # which of the two framings is spoken
    cdef Header header         # of the last frame
    cdef const char *body      # of the last frame: borrowed, valid until the next receive
    cdef size_t size
    cdef list buffers         # of the last frame, those made: bytes, bytearrays; None for none
    cdef size_t rewind         # where the last frame began, for putting it back
    cdef bint in_buffers      # the frame at `start` has its values; its buffers are received
    cdef size_t buffer_at     # bytes of the last of them that are there
    cdef char *into            # where the next receive goes
    cdef size_t room           # and how much it may bring
    cdef list unsent           # what the peer was too slow to take; None for nothing
    cdef size_t unsent_at      # bytes of its first that are sent
    cdef Segment mailbox_segment     # with the peer; None: there is no mailbox
    cdef fm_mailbox *mailbox   # in `mailbox_segment`
    cdef bint serves_mail           # requests come by it; else replies
    cdef bint by_mail           # the request under way went, or came, by mail

    cdef int take(self) except -9
    cdef int receive_now(self) except -9
    cdef int receive(self, bint patient, fm_spinner *spinner, bint spare) except -9
    cdef int receive_passed(self, int *passed) except -9
    cdef int attach_mailbox(self, Segment segment, bint serves_mail) except -1
    cdef bint shut_mailbox(self) noexcept
    cdef int detach_mailbox(self) except -1
    cdef bint send_by_mail(self, const char *source, size_t size) noexcept
    cdef bint has_mail(self) noexcept
    cdef int receive_mail(self) except -9
    cdef bint answer_by_mail(self, const char *source, size_t size, list buffers) noexcept
    cdef void untake(self) noexcept
    cdef int ending(self, Header *last) noexcept
    cdef void drop_buffers(self) noexcept
    cdef size_t _want(self) noexcept
    cdef size_t _want_with_buffers(self, const Header *header, size_t have) noexcept
    cdef size_t _buffer_size(self, size_t i) noexcept
    cdef bint _buffers_add_up(self, size_t head) noexcept
    cdef bint _fill_buffers(self, size_t head) except -1
    cdef int _grow_buffer(self, size_t size) except -1
    cdef int _room(self) except -1
    cdef void _received(self, size_t n) noexcept
    cdef int send_now(self, const char *source, size_t size, list buffers) except -9
    cdef int flush_now(self) except -9
    cdef int _wait_for_room(self) except -1
    cdef int _set_timeout(self, long milliseconds) except -1
    cdef int send_all(self, const char *source, size_t size, list buffers) except -1
    cdef int send_passing(self, const char *source, size_t size, int passed) noexcept
    cdef bint send_small(self, const char *source, size_t size) noexcept
    cdef size_t send_some(self, const char *source, size_t size) except? 0
    cdef bint is_local(self) noexcept
    cdef bint at_end(self) noexcept
    cdef void shut_down(self) noexcept
    cpdef acknowledge(self)
    cdef void reset(self) noexcept
    cdef void close_after(self, int milliseconds) noexcept
    cdef void close_fd(self) noexcept
