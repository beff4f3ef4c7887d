"""Requests in the fast dialect, as a client encodes them."""

from fastmgr.link.system cimport uint8_t, uint16_t, uint32_t, uint64_t
from fastmgr.wire.writer cimport Writer

# `calls` is the number of the channel's last request; each counts it up.
cdef size_t begin_request(Writer writer, uint32_t *calls, list due) except 0
cdef int put_call(
    Writer writer, size_t start, uint32_t *calls, uint8_t op, uint8_t flags, uint64_t handle,
    object name, object args, object kwds
) except -1
cdef int end_request(
    Writer writer, size_t start, uint32_t *calls, uint8_t op, uint8_t flags, uint16_t method,
    uint64_t handle
) except -1
cdef bint is_whole(Writer frames, size_t size) noexcept
