"""Versions: words that say whether an object still is as a client has read it.

A word is even while nobody changes the object, and then no other number than it has ever been in
any word of this server.  It is odd while a call may change the object, and 0 where it is nobody's.
"""

from fastmgr.memory.atomics cimport fm_load, fm_store, uint64_t

cdef enum:
    VERSIONS = 0x7ffffffe       # the number of the segment: clients map it for reading only
    WORD_SIZE = 64              # bytes from one word to the next: no two share a cache line


cdef inline void begin_change(uint64_t *word) noexcept nogil:
    """Have nobody return what was read before; to be called before the object changes."""
    fm_store(word, fm_load(word) | 1)


cdef inline void end_change(uint64_t *word, uint64_t version) noexcept nogil:
    """Begin the next version; to be called before the change is confirmed to its client."""
    fm_store(word, version)


cdef inline uint64_t version_at(const uint64_t *word) noexcept nogil:
    """The version that the object has now; 0 where a call may change it."""
    cdef uint64_t version = fm_load(word)
    return 0 if version & 1 else version


cdef inline bint stands(const uint64_t *word, uint64_t version) noexcept nogil:
    """Whether what was read at that version may be returned."""
    return fm_load(word) == version
