"""A session that reaches its server over connections, one for each thread."""

from cpython.pythread cimport PyThread_type_lock

from fastmgr.client.references cimport References

# Where handlers of signals run.
cdef unsigned long main_thread

cdef class Channel:
    cdef readonly bint usable        # by its thread, for another request
    cdef readonly bint interrupted   # a request was sent whose reply nobody has read
    cdef PyThread_type_lock lock     # owned; held while a frame is on its way
    cdef unsigned long holder        # the thread that holds it, or 0
    cdef unsigned long thread        # whose channel it is
    cdef void renew_lock(self) noexcept
    cdef int hold(self) except -1
    cdef bint hold_now(self) noexcept
    cdef void let_go(self) noexcept
    cdef int end(self, error) except -1
    cpdef object close(self)
    cpdef object abandon(self)

cdef class ThreadChannel:
    cdef Channel channel
    cdef object session              # weak: the session owns the threading.local that holds this
    cdef ThreadChannel spare         # for the calls that are made inside one of the channel's
    cdef object stock                # the connection in the stdlib's dialect, once asked for

cdef class Connections(References):
    cdef readonly object timeout     # seconds that each answer may take; None: any time
    cdef list channels               # all that are open
    cdef Channel keepalive           # no thread's, kept open to keep the session alive
    cdef list inherited              # copies of its parent's channels, in the child of a fork
    cdef unsigned long hasty         # the thread whose next connection is not to take long, or 0
    cdef object exit_finalizer       # of this process

    cdef Channel channel(self)
    cdef Channel channel_again(self, dead)
    cdef ThreadChannel thread_channel(self)
    cdef ThreadChannel open_channel(self)
    cdef list open_channels(self)
    cdef double time_to_dial(self) except -1.0
    cdef int adopt(self, Channel channel) except -1
    cdef int replace_keepalive(self) except -1
    cdef int lose(self, Channel channel, bint keep) except -1
    cdef int disconnect(self) except -1
    cdef object after_failure(self, Channel channel, error)

    cdef Channel open(self, object name)
    cdef bint is_needed(self) noexcept
    cdef void end_view(self) noexcept

cdef object thread_name()
