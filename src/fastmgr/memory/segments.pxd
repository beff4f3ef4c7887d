"""Segments: pieces of memory that processes share."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "memory/segments.h" nogil:
    void fm_clear(char *at, size_t size)
    int fm_part(char *at, size_t size)

    ctypedef struct fm_lifeline:
        pass

    int fm_serves(const uint32_t *alive, const uint64_t *entry, uint64_t session)
    uint32_t fm_growths(const uint32_t *alive)
    void fm_note_growth(uint32_t *alive)
    void fm_lifeline_tie(fm_lifeline *line, uint32_t *word)
    void fm_lifeline_cut(fm_lifeline *line, uint32_t *word)

cdef enum:
    # The size of each segment of small cells, and of no other: by it clients know which segments to
    # keep mapped (`Segment.lasts`).  Memory that nobody has touched costs nothing.
    SEGMENT_SIZE = 1024 * 1024

cdef class Segment:
    cdef readonly int number
    cdef int fd                  # owned; -1 where it is mapped only
    cdef char *at                # owned
    cdef readonly size_t size
    cdef readonly size_t offset  # in a file
    cdef readonly bint is_file
    cdef readonly bint is_cut    # somebody has cut the file: nobody may touch this memory
    cdef bint read_only          # in this process
    cdef size_t used             # by small cells, in the server
    cdef list gaps               # between large cells: [offset, size], in order
    cdef object __weakref__

    cdef bint lasts(self) noexcept
    cdef int check_file(self) except -1
    cdef char *place(self, size_t offset, size_t size) except NULL

cdef Segment new_segment(int number, size_t size)
cdef Segment new_read_only_segment(int number, size_t size)
