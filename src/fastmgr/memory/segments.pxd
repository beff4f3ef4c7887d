"""Segments: pieces of memory that processes share."""

from libc.stdint cimport uint32_t, uint64_t

cdef extern from "memory/segments.h" nogil:
    int fm_segment_new(size_t size)
    uint64_t fm_file_size(int fd)
    int fm_segment_fits(int fd, size_t offset, size_t size, int is_file)
    char *fm_map(int fd, size_t offset, size_t size)
    void fm_unmap(char *at, size_t size)
    void fm_clear(char *at, size_t size)

    ctypedef struct fm_lifeline:
        pass

    int fm_lives(const uint32_t *word)
    int fm_serves(const uint32_t *alive, const uint64_t *entry, uint64_t session)
    uint32_t fm_growths(const uint32_t *alive)
    void fm_note_growth(uint32_t *alive)
    void fm_lifeline_tie(fm_lifeline *line, uint32_t *word)
    void fm_lifeline_cut(fm_lifeline *line, uint32_t *word)

cdef enum:
    # The size of each segment of small cells, and of no other: clients know them by their size, and
    # keep them mapped (`Segment.lasts`).  Untouched memory costs nothing.
    SEGMENT_SIZE = 1024 * 1024

cdef class Segment:
    cdef readonly int number
    cdef int fd                  # owned; -1 where it is mapped only
    cdef char *at                # owned
    cdef readonly size_t size
    cdef readonly size_t offset  # in a file
    cdef readonly bint is_file
    cdef readonly bint is_cut    # somebody has shortened the file: nothing here is to be touched
    cdef size_t used             # by the server's allocator
    cdef list gaps               # between large cells: [offset, size], in order; None: no such
    cdef object __weakref__

    cdef bint lasts(self) noexcept
    cdef int check_file(self) except -1
    cdef char *place(self, size_t offset, size_t size) except NULL

cdef Segment mapped(int number, int fd, size_t offset, size_t size, bint is_file)
cdef Segment new_segment(int number, size_t size)
