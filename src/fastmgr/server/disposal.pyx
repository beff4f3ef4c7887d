"""What replies gave, until the client is known to have taken it, and dropping it on workers.

A client whose thread was interrupted in a call says so in its goodbye.  What the reply to that
call, and those behind it, gave is then taken back.  A worker drops objects whose destructor may be
a user's, or take long.
"""

cimport cython
from libc.stdint cimport int32_t

from fastmgr.kinds.waits cimport Primitive
from fastmgr.memory.cells cimport Celled
from fastmgr.wire.opaque cimport Opaque

from contextlib import suppress

cdef frozenset PLAIN = frozenset((bool, int, float, str, bytes, Opaque))


cdef bint is_hard_to_drop(Entry entry) except -1:
    """Whether the loop must not drop the entry."""
    return not entry.known or isinstance(entry.obj, Celled) and (<Celled>entry.obj).is_heavy(True)


cdef bint is_plain(object value) noexcept:
    """Whether no destructor of a user's can hang on the value."""
    return value is None or type(value) in PLAIN


@cython.final
cdef class Disposal:
    """What is to be dropped, and how many threads are at it."""

    def __init__(self, workers):
        self.workers = workers
        self.doomed = []

    cdef int drop(self, list dead) except -1:
        """Drop entries, on a worker if one of them is hard to drop."""
        for entry in dead:
            if is_hard_to_drop(entry):
                return self.drop_elsewhere(dead)
        return 0

    cdef int drop_elsewhere(self, list dead) except -1:
        """Drop what is in the list on a worker."""
        self.disposing += 1
        try:
            self.workers.submit(self.drop_here, "disposal", dead)
        except BaseException:
            self.disposing -= 1     # there is no thread for it
            raise
        return 0

    def drop_here(self, list dead):
        """Drop what is in the list."""
        try:
            dead.clear()
        finally:
            self.disposing -= 1

    cdef int doom(self, object value) except -1:
        """Have a worker drop a value that nobody takes, unless no user's destructor hangs on it."""
        if not is_plain(value):
            self.doomed.append(value)
        return 0

    cdef int turn(self) except -1:
        """The loop's turn is over: none of its frames has a reference to what was doomed."""
        cdef list doomed
        if self.doomed:
            doomed, self.doomed = self.doomed, []
            self.drop_elsewhere(doomed)
        return 0


@cython.final
@cython.freelist(8)
cdef class Gift:
    """What the reply to a call gave, until the client is known to have taken it."""


cdef int note_taking(dict taken, Gift gift) except -1:
    if gift.waiter.depth == 0:      # not a condition's `wait`
        taken.setdefault(gift.handle, []).append(gift)
    return 0


