"""Frames, whole, over one transport or by the mailbox beside it."""

from fastmgr.memory.segments cimport Segment
# Users of a stream find here what a frame is, too.
from fastmgr.link.cutter cimport *
from fastmgr.link.mailbox cimport fm_mailbox
from fastmgr.link.system cimport fm_spinner
from fastmgr.link.transport cimport Transport

cdef class Stream(Cutter):
    cdef Transport transport
    cdef int fd                # the transport's, for a poller; -1 once closed
    cdef double until          # the deadline of sends and receives, monotonic clock; 0: none
    cdef list unsent           # bytes kept until the peer takes them; None for none
    cdef size_t unsent_at      # how many bytes of its first item are sent
    cdef Segment mailbox_segment    # shared with the peer; None: there is no mailbox
    cdef fm_mailbox *mailbox   # in `mailbox_segment`
    cdef bint serves_mail      # this is the server's end: requests come by the mailbox
    cdef bint by_mail          # the request that is not answered yet went, or came, by mail

    cdef int take_in(self, size_t n) except -1
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
    cdef bint ends_cut_off(self, Header *last) noexcept
    cdef ssize_t push(self, const char *source, size_t size) noexcept
    cdef int send_now(self, const char *source, size_t size, list buffers) except -9
    cdef int flush_now(self) except -9
    cdef int send_all(self, const char *source, size_t size, list buffers) except -1
    cdef int send_passing(self, const char *source, size_t size, int passed) noexcept
    cdef bint send_small(self, const char *source, size_t size) noexcept
    cdef size_t send_some(self, const char *source, size_t size) except? 0
    cdef bint at_end(self) noexcept
    cpdef acknowledge(self)
    cdef void reset(self) noexcept
    cdef void close_after(self, int milliseconds) noexcept
    cpdef void close(self) noexcept
    cdef int check_open(self) except -1
    cdef bint wait(self, short events, int milliseconds) except -1
    cdef bint wait_in_time(self, short events) except -1
    cdef int milliseconds_left(self) except -1
    cpdef int set_timeout(self, double seconds) except -1
