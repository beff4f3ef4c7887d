"""Calls that wait; and what replies gave, until the client is known to have taken it.

A client whose thread was interrupted in a call says so in its goodbye.  The server then takes back
what the replies to that call and to those behind it gave.
"""

cimport cython
from libc.stdint cimport int32_t, int64_t

from fastmgr.kinds.waits cimport Primitive
from fastmgr.link.stream cimport OP_ERROR, OP_RETURN
from fastmgr.server.connection cimport CLOSE, HAND_OFF, PARK
from fastmgr.server.driver cimport is_plain
from fastmgr.server.replies cimport is_oneway
from fastmgr.wire.opaque cimport Opaque

cdef extern from "Python.h":
    const Py_ssize_t PY_SSIZE_T_MAX

from contextlib import suppress


@cython.final
@cython.freelist(8)
cdef class Gift:
    """What the reply to a call gave, until the client is known to have taken it."""


cdef bint holds_unread(object value) except -1:
    """Whether what a primitive gave is a value that the server has not read, or a list of some."""
    return type(value) is Opaque or type(value) is list and any(
        [type(item) is Opaque for item in value])


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
        """Note that the reply to the current call gives something, which may be taken back."""
        cdef Gift gift = Gift()
        gift.call = conn.stream.header.call
        if conn.in_transit is None:
            conn.in_transit = [gift]
        else:
            conn.in_transit.append(gift)
        return gift

    cdef bint share(self, Conn conn, Entry entry, bint anonymous) except -1:
        """Book the reference that comes with the reply; False where nobody is left to read it."""
        cdef list keys = [entry.key]
        cdef Gift gift = self.note(conn)
        if conn.is_gone():
            self.table.release(entry.key)       # its process may live, and not know of it
            return False
        if not anonymous and self.table.session_retain(conn.session, entry.key) is not None:
            return False
        gift.keys = keys
        gift.anonymous = anonymous
        return True

    cdef bint retain(self, Conn conn, list keys) except -1:
        """Note references that the reply gives the session; False where nobody will read it."""
        cdef Gift gift = self.note(conn)
        gift.keys = keys
        return not self.is_late(conn, gift)

    cdef bint lend(self, Conn conn, Gift gift, Waiter waiter, object value) except -1:
        """Note what a primitive gave to the waiter; False where nobody is left to take it."""
        gift.handle = conn.stream.header.handle
        gift.waiter = waiter
        gift.value = value
        if self.is_late(conn, gift):
            return False
        if conn.taken is not None:
            note_taking(conn.taken, gift)
        return True

    cdef bint is_late(self, Conn conn, Gift gift) except -1:
        """Take the gift back if the client has left, maybe this moment; return whether it has."""
        if not conn.is_gone():
            return False
        # `left` has been called for the connection, and will not be called again.
        conn.untaken = gift.call
        self.take_back(conn, [gift], False)
        return True

    cdef int taken(self, Conn conn, bint on_loop) except -1:
        """The client has what it was given: it has sent another request."""
        cdef list given
        given, conn.in_transit = conn.in_transit, None
        conn.taken = None
        if on_loop and given is not None:
            self.drop(given)
        return 0

    cdef int taken_but_proxies(self, Conn conn, bint on_loop) except -1:
        """The same, but for the proxies in the last reply: it asks for them one after another."""
        cdef list proxies = [thing for thing in conn.in_transit if type(thing) is not Gift]
        self.taken(conn, on_loop)
        conn.in_transit = proxies or None
        return 0

    cdef int returned(self, Conn conn, object count) except -1:
        """The current call gave back `count` things that its pipeline took before, last first."""
        cdef list gifts
        cdef Gift gift
        if conn.taken is None:
            conn.taken = {}
            for thing in conn.in_transit or ():
                if type(thing) is Gift and (<Gift>thing).waiter is not None:
                    note_taking(conn.taken, thing)
        gifts = conn.taken.get(conn.stream.header.handle)
        if gifts:
            left = count if type(count) is int else PY_SSIZE_T_MAX
            while gifts and left > 0:
                left -= 1
                gift = gifts[len(gifts) - 1]
                if gift.waiter.most:        # a list of several
                    gift.value.pop()
                if not gift.waiter.most or not gift.value:
                    gift.waiter = None
                    gifts.pop()
        return 0

    cdef int left(self, Conn conn) except -1:
        """The client is gone: take back what it does not have."""
        cdef list given
        given, conn.in_transit = conn.in_transit, None
        conn.taken = None
        if given is not None:
            if conn.untaken or conn.cut_off:
                self.take_back(conn, given, conn.cut_off)
            self.drop(given)
        return 0

    cdef int take_back(self, Conn conn, list given, bint cut_off) except -1:
        """Undo what the replies gave that an interrupted client has not read.

        That is all of it if its pipeline was `cut_off`.  The last comes first, so that the items of
        a queue are in their order again.
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
                    entry.opaque = entry.opaque or holds_unread(gift.value)
                    assert entry.is_legal()
                    waiter.value, gift.value = gift.value, None
                    waiter.cut_off = cut_off
                    (<Primitive>entry.obj).take_back(waiter)
                    waiter.value = None     # a timer may keep the waiter
            for key in keys or ():
                with suppress(KeyError, AssertionError):
                    dead.append(
                        self.table.release(key) if gift.anonymous
                        else self.table.session_release(conn.session, key, 1))
        return self.disposal.drop([entry for entry in dead if entry is not None])

    cdef int drop(self, list given) except -1:
        """Drop gifts on the loop."""
        for thing in given:
            if type(thing) is Gift and (<Gift>thing).is_hard:
                self.disposal.doom((<Gift>thing).value)
        return 0


@cython.final
cdef class Parking:
    """The calls of primitives that may have to wait."""

    def __init__(self, Loop loop, Replies replies, Gifts gifts, Disposal disposal):
        self.loop = loop
        self.replies = replies
        self.gifts = gifts
        self.disposal = disposal

    cdef int begin(
        self, Conn conn, Entry entry, Driver by, object name, object args, object kwds
    ) except -1:
        """Make a call that may have to wait: reply now, or park it; a pinned worker waits."""
        cdef Waiter waiter
        cdef int64_t waited = conn.waited
        try:
            if conn.pinned:
                waiter = Waiter(conn)
                (<Primitive>entry.obj).wait_here(waiter, name, args, kwds or {})
                conn.began += conn.waited - waited
            else:
                waiter = Waiter(conn, self.loop.finished)
                # This comes first: another thread may finish the waiter once it is queued.
                conn.waiter = waiter
                waiter.method = name
                (<Primitive>entry.obj).begin(waiter, name, args, kwds or {})
        except Exception as error:
            conn.waiter = None
            return self.replies.reply(conn, by, OP_ERROR, 0, error)
        if waiter.at is not None and not conn.pinned:
            self.loop.set_timer(waiter)
            return PARK
        conn.waiter = None
        if waiter.failed:
            return self.replies.reply(conn, by, OP_ERROR, 0, waiter.value)
        value, waiter.value = waiter.value, None
        return self.reply_given(conn, by, waiter, value)

    cdef int answer(self, Conn conn) except -1:
        """Reply to a parked call that is finished; the loop calls this."""
        cdef Waiter waiter = conn.waiter
        conn.waiter = None
        conn.began = 0      # the call has waited: that is counted elsewhere
        # A timer may keep the waiter until its deadline, but not what the waiter was given.
        value, waiter.value = waiter.value, None
        self.discard(waiter)
        if waiter.failed:
            return self.replies.reply(conn, self.loop, OP_ERROR, 0, value)
        return self.reply_given(conn, self.loop, waiter, value)

    cdef int end(self, Conn conn) except -1:
        """End the wait of a connection, if there is one: its client is gone."""
        cdef Waiter waiter = conn.waiter
        if waiter is None or waiter.at is None:
            return 0
        conn.serve_no_more()    # its worker must not make the calls that follow
        if waiter.finished:
            if not waiter.failed:
                waiter.at.take_back(waiter)    # it was given something this moment
            waiter.failed, waiter.value = True, None
        waiter.at.cancel(waiter)
        conn.waiter = None
        return self.discard(waiter)

    cdef int reply_given(self, Conn conn, Driver by, Waiter waiter, object value) except -1:
        """Reply with `value`; note it as a gift where the primitive gave it to the waiter."""
        cdef Gift gift
        cdef int verdict
        if (
            waiter.puts or is_oneway(conn)
            or value is False and waiter.method == "acquire"    # nothing was given
        ):
            return self.replies.reply(conn, by, OP_RETURN, 0, value)
        gift = self.gifts.note(conn)
        if not self.gifts.lend(conn, gift, waiter, value):
            return CLOSE
        conn.apart = waiter.most > 0
        verdict = self.replies.reply(conn, by, OP_RETURN, 0, value)
        gift.is_hard = (verdict == HAND_OFF or not by.on_loop) and not is_plain(value)
        return verdict

    cdef int discard(self, Waiter waiter) except -1:
        """Drop the item that a `put` brought and did not need any more."""
        item, waiter.item = waiter.item, None
        return self.disposal.doom(item)
