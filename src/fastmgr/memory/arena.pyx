# cython: auto_pickle=False
"""An arena: the server's segments, and the cells of shared objects in them; a client's view.

The server owns the memory, and alone decides what lies where: its books are in its own memory.

An object begins with a cell of its own that nobody else sees.  When the first client on the host
asks where the cell is, the server moves the cell into a segment.  From then on both work on it by
atomic steps; for a client that cannot map the segment the server makes the steps.
"""

cimport cython
from cpython.pythread cimport PyThread_get_thread_ident
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport getpid

from fastmgr.memory.atomics cimport fm_store
from fastmgr.memory.segments cimport (
    SEGMENT_SIZE, fm_clear, fm_lifeline_cut, fm_lifeline_tie, fm_note_growth, fm_part,
    new_read_only_segment, new_segment,
)
from fastmgr.memory.versions cimport VERSIONS, WORD_SIZE, begin_change, end_change

import errno
import os
import resource
from weakref import WeakValueDictionary

cdef enum:
    LARGE = 256 * 1024           # a cell of that size lies among large ones, and is made there
    LINE = 64                    # bytes of a cache line: no two cells share one
    PAGE = 4096
    SPACIOUS = 64 * 1024 * 1024  # a segment of large cells; untouched memory costs nothing
    DESCRIPTORS_LEFT = 4         # one in so many is kept for connections
    CONTROL_SIZE = 512 * 1024    # eight bytes for each session that there can be at a time
    RING_SIZE = 1024 * 1024      # bytes for the items of a queue, if the environment names none
    LEAST_RING = 4096
    LARGEST_RING = 1024 * 1024 * 1024

# Of the servers that run in this process, and of those of the process it was forked from.
cdef list homes = []
cdef uint64_t views = 0


cdef Arena home_here():
    """The arena of the last of the servers that run in this process, or None."""
    cdef Arena home
    for home in reversed(homes):
        if home.pid == getpid():
            return home
    return None


@cython.final
cdef class Versions:
    """The versions of one server's objects, and which words are in use.

    The server alone writes to the words: a client that scribbles cannot reach what others believe.
    No version is ever used twice, so a word that is another object's by now never says that
    something old still stands.
    """

    def __init__(self):
        self.vacant = []

    cdef uint64_t next(self) noexcept:
        """A version that no word has had."""
        self.last += 2
        return self.last

    cdef Version new(self):
        """A word for an object; None where there is no room (OSError: no shared memory)."""
        cdef Version version = Version()
        cdef size_t offset
        if self.segment is None:
            self.segment = new_read_only_segment(VERSIONS, SEGMENT_SIZE)
        if self.vacant:
            offset = self.vacant.pop()
        elif self.used + WORD_SIZE <= self.segment.size:
            offset = self.used
            self.used += WORD_SIZE
        else:
            return None
        version.offset = offset
        version.word = <uint64_t *>(self.segment.at + offset)
        version.home = self
        end_change(version.word, self.next())
        return version


@cython.final
@cython.no_gc
cdef class Version:
    """The version of one object."""

    def __dealloc__(self):
        if self.home is not None:
            self.retire()
            self.home.vacant.append(self.offset)

    cdef void begin(self) noexcept:
        """A call begins that may change the object."""
        if self.changing == 0 and not self.retired:
            begin_change(self.word)
        self.changing += 1

    cdef void end(self) noexcept:
        """Such a call has ended; to be called before it is replied to."""
        self.changing -= 1
        self.unread += 1
        if self.changing == 0 and not self.retired:
            end_change(self.word, self.home.next())

    cdef void retire(self) noexcept:
        """Changes are not noted here any more: nothing that clients have kept stands."""
        self.retired = True
        end_change(self.word, 0)


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
        self.versions = Versions()
        self.entries = 1
        self.made = 1       # the control segment's number is 0, whenever it is made
        self.ring_size = wanted_ring_size()

    def open(self):
        """Begin, on the thread that lives as long as the server: the loop's.

        An OSError says that there is no shared memory here.
        """
        if self.control is None:
            self.control = new_segment(0, CONTROL_SIZE)
            self.segments[0] = self.control
        self.thread = PyThread_get_thread_ident()
        fm_lifeline_tie(&self.line, <uint32_t *>self.control.at)
        self.tied = True
        homes.append(self)

    def close(self):
        """Tell the clients that the server has ended; on the thread that has called `open`."""
        if self in homes:
            homes.remove(self)
        if self.tied:
            self.tied = False
            fm_lifeline_cut(&self.line, <uint32_t *>self.control.at)
        for segment in list(self.segments.values()):
            if not segment.is_file:     # closing one of a file would lift its lock
                segment.forget_fd()

    def part(self):
        """In the child of a fork: write to no word of a version that clients read.

        A call that was under way in the server may end in the child, too.  So memory of the child
        alone takes the place of the words.
        """
        cdef Segment words = self.versions.segment
        if words is not None and fm_part(words.at, words.size) < 0:
            raise MemoryError("no room for a copy of the versions of shared objects")

    cdef size_t enter(self, uint64_t session) except? 0:
        """Note that a session begins; return the place of its number, 0 for none."""
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
        """Note that a session has ended: if its process lives, that may touch no cell any more."""
        if entry:
            fm_store(<uint64_t *>self.control.at + entry, 0)
            self.vacant.append(entry)
        return 0

    cdef Version new_version(self):
        """A word that says whether an object has changed; None where there is none."""
        cdef Version version
        try:
            version = self.versions.new()
        except (OSError, MemoryError):
            return None
        self.segments[VERSIONS] = self.versions.segment
        return version

    def new(self, size_t size):
        """Make an anonymous segment.

        An OSError also says that its descriptor would be one of those for clients that connect.
        """
        cdef Segment segment = new_segment(self.made, size)
        cdef object limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        # The kernel gives the lowest descriptor that is free.
        if 0 <= limit <= segment.fd + limit // DESCRIPTORS_LEFT:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return self.add(segment)

    def add_file(self, int fd, size_t offset, size_t size):
        """Make a segment of a part of a file (`Segment` says whose the descriptor is)."""
        return self.add(Segment(self.made, fd, offset, size, True))

    def note_growth(self):
        """Say that a row of counters has grown."""
        if self.control is not None:
            fm_note_growth(<uint32_t *>self.control.at)

    def expel(self):
        """Stop the clients from using what they have mapped: they call the server from now on."""
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
            return take_pages(self, size)
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
        """Take a cell back and clear it."""
        if self.pid != getpid():
            return 0        # in a forked child: the memory is the server's
        size = _rounded(size)
        if size >= LARGE:
            return give_back_pages(self.spacious, segment, offset, size)
        memset(segment.at + offset, 0, size)
        self.unused.setdefault(size, []).append((segment, offset))
        return 0


