# cython: auto_pickle=False
"""Cells: the memory of shared objects.

An object begins with a cell of its own that nobody else sees; when the first client on the host
asks where it is, the cell moves into a segment of the server's arena.  From then on both work on
the cell by atomic steps; for a client that cannot map it the server makes the steps.
"""

cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from fastmgr.memory.arena cimport LARGE, home_here


@cython.final
@cython.no_gc
cdef class Cell:
    """The memory of one object.

    Parameters
    ----------
    size : int
        Bytes, which are zero at first.
    segment : Segment, optional
        Where the cell lies for good: in a file, or as the server says.
    offset : int
        Where in the segment.

    Raises
    ------
    ValueError
        It would not lie in the segment.
    """

    def __cinit__(self, size_t size, Segment segment=None, size_t offset=0):
        cdef Arena home
        self.size = size
        if segment is not None:
            self.at = segment.place(offset, size)
            self.segment, self.offset = segment, offset
            return
        home = home_here() if size >= LARGE else None
        if home is not None and self.place(home):
            return
        self.at = <char *>calloc(1, size if size else 1)
        if self.at is NULL:
            raise MemoryError(f"no memory for a cell of {size} bytes")

    def __dealloc__(self):
        if self.segment is None:
            free(self.at)
        elif self.arena is not None:
            self.arena.give_back(self.segment, self.offset, self.size)

    cdef bint place(self, Arena arena) except -1:
        """Get memory of an arena, zero at first; False if it has none."""
        cdef Segment segment
        try:
            segment, offset = arena.take(self.size)
        except (OSError, MemoryError):
            return False
        if self.segment is not None:        # another thread has been here meanwhile
            arena.give_back(segment, offset, self.size)
            return True
        if self.at is not NULL:
            memcpy(segment.at + <size_t>offset, self.at, self.size)
            free(self.at)
        self.offset = offset
        self.at = segment.at + self.offset
        self.segment = segment
        self.arena = arena
        return True

    cpdef bint settle(self, Arena arena) except -1:
        """Move to where clients can map it; False if the arena has no room.

        Only to be called while nothing points into the cell.
        """
        if self.segment is not None:
            return not self.segment.is_cut and (self.arena is None or self.arena is arena)
        return self.place(arena)

    cdef int check(self) except -1:
        """Raise OSError if the cell lies in a file that was cut; before each use in the server."""
        if self.segment is not None and self.segment.is_file:
            self.segment.check_file()
        return 0


cdef class Celled:
    """What may have its state in a cell."""

    cdef bint settle(self, Arena arena) except -1:
        """Move the state to where clients can map it; False where that cannot be."""
        return self.cell is not None and self.cell.settle(arena)

    cdef bint is_heavy(self, bint at_rest) except -1:
        """Whether moving the state takes long, or (`at_rest`) giving its memory back."""
        return (
            self.cell is not None and self.cell.size >= HEAVY
            and (at_rest or self.cell.segment is None)
        )

    cdef size_t state_size(self) except? 0:
        """The bytes of the state."""
        return self.cell.size

    cdef bint fits(self, size_t size) except -1:
        """Whether a state can have that size."""
        return size == self.state_size()

    cdef int lie_in(self, Cell cell, bint fresh) except -1:
        """Use that cell from now on; with `fresh` write the state into it, else read it there."""
        if fresh:
            memcpy(cell.at, self.cell.at, cell.size)
        self.cell = cell
        return 0

    cdef object about(self):
        """What a client must know of it besides its kind and its cell; anything plain."""
        return None


# Functions, not methods: what a shared object's type has as a method can be called from afar.

def state_size(Celled obj not None):
    """Return the bytes of an object's state."""
    return obj.state_size()


def settle(Celled obj not None, Arena arena not None):
    """Have an object's state where clients can map it; return whether it is there."""
    return obj.settle(arena)


def lie_at(Celled obj not None, Segment segment, size_t offset, size_t size, bint fresh):
    """Use a place in a file as an object's cell; with `fresh` write the state, else read it there.

    Raises
    ------
    ValueError
        The state has another size, or does not lie in the segment.
    """
    if not obj.fits(size):
        raise ValueError(f"{size} bytes of state")
    obj.lie_in(Cell(size, segment, offset), fresh)
