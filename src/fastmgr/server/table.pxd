from cpython.object cimport PyObject

from fastmgr.link.system cimport int64_t, uint64_t
from fastmgr.memory.arena cimport Arena, Version

cpdef object key_of(object ident)

# What is counted of an object, or of a client.  Every number is changed under the GIL alone.
cdef struct Tally:
    uint64_t calls          # that have been answered, or need no answer
    uint64_t errors         # of these: which raised
    uint64_t bytes_in       # of their requests, with the headers
    uint64_t bytes_out      # of the replies
    int64_t ns              # nanoseconds in the calls, without the time that they waited

cdef class Entry:
    cdef readonly object obj
    cdef dict names                       # of the exposed methods: a set that keeps its order
    cdef dict methods                     # of a closed type, by name; None: the object is asked
    cdef public object method_to_typeid   # dict or None
    cdef readonly object ident            # str: how stock peers name it
    cdef readonly object key              # int handle, or the ident where it is no handle
    cdef public object typeid             # of the type as which it was shared first, or None
    cdef Tally tally
    cdef public Py_ssize_t refcount       # of clients; 0: only proxies in this process hold it
    # Whether the loop may serve its calls.  `parks` and `pins` never change; the engine changes the
    # others when it shares the entry and when it serves a call of it, on the loop or on a worker,
    # under the GIL.  `is_legal` says which combinations occur.
    cdef readonly bint parks              # the object is a primitive of `kinds`: no thread waits
    cdef readonly bint pins               # its methods may depend on the thread that runs them
    cdef public bint known                # only built-in code has filled it; it only ever falls
    cdef public bint carries              # set when it is shared: it may hold `Opaque` values
    cdef public bint opaque               # it may do so now; falls when all values have been read
    cdef bint shown                       # code in the server has it, and must meet no such values
    cdef Py_ssize_t carrying              # calls under way that may put one there
    cdef Py_ssize_t looking               # threads that are about to put values in their place
    # What clients may keep of the object ("Memory in place of calls" in docs/architecture.md).
    cdef frozenset readers                # methods that change nothing; None: they keep nothing
    cdef bint promised                    # a user has named the readers: `known` does not matter
    cdef bint created                     # `readers` was decided when the object was made
    cdef Version version                  # None: no client has asked for it
    cdef Py_ssize_t running               # calls under way, whether they change the object or not
    cdef object __weakref__

    cdef bint is_legal(self) noexcept
    cdef int settle_readers(self, frozenset readers, bint promised) except -1
    cdef Version version_for_clients(self, Arena arena)
    cdef int drop_version(self) except -1
    cpdef object reveal(self)
    cdef int take(self, object key) except -1

cdef class Forgetter:
    cdef dict found

cdef class Session:
    cdef readonly bytes id
    cdef readonly uint64_t number         # in the slots it holds (memory/atomics.h); used once
    cdef readonly int connections
    cdef bint clean                       # the process ends in order
    cdef bint broken                      # one of its connections has ended otherwise
    cdef size_t place                     # of its number in the arena; 0: the number has none
    cdef bint ended                       # the table holds nothing for it any more
    cdef dict held                        # key -> count
    cdef readonly set parked              # keys of the primitives that it may hold or wait for
    # What its first connection has said, and what all of them have done.
    cdef public object pid, host, process
    cdef Tally tally
    cdef size_t mapped                    # bytes of shared memory that it was passed

cdef enum:
    RECENT_ENTRIES = 64

cdef struct Recent:
    uint64_t handle
    PyObject *entry                       # borrowed from `entries`; NULL for none

cdef class Table:
    cdef readonly dict entries            # key -> Entry: what clients hold
    cdef readonly object local            # key -> Entry, weak: what proxies in this process hold
    cdef dict by_object                   # id(obj) -> KeyedRef of Entry: one object, one ident
    cdef Forgetter forgetter              # of what is in `by_object`
    cdef readonly dict sessions           # session id -> Session, of processes that are connected
    cdef uint64_t epoch                   # in the handles of this server's objects
    cdef uint64_t next_handle
    cdef public object revive             # key -> Entry or None: a named object that is not shared
    cdef public bint forgets              # whether this server has ever forgotten a name
    cdef uint64_t sessions_made
    cdef Tally gone                       # of clients that have left
    cdef Recent recent[RECENT_ENTRIES]    # by the low bits of the handle

    cdef Entry find(self, object key)
    cdef Entry at(self, uint64_t handle)
    cdef void forget_recent(self) noexcept
    cpdef Entry lookup(self, object ident)
    cpdef object missing(self, object ident)
    cdef Entry entry_of(self, object obj)
    cdef object new_handle(self)
    cdef object reference_to(self, Entry entry)
    cpdef object add(
        self, object obj, object exposed, object method_to_typeid, bint known, uint64_t handle=*
    )
    cpdef int retain(self, object key, Py_ssize_t count=*) except -1
    cpdef object release(self, object key, Py_ssize_t count=*)
    cdef Tally *tally_elsewhere(self, uint64_t handle) noexcept
    cdef Session join(self, bytes session_id)
    cdef int leave(self, Session session) except -1
    cdef list forsake(self, Session session)
    cdef int note_parked(self, Session session, Entry entry) except -1
    cdef object session_retain(self, Session session, object key)
    cdef object session_release(self, Session session, object key, Py_ssize_t count)


cdef inline void tell(Tally *tally, size_t came, size_t sent, bint failed) noexcept nogil:
    """Count a call."""
    tally.calls += 1
    tally.errors += failed
    tally.bytes_in += came
    tally.bytes_out += sent


cdef inline void add_tally(Tally *to, const Tally *tally) noexcept:
    """Add what was counted of one client to what is counted of several."""
    to.calls += tally.calls
    to.errors += tally.errors
    to.bytes_in += tally.bytes_in
    to.bytes_out += tally.bytes_out
    to.ns += tally.ns


cdef inline Tally *tally_at(Table table, uint64_t handle) noexcept:
    """What is counted of the object at a handle; NULL: there is none.  See `Table.at`."""
    cdef Recent *recent = &table.recent[handle % RECENT_ENTRIES]
    if recent.entry is not NULL and recent.handle == handle:
        return &(<Entry>recent.entry).tally
    return table.tally_elsewhere(handle)