cdef size_t wanted_ring_size() except? 0:
    """The bytes of a queue's ring that the environment asks for; 0: queues have none."""
    said = os.environ.get("FASTMGR_RING_SIZE", "").strip()
    if not said:
        return RING_SIZE
    if not said.isdecimal() or not (said == "0" or LEAST_RING <= int(said) <= LARGEST_RING):
        raise ValueError(
            f"FASTMGR_RING_SIZE={said!r} in the environment: a number of bytes from {LEAST_RING} "
            f"to {LARGEST_RING} is needed, or 0 for no rings")
    return int(said) // PAGE * PAGE


cdef tuple take_pages(Arena arena, size_t size):
    """Find room for a large cell among others.

    A new segment is as large as half of the others together.  So there are few segments however
    many cells there are: each segment has a descriptor.
    """
    cdef Segment segment
    cdef list gap
    cdef size_t offset, room, total = 0
    for segment in arena.spacious:
        for i, gap in enumerate(segment.gaps):
            offset, room = gap[0], gap[1]
            if room >= size:
                # The gap is changed in place: making a new list may collect garbage, and so give
                # other cells back to this segment.
                if room == size:
                    del segment.gaps[i]
                else:
                    gap[0], gap[1] = offset + size, room - size
                return segment, offset
        total += segment.size
    room = max(size, <size_t>SPACIOUS, total // 2 // PAGE * PAGE)
    try:
        segment = arena.new(room)
    except (OSError, MemoryError):
        room = size if size != SEGMENT_SIZE else size + PAGE
        segment = arena.new(room)
    segment.gaps = [[size, room - size]] if room > size else []
    arena.spacious.append(segment)
    return segment, 0


cdef int give_back_pages(list spacious, Segment segment, size_t offset, size_t size) except -1:
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
    if size == segment.size and len(spacious) > 1:
        spacious.remove(segment)
    return 0


cdef size_t _rounded(size_t size) noexcept:
    """The bytes that a cell takes: lines, pages, or between the two powers of two.

    So cells of nearly the same size can take each other's place.
    """
    cdef size_t rounded = PAGE
    if size <= PAGE:
        return (size + LINE - 1) // LINE * LINE
    if size >= LARGE:
        return (size + PAGE - 1) // PAGE * PAGE
    while rounded < size:
        rounded *= 2
    return rounded


cdef class View:
    """What this process has mapped of one server's arena.

    `place` says where the session's number is in the control segment.  0 says that there is no
    arena, or that the client may not use it.  The segments of the process's view `before`, which
    may be older than a fork, stay mapped.
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

    cdef int look_at(self, Segment control) except -1:
        if self.place >= control.size // sizeof(uint64_t):
            raise OSError(f"session {self.place} has no place in the manager's arena")
        self.control = control
        self.alive = <const uint32_t *>control.at
        self.entry = <const uint64_t *>control.at + self.place
        return 0

    cdef int keep(self, Segment segment) except -1:
        # In the server's own process closing any descriptor of the file would lift the file's lock.
        if not segment.is_file or home_here() is None:
            segment.forget_fd()
        if segment.number == 0:
            self.look_at(segment)
        elif segment.lasts():
            self.shared[segment.number] = segment
        else:
            self.large[segment.number] = segment
        return 0

    def segment(self, number):
        """The segment of that number, if this process has mapped it."""
        if number == 0:
            return self.control
        return self.shared.get(number) or self.large.get(number)


@cython.final
@cython.no_gc
cdef class Cell:
    """The memory of one object, `size` bytes that are zero at first.

    With a `segment` the cell lies there for good: in a file, or where the server says.  An OSError
    says that it would not lie in the segment.
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

        The caller sees to it that nothing points into the cell.
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
    """A shared object that may have its state in a cell."""

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
        """How many bytes the state has."""
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
        """A plain value: what a client must know besides the object's kind and its cell."""
        return None


# Functions, not methods: clients can call the methods of a shared object's type.

def state_size(Celled obj not None):
    """Return how many bytes an object's state has."""
    return obj.state_size()


def settle(Celled obj not None, Arena arena not None):
    """Have an object's state where clients can map it; return whether it is there."""
    return obj.settle(arena)


def lie_at(Celled obj not None, Segment segment, size_t offset, size_t size, bint fresh):
    """Use a place in a file as an object's cell; with `fresh` write the state, else read it there.

    A ValueError says that the state has another size, or would not lie in the segment.
    """
    if not obj.fits(size):
        raise ValueError(f"{size} bytes of state")
    try:
        cell = Cell(size, segment, offset)
    except OSError as error:
        raise ValueError(str(error)) from None
    obj.lie_in(cell, fresh)
