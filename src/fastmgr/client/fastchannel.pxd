"""A channel that speaks the fast dialect."""

from fastmgr.client.connections cimport Channel
from fastmgr.client.references cimport Holding
from fastmgr.client.session cimport Outcome, Target
from fastmgr.link.stream cimport Stream
from fastmgr.link.system cimport fm_spinner, uint8_t, uint16_t, uint32_t, uint64_t
from fastmgr.memory.segments cimport Segment
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

cdef class PickledReply:
    cdef bytes data
    cdef list buffers
    cdef object load(self)
    cdef tuple load_failure(self)

cdef class FastChannel(Channel):
    cdef Stream stream
    cdef Writer writer
    cdef Reader reader
    cdef bint is_remote              # the server is reached over TCP
    cdef int pid                     # whose connection it is: a forked child has but a copy
    cdef double limit                # seconds that a reply may take; 0: any time
    cdef bint late                   # `interrupted` since the time of a call was over
    cdef bint encoding               # `writer` is in use further up this thread's stack
    cdef uint32_t calls
    cdef uint32_t untaken            # the first whose reply did not reach the caller; 0: none
    cdef bint cut_off             # in the middle of a frame: nothing can be sent behind it
    cdef fm_spinner spinner
    cdef bint may_spin               # the server does
    cdef bint posted                 # one-way calls since the last reply
    cdef bint ahead                  # what gets no reply, since the last: mail would overtake it
    cdef bint asked                  # for a mailbox
    cdef dict retained               # what they need: ident -> reference, and arguments
    cdef Py_ssize_t failed           # one-way calls, as far as is known
    cdef PickledReply failure        # of the first of them
    cdef size_t begin_request(self, Writer writer, list due) except 0
    cdef int put_call(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, Target target,
        object name, object args, object kwds
    ) except -1
    cdef int end_request(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, uint16_t method,
        uint64_t handle
    ) except -1
    cdef object request(
        self, uint8_t op, uint8_t flags, Target target, object name, object args, object kwds,
        list due
    )
    cdef object exchange(self, Writer writer, list due)
    cdef bint wants_mailbox(self) noexcept
    cdef int send(self, Writer writer) except -1
    cdef object payload(self)
    cdef int receive(self, uint32_t expected) except -1
    cdef int begin_limit(self) except -1
    cdef Outcome with_failure(self, reply)
    cdef int post(self, Writer writer) except -1
    cdef void set_posted(self, bint posted) noexcept
    cdef int retain(self, object key, object value) except -1
    cdef int await_posted(self) except -1
    cdef void say_goodbye(self, bint whole) noexcept
    cdef bint is_free(self) noexcept
    cdef bint release(self, Holding holding) noexcept
    cdef int send_alone(self, list due) except -1
    cdef list pipeline(self, Writer frames, Py_ssize_t count, list others)
    cdef Segment attach(self, object number)
    cdef bint arrived(self, uint32_t expected) except -1
    cdef bint check(self, int status, uint32_t expected) except -1
    cdef int take_reply(self, list replies, list others) except -1
