"""The reference table: what the server shares, and who holds it.

A handle is ``epoch << 32 | serial``: the epoch is random for each table and a serial is never used
twice, so a proxy that outlived its object, or its server, meets nothing rather than a stranger.
Stock peers see the handle as the hex string that the stdlib calls ident.

An entry lives while a client's reference is counted in it, or while a proxy inside this process (in
a shared container) holds it.  That proxy has an ordinary strong reference to the entry, so the
garbage collector frees containers that hold themselves.

Every method runs to its end under the GIL.  Between steps that must agree it allocates nothing and
runs no Python code, in which another thread may take its turn.  An entry whose last reference is
returned goes to the caller, which drops it outside: dropping it runs users' destructors.
"""

cimport cython
from cpython.dict cimport PyDict_GetItem
from libc.string cimport memset

import os
from weakref import KeyedRef, WeakValueDictionary

from fastmgr.kinds import rows
from fastmgr.stock.dialect import FORGOTTEN, RESTARTED

# Filled as types are declared.
cdef set RUN_ON_LOOP = rows.RUN_ON_LOOP
cdef set PARKING = rows.PARKING
cdef set ANY_THREAD = rows.ANY_THREAD
cdef dict METHODS_OF = rows.METHODS_OF
cdef dict UNREAD = rows.UNREAD


@cython.final
cdef class Entry:
    """One shared object and what may be done with it."""

    def __init__(self, obj, exposed, method_to_typeid, key, bint known=False):
        self.obj = obj
        self.names = dict.fromkeys(exposed)
        self.method_to_typeid = method_to_typeid
        self.take(key)
        self.methods = METHODS_OF.get(type(obj))
        self.parks = type(obj) in PARKING
        self.known = known and (self.parks or type(obj) in RUN_ON_LOOP)
        self.pins = type(obj) not in ANY_THREAD
        assert self.is_legal()

    cdef bint is_legal(self) noexcept:
        """Whether the flags agree; to be asserted where one has been changed.

        Where an object's methods may depend on their thread, the loop runs, parks and carries
        nothing.  Unread values are held only by objects of types whose row says how.
        """
        if self.pins and (self.parks or self.known or self.carries or self.opaque):
            return False
        if (self.opaque or self.carrying) and type(self.obj) not in UNREAD:
            return False
        return self.carrying >= 0 and self.looking >= 0 and (
            self.version is None or self.readers is not None)

    cdef int settle_readers(self, frozenset readers, bint promised) except -1:
        """Say which methods only read, when a type's maker has returned the object.

        An object that another type has returned before is one that may change in ways which nobody
        here sees.
        """
        if self.created and (readers != self.readers or promised != self.promised):
            self.reveal()
        elif not self.created:
            self.readers, self.promised = readers, promised
        self.created = True
        return 0

    cdef Version version_for_clients(self, Arena arena):
        """The object's version, made if there is none; None where clients are to keep nothing."""
        cdef Version version = self.version
        if version is None and self.readers is not None and (self.known or self.promised):
            version = arena.new_version()
            # A call that has begun without a version would change the object unseen.
            if self.running != 0 or self.readers is None:
                return None
            if self.version is None:
                self.version = version
        return self.version

    cpdef object reveal(self):
        """Code in the server may change the object from now on: clients keep nothing of it."""
        self.readers = None
        self.created = True
        self.drop_version()

    cdef int drop_version(self) except -1:
        """Do without a version until a client asks for one; what clients have kept ends."""
        if self.version is not None:
            self.version.retire()
            self.version = None
        return 0

    cdef int take(self, object key) except -1:
        """Be found at this key; to be called only while nobody knows the entry by another one."""
        self.key = key
        self.ident = key if isinstance(key, str) else "%x" % key
        return 0

    @property
    def exposed(self):
        """The names of the methods that may be called, in the order in which they were given."""
        return self.names.keys()


@cython.final
cdef class Forgetter:
    """Takes the weak reference to an entry out of `found` when the entry has gone."""

    def __init__(self, dict found):
        self.found = found

    def __call__(self, reference):
        cdef object key = reference.key
        if PyDict_GetItem(self.found, key) is <PyObject *>reference:
            del self.found[key]


@cython.final
cdef class Session:
    """One client process: its connections and the references it holds."""

    def __init__(self, bytes session_id):
        self.id = session_id
        self.held = {}
        self.parked = set()


