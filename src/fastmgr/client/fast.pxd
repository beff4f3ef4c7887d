"""A session in the fast dialect."""

from fastmgr.client.connections cimport Connections
from fastmgr.client.fastchannel cimport FastChannel
from fastmgr.client.session cimport Target
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.segments cimport Segment

cdef class FastSession(Connections):
    cdef bytes id
    cdef object instance             # which server process answered last
    cdef uint64_t threads            # of this process that have had a channel
    cdef Py_ssize_t taken            # locks and permits: while there are any it keeps itself alive

    cdef object perform(
        self, uint8_t op, uint8_t flags, Target target, object name, object args, object kwds
    )
    cdef void has_nothing(self) noexcept
    cdef Segment attach(self, object number)
    cdef int have_mailbox(self, FastChannel channel) except -1
    cdef object receive_from(self, object reply)
    cdef object after_request(self, FastChannel channel, list due, error)
    cdef void flush(self) noexcept
    cdef int reclaim(self, FastChannel channel) except -1
