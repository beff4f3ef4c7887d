# cython: auto_pickle=False
"""Memory that the server and the clients on its host share.

The server owns the memory, and alone decides what lies where: its books are in its own
memory.  An object begins with a *cell* of its own that nobody else sees; when the first
client on the host asks where it is, the cell moves into a *segment*, an anonymous piece
of shared memory whose descriptor the client is given.  From then on both work on the
cell by atomic steps, and so does the server for whoever cannot map it.

What a client may write there is data: no pointer, length or offset in a segment is ever
used.
"""

cimport cython
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close as os_close
from posix.unistd cimport getpid

import errno
import os
import resource
from multiprocessing.process import current_process
from weakref import WeakValueDictionary

cdef uint64_t LOCAL = <uint64_t>1 << 55
cdef uint64_t OWNER = (<uint64_t>1 << 56) - 1
cdef uint64_t CONTENDED = <uint64_t>1 << 63
cdef uint64_t OWNER_DIED = <uint64_t>1 << 62

cdef enum:
    LINE = 64                    # bytes of a cache line: no two cells share one
    PAGE = 4096
    SEGMENT_SIZE = 1024 * 1024   # of untouched memory, which costs nothing
    LARGE = 256 * 1024           # a cell of that size lies among large ones, and is made there
    SPACIOUS = 64 * 1024 * 1024  # a segment of large cells; untouched, it costs nothing either
    DESCRIPTORS_LEFT = 4         # one in so many is kept for those who connect
    CONTROL_SIZE = 512 * 1024    # sessions that there can be at a time, times eight bytes


@cython.final
@cython.no_gc
cdef class Segment:
    """A piece of mapped memory, with its descriptor where it is to be passed on."""

    def __cinit__(self):
        self.fd = -1

    def __dealloc__(self):
        if self.at is not NULL:
            fm_unmap(self.at, self.size)
        if self.fd >= 0:
            os_close(self.fd)

    def __getbuffer__(self, Py_buffer *buffer, int flags):
        PyBuffer_FillInfo(buffer, self, self.at, <Py_ssize_t>self.size, 0, flags)

    def spoil(self):
        """Leave what is here alone from now on: the file has been cut."""
        self.is_cut = True

    cdef int check_file(self) except -1:
        """Raise OSError if the file is shorter than it was: a look at what is gone is a signal."""
        if not self.is_cut and fm_file_size(self.fd) < self.offset + self.size:
            self.is_cut = True
        if self.is_cut:
            raise OSError(
                errno.EIO,
                "the arena's file was cut while the manager used it: what it kept is lost; put "
                "a copy in its place before the manager is started again")
        return 0

    cdef char *place(self, size_t offset, size_t size) except NULL:
        """Where a cell is that somebody else says to be here."""
        if offset > self.size or self.size - offset < size or offset % 8:
            raise OSError(f"a cell of {size} bytes at {offset} does not lie in its segment")
        return self.at + offset

    def forget_fd(self):
        """Close the descriptor: it is not to be passed on."""
        if self.fd >= 0:
            os_close(self.fd)
        self.fd = -1


cdef extern from "Python.h":
    int PyBuffer_FillInfo(
        Py_buffer *view, object exporter, void *buf, Py_ssize_t len, int readonly, int flags
    ) except -1


def map_segment(int number, int fd, size_t offset, size_t size, bint is_file):
    """Map a part of a descriptor, which then belongs to the segment, or is closed.

    Raises
    ------
    OSError, MemoryError
        It cannot be mapped.
    """
    try:
        return mapped(number, fd, offset, size, is_file)
    except BaseException:
        os_close(fd)
        raise


cdef Segment mapped(int number, int fd, size_t offset, size_t size, bint is_file):
    """Map a part of a descriptor; where that fails it still is the caller's."""
    cdef Segment segment = Segment()
    segment.number = number
    segment.offset = offset
    segment.size = size
    segment.is_file = is_file
    if not fm_segment_fits(fd, offset, size, is_file):
        raise OSError(f"segment {number} of the manager's arena is not what it is said to be")
    segment.at = fm_map(fd, offset, size)
    if segment.at is NULL:
        raise MemoryError(f"no room to map {size} bytes of the manager's arena")
    segment.fd = fd
    return segment


# The arena of the server that runs in this process: where large cells are made.
cdef Arena home = None