cpdef object key_of(object ident):
    """The table's key for a stock ident: a handle, or the string itself."""
    if isinstance(ident, int):
        return ident
    try:
        handle = int(ident, 16)
    except (TypeError, ValueError):
        return ident
    return handle if "%x" % handle == ident else ident


@cython.final
cdef class Table:
    """The shared objects of one server."""

    def __init__(self):
        self.entries = {}
        self.local = WeakValueDictionary()
        self.by_object = {}
        self.forgetter = Forgetter(self.by_object)
        self.sessions = {}
        # 30 bits: above them is the bit of named objects (`rows.NAMED`).
        self.epoch = <uint64_t>int.from_bytes(os.urandom(4), "little") & 0x3fffffff
        self.next_handle = (self.epoch << 32) + 1

    # -- objects ----------------------------------------------------------

    cdef Entry find(self, object key):
        """The entry at a handle or foreign ident, or None."""
        cdef PyObject *found = PyDict_GetItem(self.entries, key)
        if found is not NULL:
            return <Entry>found
        return self.local.get(key)

    cdef Entry at(self, uint64_t handle):
        """What `find` gives for a handle, in most cases without making an int of it.

        `recent` saves 480 of the 5,600 instructions of a call of `dict.get` (in CPython 3.11).
        """
        cdef Recent *recent = &self.recent[handle % RECENT_ENTRIES]
        cdef PyObject *found
        if recent.entry is not NULL and recent.handle == handle:
            return <Entry>recent.entry
        found = PyDict_GetItem(self.entries, handle)
        if found is NULL:
            return self.local.get(handle)
        recent.handle = handle
        recent.entry = found
        return <Entry>found

    cdef Tally *tally_elsewhere(self, uint64_t handle) noexcept:
        """The same as `tally_at`, for an object that `recent` does not have."""
        cdef Entry entry = self.at(handle)
        return NULL if entry is None else &entry.tally      # the table holds the entry

    cdef void forget_recent(self) noexcept:
        """To be called before an entry is taken out of `entries` or replaced there: see `at`."""
        memset(self.recent, 0, sizeof(self.recent))

    cpdef Entry lookup(self, object ident):
        """Return the entry that a stock ident names; KeyError where there is none."""
        cdef Entry entry = self.find(key_of(ident))
        if entry is None:
            raise self.missing(ident)
        return entry

    cpdef object missing(self, object ident):
        """The KeyError for an ident that no object has here, with the reason."""
        cdef object key = key_of(ident)
        if isinstance(key, int):
            ident = "%x" % key
            if key >> 32 == self.epoch:
                reason = "its last reference was returned"
            elif not key >> 62:
                reason = f"{RESTARTED}; make it anew"
            else:
                reason = f"{FORGOTTEN if self.forgets else RESTARTED}; make it anew, with its name"
            return KeyError(f"{ident}: no such object: {reason}")
        return KeyError(ident)

    cdef Entry entry_of(self, object obj):
        """The entry of an object, or None; no Python code runs here."""
        cdef PyObject *reference = PyDict_GetItem(self.by_object, id(obj))
        return None if reference is NULL else (<object>reference)()

    cdef object new_handle(self):
        """A handle that no object had before."""
        cdef object handle = self.next_handle
        self.next_handle += 1
        return handle

    cdef object reference_to(self, Entry entry):
        """What `by_object` holds of an entry."""
        return KeyedRef(entry, self.forgetter, id(entry.obj))

    cpdef object add(
        self, object obj, object exposed, object method_to_typeid, bint known, uint64_t handle=0
    ):
        """Share `obj` and return its entry, with one reference counted.

        An object that is shared already keeps its entry, so that one object has one ident and one
        count; what is exposed is then replaced, as in the stdlib.  `known` says that no user's code
        made or filled the object; `handle` is the one that a named object has in every server.
        """
        cdef dict names = dict.fromkeys(exposed)
        cdef object key = handle
        cdef object reference
        cdef Entry fresh = None
        cdef Entry entry = self.entry_of(obj)
        if entry is None:
            if handle == 0 or self.find(handle) is not None:
                key = self.new_handle()
            fresh = Entry(obj, names, method_to_typeid, key, known)
            reference = self.reference_to(fresh)
            # Another thread may have shared the object meanwhile; from here on no thread can.
            entry = self.entry_of(obj)
            if entry is None:
                entry = fresh
                if key in self.entries:     # another object has the name by now
                    entry.take(self.new_handle())
                self.by_object[id(obj)] = reference
        if entry is not fresh:
            entry.names = names
            entry.method_to_typeid = method_to_typeid
            entry.known = entry.known and known
        entry.refcount += 1
        self.forget_recent()        # `place` may have put another entry there
        self.entries[entry.key] = entry
        return entry

    def place(self, ident, obj, exposed, method_to_typeid):
        """Put an entry under an ident that a user's own ``create`` chose."""
        cdef object key = key_of(ident)
        cdef Entry fresh = Entry(obj, exposed, method_to_typeid, key)
        cdef Entry old = self.entries.get(key)
        if old is not None:
            fresh.refcount = old.refcount
            self.forget_recent()
        self.by_object[id(obj)] = self.reference_to(fresh)
        self.entries[key] = fresh
        return fresh

    def remove(self, ident):
        """Take an entry out, whoever holds it, and return it (KeyError if none)."""
        self.forget_recent()
        return self.entries.pop(key_of(ident))

    def stash(self, ident):
        """Let a proxy in this process hold the entry that `ident` names; return it."""
        cdef Entry entry = self.lookup(ident)
        self.local[entry.key] = entry
        return entry

    cpdef int retain(self, object key, Py_ssize_t count=1) except -1:
        """Count references to the object at `key`; KeyError where there is none."""
        cdef Entry entry = self.find(key_of(key))
        if entry is None and self.revive is not None:
            entry = self.revive(key_of(key))
        if entry is None:
            raise self.missing(key)
        entry.refcount += count
        assert entry.refcount > 0 and count > 0
        if entry.refcount == count and entry.key not in self.entries:
            # Until now only a proxy in this process held the entry.
            self.entries[entry.key] = entry
        return 0

    cpdef object release(self, object key, Py_ssize_t count=1):
        """Return references; if those were the last, return the entry for the caller to drop.

        KeyError where there is no such object, AssertionError where fewer have been counted.
        """
        key = key_of(key)
        cdef PyObject *found = PyDict_GetItem(self.entries, key)
        cdef Entry entry
        if found is NULL:
            if key in self.local:
                return None     # only a proxy in this process holds the entry: nothing is counted
            raise KeyError(key)
        entry = <Entry>found
        if entry.refcount < count:
            raise AssertionError(
                f"Id {entry.ident} ({entry.obj!r}) has refcount {entry.refcount}, not {count}+"
            )
        entry.refcount -= count
        if entry.refcount:
            return None
        self.forget_recent()
        del self.entries[key]
        return entry

    # -- sessions ---------------------------------------------------------

    cdef Session join(self, bytes session_id):
        """The session of that id, with one connection more."""
        cdef Session session = self.sessions.get(session_id)
        if session is None:
            session = Session(session_id)
            self.sessions_made += 1
            session.number = self.sessions_made
            self.sessions[session_id] = session
        session.connections += 1
        return session

    cdef int leave(self, Session session) except -1:
        """Count one connection less; return 1 after the last: then the caller has to `forsake`."""
        session.connections -= 1
        if session.connections:
            return 0
        session.ended = True
        self.sessions.pop(session.id, None)
        return 1

    cdef int note_parked(self, Session session, Entry entry) except -1:
        """Note that the session may hold the primitive, or wait for it, until the session ends."""
        if len(session.parked) >= 2 * len(self.entries) + 1000:     # most of these are gone
            # The set changes in place: other threads may add to it while `find` looks.
            for key in list(session.parked):
                if self.find(key) is None:
                    session.parked.discard(key)
        session.parked.add(entry.key)
        return 0

    cdef list forsake(self, Session session):
        """Return every reference of a session that has ended, and the entries to drop."""
        cdef dict held
        cdef list dead = []
        held, session.held = session.held, {}
        for key, count in held.items():
            try:
                entry = self.release(key, count)
            except (KeyError, AssertionError):
                continue        # a server's hooks took the entry out before
            if entry is not None:
                dead.append(entry)
        return dead

    cdef object session_retain(self, Session session, object key):
        """Book on `session` a reference that its entry counts already.

        If the session has ended meanwhile, return the reference at once, with `release`'s result.
        """
        if session.ended:
            return self.release(key)
        session.held[key] = session.held.get(key, 0) + 1
        return None

    cdef object session_release(self, Session session, object key, Py_ssize_t count):
        """Return `count` references of the session, never more than it holds."""
        cdef Py_ssize_t held = session.held.get(key, 0)
        if count > held:
            count = held
        if count <= 0:
            return None
        if count == held:
            del session.held[key]
        else:
            session.held[key] = held - count
        return self.release(key, count)
