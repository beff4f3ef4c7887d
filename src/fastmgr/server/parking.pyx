"""Calls that wait: begun, parked, answered, ended."""

cimport cython

from fastmgr.kinds.waits cimport Primitive
from fastmgr.link.stream cimport OP_ERROR, OP_RETURN
from fastmgr.server.connection cimport CLOSE, HAND_OFF, PARK
from fastmgr.server.disposal cimport Gift, is_plain
from fastmgr.server.replies cimport is_oneway


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
        """A call that may have to wait: it is answered now, or parked, or a pinned worker waits."""
        cdef Waiter waiter
        try:
            if conn.pinned:
                waiter = Waiter(conn)
                (<Primitive>entry.obj).wait_here(waiter, name, args, kwds or {})
            else:
                waiter = Waiter(conn, self.loop.finished)
                # Before it is queued, for it may be finished by another thread at once.
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
        # A waiter may stay among the timers until its deadline: not with what it was given.
        value, waiter.value = waiter.value, None
        self.discard(waiter)
        if waiter.failed:
            return self.replies.reply(conn, self.loop, OP_ERROR, 0, value)
        return self.reply_given(conn, self.loop, waiter, value)

    cdef int end(self, Conn conn) except -1:
        """End the wait of a connection whose client does not wait any more, if there is one."""
        cdef Waiter waiter = conn.waiter
        if waiter is None or waiter.at is None:
            return 0
        conn.serve_no_more()    # its worker makes none of the calls that were to come after it
        if waiter.finished:
            if not waiter.failed:
                waiter.at.take_back(waiter)    # it was given something this moment
            waiter.failed, waiter.value = True, None
        waiter.at.cancel(waiter)
        conn.waiter = None
        return self.discard(waiter)

    cdef int reply_given(self, Conn conn, Driver by, Waiter waiter, object value) except -1:
        """Reply with `value`, which the primitive may have given to the waiter."""
        cdef Gift gift
        cdef int verdict
        if (
            waiter.method == "put" or is_oneway(conn)
            or value is False and waiter.method == "acquire"    # nothing was given
        ):
            return self.replies.reply(conn, by, OP_RETURN, 0, value)
        gift = self.gifts.note(conn)
        if not self.gifts.lend(conn, gift, waiter, value):
            return CLOSE
        verdict = self.replies.reply(conn, by, OP_RETURN, 0, value)
        gift.is_hard = (verdict == HAND_OFF or not by.on_loop) and not is_plain(value)
        return verdict

    cdef int discard(self, Waiter waiter) except -1:
        """Drop what a call brought that came to nothing, on a worker: it may be a user's."""
        item, waiter.item = waiter.item, None
        return self.disposal.doom(item)
