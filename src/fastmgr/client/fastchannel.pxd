"""How a client's thread reaches a server: one connection, one call at a time."""

from cpython.pythread cimport PyThread_type_lock

from fastmgr.memory.segments cimport Segment
from fastmgr.link.stream cimport Stream
from fastmgr.link.system cimport fm_spinner, uint8_t, uint16_t, uint32_t, uint64_t
from fastmgr.wire.reader cimport Reader
from fastmgr.wire.writer cimport Writer

# How many channels of this process have sent calls since the last reply for which none comes.
cdef int posting_channels

cdef class PickledReply:
    cdef bytes data
    cdef list buffers
    cdef object load(self)
    cdef tuple load_failure(self)

cdef class Channel:
    cdef readonly bint usable        # by its thread, for another request
    cdef readonly bint interrupted   # a request was sent whose reply nobody has read
    cdef PyThread_type_lock lock     # owned; held while a frame is on its way
    cdef unsigned long holder        # the thread that holds it, or 0
    cdef unsigned long thread        # whose channel it is
    cpdef tuple call(self, object ident, object name, object args, object kwds)
    cpdef object close(self)
    cpdef object abandon(self)
    cdef Py_ssize_t failed           # one-way calls, as far as is known
    cdef object failure              # of the first: in words, and (operation, payload)
    cdef void renew_lock(self) noexcept
    cdef int hold(self) except -1
    cdef bint hold_now(self) noexcept
    cdef void let_go(self) noexcept
    cdef int end(self, error) except -1
    cdef tuple with_failure(self, tuple reply)

cdef class FastChannel(Channel):
    cdef Stream stream
    cdef Writer writer
    cdef Reader reader
    cdef int pid                     # whose connection it is: a forked child has but a copy
    cdef double limit                # seconds that a reply may take; 0: any time
    cdef bint encoding               # `writer` is in use further up this thread's stack
    cdef uint32_t calls
    cdef uint32_t untaken            # the first whose reply did not reach the caller; 0: none
    cdef bint cut_off             # in the middle of a frame: nothing can be sent behind it
    cdef fm_spinner spinner
    cdef bint may_spin               # the server does
    cdef bint posted                 # one-way calls since the last reply
    cdef bint ahead                  # what gets no reply, since the last: mail would overtake it
    cdef bint asked                  # for a mailbox
    cdef dict lent                   # what they need: ident -> Ref, and arguments
    cdef tuple request(
        self, uint8_t op, uint8_t flags, uint64_t handle, object name, object args, object kwds,
        list due
    )
    cdef size_t begin(self, Writer writer, list due) except 0
    cdef int finish(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, uint16_t method,
        uint64_t handle
    ) except -1
    cdef int put_call(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, uint64_t handle,
        object name, object args, object kwds
    ) except -1
    cdef tuple exchange(self, Writer writer)
    cdef bint wants_mailbox(self) noexcept
    cdef object payload(self)
    cdef int receive(self, uint32_t expected) except -1
    cdef int begin_limit(self) except -1
    cdef int post(self, Writer writer) except -1
    cdef void set_posted(self, bint posted) noexcept
    cdef int lend(self, object key, object value) except -1
    cdef int await_posted(self) except -1
    cdef void say_goodbye(self, bint whole) noexcept
    cdef bint is_free(self) noexcept
    cdef bint release(self, uint64_t handle, uint64_t count) noexcept
    cdef int send_alone(self, list due) except -1
    cdef list pipeline(self, Writer frames, Py_ssize_t count, list others)
    cdef Segment attach(self, object number)
    cdef bint arrived(self, uint32_t expected) except -1
    cdef bint check(self, int status, uint32_t expected) except -1
    cdef int take_reply(self, list replies, list others) except -1
