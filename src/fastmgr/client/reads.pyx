# cython: auto_pickle=False
"""What a client has read of an object, and may return again.

The server keeps a version of the object in memory that this process maps for reading only
(`memory.versions`).  A reply says at which version it was made.  While that version stands, the
same call would return the same.

What can change is kept as the bytes that came, and decoded anew for each caller.
"""

cimport cython

from fastmgr.wire.writer cimport is_scalar

cdef enum:
    MOST_OF_ONE = 256 * 1024            # bytes of a reply
    MOST_OF_PROXY = 1024 * 1024         # bytes that one proxy keeps
    MOST_OF_ALL = 64 * 1024 * 1024      # bytes that a process keeps
    ROUND = 32                          # replies that are kept before hits are counted
    OVERHEAD = 100                      # bytes that a reply takes besides its own and its key's


cdef bint is_plain(object value) noexcept:
    """Whether every caller may have the same object: nobody can change it."""
    if type(value) is tuple:
        for part in <tuple>value:
            if not is_scalar(part):
                return False
        return True
    return is_scalar(value)


cdef object key_of_call(object args, object kwds):
    """What the call of a reader is kept under; False where its reply is not to be kept.

    Values of other types may equal these, and a method may tell them apart.
    """
    cdef Py_ssize_t count
    if kwds or type(args) is not tuple:
        return False
    count = len(<tuple>args)
    if count == 0:
        return None
    key = (<tuple>args)[0]
    if not is_key(key):
        return False
    if count == 1:
        return key
    if count == 2:
        default = (<tuple>args)[1]
        if is_key(default) or default is None or default is True or default is False:
            return key, type(default), default
    return False


cdef Py_ssize_t size_of(object key) except -1:
    """How many bytes the key takes under which a reply is kept."""
    if type(key) is tuple:
        return key[0].__sizeof__() + key[2].__sizeof__()
    return 0 if key is None else key.__sizeof__()


@cython.final
cdef class Reads:
    """What one proxy has read of its object."""

    def __init__(self, Session session, View view, Segment segment, size_t offset, readers):
        self.session = session
        self.view = view
        self.segment = segment
        self.word = <const uint64_t *>(segment.at + offset)
        self.tables = {name: {} for name in readers}
        # A user's class may name some of these alone: nothing is ever put into the others.
        self.items = self.tables.get("__getitem__", {})
        self.gets = self.tables.get("get", {})
        self.members = self.tables.get("__contains__", {})
        self.lengths = self.tables.get("__len__", {})
        self.attributes = {}

    def __dealloc__(self):
        global kept_bytes
        kept_bytes -= self.size

    cdef int keep(self, dict table, object key, Kept kept) except -1:
        """Keep a reply; the caller has taken its value."""
        global kept_bytes
        cdef Py_ssize_t size = len(kept.data) + size_of(key) + OVERHEAD
        if size > MOST_OF_ONE:
            return 0
        # What was kept before under the key is counted until all is cleared.
        if self.size + size > MOST_OF_PROXY:
            self.clear()
        if kept_bytes + size > MOST_OF_ALL:
            return 0
        if is_plain(kept.value):
            kept.data = None
        elif table is self.members or table is self.lengths:
            return 0        # whose values are not decoded anew
        else:
            kept.value = None
        kept_bytes += size
        self.size += size
        table[key] = kept
        return 0

    cdef int note_attribute(self, str name) except -1:
        """Note that an attribute which was read is the object's, and not the proxy's own."""
        table = self.tables.get("__getattribute__")
        kept = None if table is None else (<dict>table).get(name)
        if kept is not None:
            self.attributes[name] = kept
        return 0

    cdef int clear(self) except -1:
        global kept_bytes
        self.attributes.clear()
        for table in self.tables.values():
            (<dict>table).clear()
        kept_bytes -= self.size
        self.size = 0
        return 0

    cdef bint pays(self) noexcept:
        """Whether asking for replies that may be kept has paid; to be asked once for each."""
        cdef bint paid
        self.asked += 1
        if self.asked < ROUND:
            return True
        paid = 4 * self.hits >= self.asked
        self.hits = self.asked = 0
        return paid
