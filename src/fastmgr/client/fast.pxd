"""A session in the fast dialect."""

from fastmgr.client.fastchannel cimport FastChannel
from fastmgr.client.sharing cimport SharingSession

cdef class FastSession(SharingSession):
    cdef bytes id
    cdef object instance             # which server process answered last

    cdef object receive_from(self, object reply)
    cdef object after_request(self, FastChannel channel, list due, error)
    cdef void flush(self) noexcept
    cdef int reclaim(self, FastChannel channel) except -1
