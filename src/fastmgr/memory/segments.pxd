"""Memory that the server and the clients on its host share."""

from libc.stdint cimport int8_t, int16_t, int32_t, int64_t, uint8_t, uint16_t, uint32_t, uint64_t

cdef extern from "memory/segments.h" nogil:
    uint64_t fm_load(const uint64_t *word)
    void fm_store(uint64_t *word, uint64_t value)
    uint64_t fm_exchange(uint64_t *word, uint64_t value)
    uint64_t fm_clear_bits(uint64_t *word, uint64_t bits)
    uint64_t fm_set_bits(uint64_t *word, uint64_t bits)
    int fm_replace(uint64_t *word, uint64_t *expected, uint64_t desired)
    int fm_add_i8(int8_t *at, int64_t amount, int8_t *total)
    int fm_add_u8(uint8_t *at, int64_t amount, uint8_t *total)
    int fm_add_i16(int16_t *at, int64_t amount, int16_t *total)
    int fm_add_u16(uint16_t *at, int64_t amount, uint16_t *total)
    int fm_add_i32(int32_t *at, int64_t amount, int32_t *total)
    int fm_add_u32(uint32_t *at, int64_t amount, uint32_t *total)
    int fm_add_i64(int64_t *at, int64_t amount, int64_t *total)
    int fm_add_u64(uint64_t *at, int64_t amount, uint64_t *total)
    double fm_double_of(uint64_t bits)
    uint64_t fm_bits_of(double value)

    int fm_segment_new(size_t size)
    uint64_t fm_file_size(int fd)
    int fm_segment_fits(int fd, size_t offset, size_t size, int is_file)
    char *fm_map(int fd, size_t offset, size_t size)
    void fm_unmap(char *at, size_t size)
    void fm_clear(char *at, size_t size)

    int fm_is_unix(int fd)
    ssize_t fm_send_fd(int fd, const void *source, size_t size, int passed, int flags)
    ssize_t fm_recv_fd(int fd, void *into, size_t room, int *passed)

    ctypedef struct fm_lifeline:
        pass

    int fm_lives(const uint32_t *word)
    int fm_serves(const uint32_t *alive, const uint64_t *entry, uint64_t session)
    uint32_t fm_growths(const uint32_t *alive)
    void fm_note_growth(uint32_t *alive)
    void fm_lifeline_tie(fm_lifeline *line, uint32_t *word)
    void fm_lifeline_cut(fm_lifeline *line, uint32_t *word)

    uint64_t fm_owner_here(uint64_t serial)
    void fm_set_owner_here(uint64_t serial, uint64_t owner)

# Who holds something, in 56 bits: a session's number above the number of a thread in it (0: any),
# or LOCAL and a running number for who has no session.
cdef enum:
    THREAD_BITS = 24
cdef uint64_t LOCAL
# What can be held is a slot, one word: who holds it, or 0, and these.
cdef uint64_t OWNER          # the bits of the owner
cdef uint64_t CONTENDED      # the server keeps a queue for it, and must be asked
cdef uint64_t OWNER_DIED     # a holder was killed, and nobody has said since that all is well

# Bytes that take milliseconds to be copied, or given back.
cdef enum:
    HEAVY = 4 * 1024 * 1024

# What a cell is to its clients.
cdef enum Kind:
    KIND_NONE = 0
    KIND_LOCK = 1
    KIND_RLOCK = 2
    KIND_SEMAPHORE = 3
    KIND_EVENT = 4
    KIND_COUNTER = 5
    KIND_COUNTERS = 6
    KIND_VALUE = 7
    KIND_ARRAY = 8

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

    cdef int check_file(self) except -1
    cdef char *place(self, size_t offset, size_t size) except NULL

cdef Segment new_segment(int number, size_t size)

cdef class Arena:
    cdef readonly object segments    # number -> Segment, weak: the large go with their cell
    cdef list shared                 # the segments of small cells
    cdef list spacious               # those of large cells
    cdef int pid                     # the server: a forked child's copy is not to be written to
    cdef dict unused                 # size -> [(segment, offset)] of cells that were given back
    cdef int made                    # segments so far
    # Its first word says that the server lives; behind it are the numbers of the sessions.
    cdef Segment control
    cdef list vacant                 # entries of them, to be used again
    cdef size_t entries              # of them so far, with that of the server
    cdef fm_lifeline line
    cdef bint tied

    cdef Segment add(self, Segment segment)
    cdef size_t enter(self, uint64_t session) except? 0
    cdef int leave(self, size_t entry) except -1
    cdef tuple take(self, size_t size)
    cdef tuple take_pages(self, size_t size)
    cdef int give_back_pages(self, Segment segment, size_t offset, size_t size) except -1
    cdef int give_back(self, Segment segment, size_t offset, size_t size) except -1

cdef class Cell:
    cdef char *at                    # in `segment`, or owned
    cdef readonly size_t size
    cdef readonly Segment segment    # None: nobody else sees it
    cdef readonly size_t offset
    cdef Arena arena                 # takes it back; None: it stays where it is

    cpdef bint settle(self, Arena arena) except -1
    cdef bint place(self, Arena arena) except -1
    cdef int give_back(self) except -1
    cdef int check(self) except -1

cdef class Celled:
    cdef Cell cell                   # None: there is nothing to share
    cdef int kind

    cdef bint settle(self, Arena arena) except -1
    cdef bint is_heavy(self, bint at_rest) except -1
    cdef size_t state_size(self) except? 0
    cdef bint fits(self, size_t size) except -1
    cdef int lie_in(self, Cell cell, bint fresh) except -1
    cdef object about(self)

cdef class View:
    cdef readonly object instance    # of which server
    cdef readonly uint64_t owner     # this process to it, as the owner of a slot
    cdef size_t place                # of the session's number in `control`
    cdef const uint64_t *entry       # the same; NULL before that is mapped
    cdef readonly uint64_t serial    # of this view, among all of the process
    cdef public bint usable          # the session it belongs to still is what it was
    cdef public bint none            # there is no arena to be had
    cdef Segment control
    cdef const uint32_t *alive       # in `control`; NULL before that is mapped
    cdef dict shared                 # number -> Segment
    cdef object large                # number -> Segment, weak: kept by the proxies

    cdef bint serves(self) noexcept
    cdef int look_at(self, Segment control) except -1
    cdef int keep(self, Segment segment) except -1
