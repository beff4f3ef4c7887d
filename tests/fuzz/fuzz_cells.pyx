"""A queue's ring as the server and a client have it, in one process."""

from fastmgr.client.proxy cimport CellCore
from fastmgr.memory.arena cimport Celled, Segment, View
from fastmgr.memory.atomics cimport THREAD_BITS, uint32_t, uint64_t

cdef extern from "sanitizer/asan_interface.h":
    void forbid "ASAN_POISON_MEMORY_REGION"(const void *at, size_t size)
    void allow "ASAN_UNPOISON_MEMORY_REGION"(const void *at, size_t size)

cdef uint64_t SESSION = 5
cdef uint32_t alive = 1


def fenced(Celled queue not None):
    """The memory of a queue's ring: whatever touches the segment outside of it is a finding."""
    cdef Segment segment = queue.cell.segment
    cdef size_t start = queue.cell.offset, end = start + queue.cell.size
    forbid(segment.at, start)
    forbid(segment.at + end, segment.size - end)
    return memoryview(segment)[start:end]


def unfence(Segment segment not None):
    """The server may give cells away, and take them back."""
    allow(segment.at, segment.size)


def attach(CellCore proxy not None, Celled queue not None):
    """Have a client know a queue's ring, as if it had asked the server."""
    proxy.view = View(SESSION << THREAD_BITS, 1, None, None)
    proxy.view.alive, proxy.view.entry = &alive, &SESSION
    assert proxy.accepts(queue.kind, queue.cell.size, queue.about())
    proxy.segment, proxy.size = queue.cell.segment, queue.cell.size
    proxy.cell = queue.cell.at
