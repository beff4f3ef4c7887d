# cython: auto_pickle=False
"""Segments: pieces of memory that processes share, each with a descriptor to be passed on.

What a client may write there is data: no pointer, length or offset in a segment is ever used.
"""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from posix.mman cimport munmap
from posix.unistd cimport close as os_close

import errno
import os

cdef extern from "memory/segments.h" nogil:
    int fm_segment_new(size_t size, int open)
    void fm_segment_protect(int fd)
    uint64_t fm_file_size(int fd)
    int fm_segment_fits(int fd, size_t offset, size_t size, int is_file)
    char *fm_map(int fd, size_t offset, size_t size, int read_only)


@cython.final
@cython.no_gc
cdef class Segment:
    """A piece of mapped memory: a part of a descriptor.

    The descriptor then belongs to the segment.  Where mapping fails it still is the caller's.
    """

    def __cinit__(
        self, int number, int fd, size_t offset, size_t size, bint is_file, bint read_only=False
    ):
        self.fd = -1
        self.number, self.offset, self.size, self.is_file = number, offset, size, is_file
        if not fm_segment_fits(fd, offset, size, is_file):
            raise OSError(f"segment {number} of the manager's arena is not what it is said to be")
        self.at = fm_map(fd, offset, size, read_only)
        self.read_only = read_only
        if self.at is NULL:
            raise MemoryError(f"no room to map {size} bytes of the manager's arena")
        self.fd = fd

    def __dealloc__(self):
        if self.at is not NULL:
            munmap(self.at, self.size)
        if self.fd >= 0:
            os_close(self.fd)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(
            buffer, self, self.at, <Py_ssize_t>self.size, self.read_only, flags)

    def spoil(self):
        """Note that the file was cut: nobody reads or writes this segment any more."""
        self.is_cut = True

    cdef bint lasts(self) noexcept:
        """Whether the server keeps the segment to its end, and not only while a cell is in it."""
        return self.is_file or self.size == SEGMENT_SIZE

    cdef int check_file(self) except -1:
        """Raise OSError if the file was cut: reading memory beyond its end would be a SIGBUS."""
        if not self.is_cut and fm_file_size(self.fd) < self.offset + self.size:
            self.is_cut = True
        if self.is_cut:
            raise OSError(
                errno.EIO,
                "the arena's file was cut while the manager used it: what it kept is lost; put "
                "a copy in its place before the manager is started again")
        return 0

    cdef char *place(self, size_t offset, size_t size) except NULL:
        """Return the address of a cell, whose place a file or the server has told."""
        if offset > self.size or self.size - offset < size or offset % 8:
            raise OSError(f"{size} bytes at {offset} do not lie in a segment of {self.size}")
        return self.at + offset

    def forget_fd(self):
        """Close the descriptor; the memory stays mapped."""
        if self.fd >= 0:
            os_close(self.fd)
        self.fd = -1


def map_segment(
    int number, int fd, size_t offset, size_t size, bint is_file, bint read_only=False
):
    """Map a part of a descriptor, which then belongs to the segment, or is closed."""
    try:
        return Segment(number, fd, offset, size, is_file, read_only)
    except BaseException:
        os_close(fd)
        raise


cdef Segment new_segment(int number, size_t size):
    """Make an anonymous segment, zero at first (OSError if that fails)."""
    return made(number, fm_segment_new(size, False), size)


cdef Segment new_read_only_segment(int number, size_t size):
    """The same, to which nobody but this process can write."""
    cdef Segment segment = made(number, fm_segment_new(size, True), size)
    fm_segment_protect(segment.fd)
    return segment


cdef Segment made(int number, int fd, size_t size):
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd))
    return map_segment(number, fd, 0, size, False)