@cython.final
cdef class Gifts:
    """The gifts of all connections: each has its own in `Conn.in_transit`."""

    def __init__(self, Table table, Disposal disposal):
        self.table = table
        self.disposal = disposal

    cdef Gift note(self, Conn conn):
        """The reply to the current call gives something that an interrupted client may not keep."""
        cdef Gift gift = Gift()
        gift.call = conn.stream.header.call
        if conn.in_transit is None:
            conn.in_transit = [gift]
        else:
            conn.in_transit.append(gift)
        return gift

    cdef bint share(self, Conn conn, Entry entry, bint anonymous) except -1:
        """Book the reference that comes with a reply; False where nobody is left to read that."""
        cdef list keys = [entry.key]
        cdef Gift gift = self.note(conn)
        if conn.is_gone():
            self.table.release(entry.key)       # the process may live, which was interrupted
            return False
        if not anonymous and self.table.session_retain(conn.session, entry.key) is not None:
            return False
        gift.keys = keys
        gift.anonymous = anonymous
        return True

    cdef bint retain(self, Conn conn, list keys) except -1:
        """The reply gives references that the session holds; False where nobody reads it."""
        cdef Gift gift = self.note(conn)
        gift.keys = keys
        return not self.is_late(conn, gift)

    cdef bint lend(self, Conn conn, Gift gift, Waiter waiter, object value) except -1:
        """A primitive gave `value` to the waiter; False where nobody is left to take it."""
        gift.handle = conn.stream.header.handle
        gift.waiter = waiter
        gift.value = value
        if self.is_late(conn, gift):
            return False
        if conn.taken is not None:
            note_taking(conn.taken, gift)
        return True

    cdef bint is_late(self, Conn conn, Gift gift) except -1:
        """Whether the client has left already, maybe this moment; then the gift is taken back."""
        if not conn.is_gone():
            return False
        # `left` has been called for the connection, and is not called again.
        conn.untaken = gift.call
        self.take_back(conn, [gift], False)
        return True

    cdef int taken(self, Conn conn, bint on_loop) except -1:
        """The client has taken what it was given, or shall have it."""
        cdef list given
        given, conn.in_transit = conn.in_transit, None
        conn.taken = None
        if on_loop and given is not None:
            self.drop(given)
        return 0

    cdef int taken_but_proxies(self, Conn conn, bint on_loop) except -1:
        """The same, but for the proxies in the last reply.

        The client may ask for the reference of one before it has read the others.
        """
        cdef list proxies = [thing for thing in conn.in_transit if type(thing) is not Gift]
        self.taken(conn, on_loop)
        conn.in_transit = proxies or None
        return 0

    cdef int returned(self, Conn conn, object count) except -1:
        """The current call has given back what its pipeline took before, the last first."""
        cdef list gifts
        if conn.taken is None:
            conn.taken = {}
            for thing in conn.in_transit or ():
                if type(thing) is Gift and (<Gift>thing).waiter is not None:
                    note_taking(conn.taken, thing)
        gifts = conn.taken.get(conn.stream.header.handle)
        if gifts:
            if type(count) is not int or count > len(gifts):
                count = len(gifts)
            for _ in range(<Py_ssize_t>count):
                (<Gift>gifts.pop()).waiter = None
        return 0

    cdef int left(self, Conn conn) except -1:
        """The client is gone: take back what it has not taken."""
        cdef list given
        given, conn.in_transit = conn.in_transit, None
        conn.taken = None
        if given is not None:
            if conn.untaken or conn.cut_off:
                self.take_back(conn, given, conn.cut_off)
            self.drop(given)
        return 0

    cdef int take_back(self, Conn conn, list given, bint cut_off) except -1:
        """Undo what the replies gave that the client, which was interrupted, has not taken.

        All of it if the pipeline was `cut_off`: its client gets no reply.  The last comes first, so
        that the items of a queue are in their order again.
        """
        cdef list dead = []
        cdef list keys
        cdef Entry entry
        cdef Gift gift
        cdef Waiter waiter
        for thing in reversed(given):
            if type(thing) is not Gift:
                continue
            gift = thing
            if not cut_off and <int32_t>(gift.call - conn.untaken) < 0:
                continue
            waiter, gift.waiter = gift.waiter, None
            keys, gift.keys = gift.keys, None
            if waiter is not None:
                entry = self.table.find(gift.handle)
                if entry is not None and entry.parks:
                    entry.opaque = entry.opaque or type(gift.value) is Opaque
                    assert entry.is_legal()
                    waiter.value, gift.value = gift.value, None
                    waiter.cut_off = cut_off
                    (<Primitive>entry.obj).take_back(waiter)
                    waiter.value = None     # timers may keep the waiter
            for key in keys or ():
                with suppress(KeyError, AssertionError):
                    dead.append(
                        self.table.release(key) if gift.anonymous
                        else self.table.session_release(conn.session, key, 1))
        return self.disposal.drop([entry for entry in dead if entry is not None])

    cdef int drop(self, list given) except -1:
        """Drop gifts from the loop."""
        for thing in given:
            if type(thing) is Gift and (<Gift>thing).is_hard:
                self.disposal.doom((<Gift>thing).value)
        return 0