@cython.final
cdef class Arena:
    """What the server shares with clients on its host, and what of it is in use."""

    def __init__(self):
        self.pid = getpid()
        self.segments = WeakValueDictionary()
        self.shared = []
        self.spacious = []
        self.unused = {}
        self.vacant = []
        self.entries = 1
        self.made = 1       # the control segment's number is 0, whenever it is made

    def open(self):
        """Begin, on the thread whose life is the server's.

        Raises
        ------
        OSError
            There is no shared memory here.
        """
        if self.control is None:
            self.control = new_segment(0, CONTROL_SIZE)
            self.segments[0] = self.control
        fm_lifeline_tie(&self.line, <uint32_t *>self.control.at)
        self.tied = True
        global home
        home = self

    def close(self):
        """Tell the clients that it is over; on the thread that has called `open`."""
        global home
        if home is self:
            home = None
        if self.tied:
            self.tied = False
            fm_lifeline_cut(&self.line, <uint32_t *>self.control.at)
        for segment in list(self.segments.values()):
            if not segment.is_file:     # closing one of a file would lift its lock
                segment.forget_fd()

    cdef size_t enter(self, uint64_t session) except? 0:
        """A session begins: the place of its number in the control segment, 0 for none."""
        cdef size_t entry
        if self.control is None:
            return 0
        if self.vacant:
            entry = self.vacant.pop()
        elif (self.entries + 1) * sizeof(uint64_t) <= CONTROL_SIZE:
            entry = self.entries
            self.entries += 1
        else:
            return 0
        fm_store(<uint64_t *>self.control.at + entry, session)
        return entry

    cdef int leave(self, size_t entry) except -1:
        """A session has ended: its process, if it lives, is to touch nothing any more."""
        if entry:
            fm_store(<uint64_t *>self.control.at + entry, 0)
            self.vacant.append(entry)
        return 0

    def new(self, size_t size):
        """Make an anonymous segment of that many bytes.

        Raises
        ------
        OSError, MemoryError
            That fails, or would take a descriptor of those kept for clients that connect.
        """
        cdef Segment segment = new_segment(self.made, size)
        cdef object limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # The kernel gives the lowest that is free.
        if 0 <= limit <= segment.fd + limit // DESCRIPTORS_LEFT:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.add(segment)

    def add_file(self, int fd, size_t offset, size_t size):
        """Make a segment of a part of a file.

        The descriptor then belongs to the segment; where that fails it still is the caller's.
        """
        return self.add(mapped(self.made, fd, offset, size, True))

    def note_growth(self):
        """Say that a row of counters has grown."""
        if self.control is not None:
            fm_note_growth(<uint32_t *>self.control.at)

    def expel(self):
        """Have the clients ask for everything: what they have mapped is not sound any more."""
        cdef size_t entry
        for entry in range(1, self.entries):
            fm_store(<uint64_t *>self.control.at + entry, 0)

    cdef Segment add(self, Segment segment):
        self.made += 1
        self.segments[segment.number] = segment
        return segment

    cdef tuple take(self, size_t size):
        """Find room for a cell: its segment, and the offset there."""
        cdef Segment segment
        cdef list unused
        size = _rounded(size)
        if size >= LARGE:
            return self.take_pages(size)
        unused = self.unused.get(size)
        if unused:
            return unused.pop()
        if self.shared:
            segment = self.shared[len(self.shared) - 1]
            if segment.size - segment.used >= size:
                segment.used += size
                return segment, segment.used - size
        segment = self.new(SEGMENT_SIZE)
        self.shared.append(segment)
        segment.used = size
        return segment, 0

    cdef int give_back(self, Segment segment, size_t offset, size_t size) except -1:
        """A cell is not in use any more; nothing of it is left for the next."""
        if self.pid != getpid():
            return 0        # in a forked child: the memory is the server's
        size = _rounded(size)
        if size >= LARGE:
            return self.give_back_pages(segment, offset, size)
        memset(segment.at + offset, 0, size)
        self.unused.setdefault(size, []).append((segment, offset))
        return 0

    cdef tuple take_pages(self, size_t size):
        """Find room for a large cell among others.

        A segment is as large as half of the others together, so that there are few however
        many cells: each segment has a descriptor.
        """
        cdef Segment segment
        cdef list gap
        cdef size_t offset, room, total = 0
        for segment in self.spacious:
            for i, gap in enumerate(segment.gaps):
                offset, room = gap[0], gap[1]
                if room >= size:
                    # Changed where it is: to make a new one may collect garbage, and give back
                    # other cells here meanwhile.
                    if room == size:
                        del segment.gaps[i]
                    else:
                        gap[0], gap[1] = offset + size, room - size
                    return segment, offset
            total += segment.size
        room = max(size, <size_t>SPACIOUS, total // 2 // PAGE * PAGE)
        try:
            segment = self.new(room)
        except (OSError, MemoryError):
            room = size
            segment = self.new(room)
        segment.gaps = [[size, room - size]] if room > size else []
        self.spacious.append(segment)
        return segment, 0

    cdef int give_back_pages(self, Segment segment, size_t offset, size_t size) except -1:
        cdef Py_ssize_t i = 0
        cdef list gaps = segment.gaps
        cdef list gap = [None, None]    # made first: that may collect garbage, and change `gaps`
        with nogil:         # nobody knows the cell any more
            fm_clear(segment.at + offset, size)
        while i < len(gaps) and gaps[i][0] < offset:
            i += 1
        if i < len(gaps) and gaps[i][0] == offset + size:
            size += gaps.pop(i)[1]
        if i and gaps[i - 1][0] + gaps[i - 1][1] == offset:
            i -= 1
            offset = gaps[i][0]
            size += gaps.pop(i)[1]
        gap[0], gap[1] = offset, size
        gaps.insert(i, gap)
        if size == segment.size and len(self.spacious) > 1:
            self.spacious.remove(segment)
        return 0


cdef Segment new_segment(int number, size_t size):
    """Make an anonymous segment, zero at first (OSError if that fails)."""
    cdef int fd = fm_segment_new(size)
    if fd < 0:
        raise OSError(-fd, os.strerror(-fd))
    return map_segment(number, fd, 0, size, False)


cdef size_t _rounded(size_t size) noexcept:
    """The bytes that a cell takes: lines, and above a page powers of two, to be found again."""
    cdef size_t rounded
    if size <= PAGE:
        return (size + LINE - 1) // LINE * LINE
    if size >= LARGE:
        return (size + PAGE - 1) // PAGE * PAGE
    rounded = PAGE
    while rounded < size:
        rounded *= 2
    return rounded


@cython.final
@cython.no_gc
cdef class Cell:
    """The memory of one object.

    Parameters
    ----------
    size : int
        Bytes, which are zero at first.
    """

    def __cinit__(self, size_t size):
        self.size = size
        if size >= LARGE and home is not None and home.pid == getpid() and self.place(home):
            return
        self.at = <char *>calloc(1, size if size else 1)
        if self.at is NULL:
            raise MemoryError(f"no memory for a cell of {size} bytes")

    def __dealloc__(self):
        self.give_back()

    cdef int give_back(self) except -1:
        """Let the memory go."""
        if self.segment is None:
            free(self.at)
        elif self.arena is not None:
            self.arena.give_back(self.segment, self.offset, self.size)
        return 0

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
        """To be called before the server touches what may lie in a file."""
        if self.segment is not None and self.segment.is_file:
            self.segment.check_file()
        return 0

    def lie_in(self, Segment segment, size_t offset):
        """Be a part of a segment that is nobody's to take back: of a file."""
        if offset > segment.size or segment.size - offset < self.size:
            raise ValueError(
                f"{self.size} bytes at {offset} do not lie in a segment of {segment.size}")
        self.give_back()
        self.arena = None
        self.at = segment.at + offset
        self.segment = segment
        self.offset = offset


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
        """Have the state in a cell: with `fresh` what it is now, else what is there."""
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
    """Have an object's state in a file: with `fresh` what it is now, else what is there.

    Raises
    ------
    ValueError
        The state has another size, or does not lie in the segment.
    """
    cdef Cell cell = Cell(size)
    if not obj.fits(size):
        raise ValueError(f"{size} bytes of state")
    cell.lie_in(segment, offset)
    obj.lie_in(cell, fresh)


cdef uint64_t views = 0


@cython.final
cdef class View:
    """What this process has mapped of one server's arena.

    Parameters
    ----------
    owner : int
        What this process is to the server when it holds a slot.
    place : int
        Where the session's number is in the control segment; 0: there is no arena, or it is
        not to be used.
    instance : bytes
        The server's.
    before : View or None
        What the process had, perhaps before a fork: what is mapped stays mapped.
    """

    def __init__(self, uint64_t owner, size_t place, instance, View before):
        global views
        views += 1
        self.serial = views
        self.owner = owner
        self.instance = instance
        self.usable = True
        self.place = place
        self.none = place == 0
        self.shared = {}
        self.large = WeakValueDictionary()
        if before is not None and before.instance == instance and before.control is not None:
            self.look_at(before.control)
            self.shared = before.shared
            self.large = before.large

    cdef bint serves(self) noexcept:
        """Whether the cells still are this process's to work on."""
        return self.usable and fm_serves(self.alive, self.entry, self.owner >> THREAD_BITS)

    cdef int look_at(self, Segment control) except -1:
        if self.place >= control.size // sizeof(uint64_t):
            raise OSError(f"session {self.place} has no place in the manager's arena")
        self.control = control
        self.alive = <const uint32_t *>control.at
        self.entry = <const uint64_t *>control.at + self.place
        return 0

    cdef int keep(self, Segment segment) except -1:
        if not segment.is_file or getattr(current_process(), "_manager_server", None) is None:
            segment.forget_fd()
        # In the server's own process closing any descriptor of the file would lift its lock.
        if segment.number == 0:
            self.look_at(segment)
        elif segment.size == SEGMENT_SIZE or segment.is_file:
            self.shared[segment.number] = segment
        else:
            self.large[segment.number] = segment
        return 0

    def segment(self, number):
        """The segment of that number, if it is mapped already."""
        if number == 0:
            return self.control
        return self.shared.get(number) or self.large.get(number)
