# cython: auto_pickle=False
"""What a client shares with its server by memory, and what it holds there.

Proxies work on their objects' cells by themselves, as long as the session's `View` is usable: it
ends with the session. Locks that were taken so are known to the server by the session's number.
"""

from cpython.ref cimport Py_DECREF, Py_INCREF

from fastmgr.client.channel cimport Channel
from fastmgr.client.connections cimport Connections
from fastmgr.client.fastchannel cimport FastChannel
from fastmgr.client.session cimport Outcome, Target
from fastmgr.link.stream cimport MAILBOX, OP_LOCATE
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.atomics cimport THREAD_BITS
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.view cimport View

from multiprocessing import util

from fastmgr.link.sockets import is_loss


cdef class SharingSession(Connections):
    """A session whose server may share its memory."""

    def reset(self):
        """Begin anew, with no connection."""
        self.has_nothing()
        Connections.reset(self)

    def retire(self):
        """The server has been shut down: there is nobody to return references to."""
        Connections.retire(self)
        self.has_nothing()

    # -- what is taken ------------------------------------------------------

    cdef void took(self) noexcept:
        """This process has taken a lock or permit: if it is killed the server is to know.

        So the session outlives the last proxy, and its connection the last thread that called.
        """
        if self.taken == 0:
            Py_INCREF(self)
        self.taken += 1

    cdef void gave(self, Py_ssize_t count) noexcept:
        """Locks or permits were given back; who took them may have been another process."""
        if count >= self.taken:
            self.has_nothing()
        elif count > 0:
            self.taken -= count

    cdef void has_nothing(self) noexcept:
        if self.taken:
            self.taken = 0
            Py_DECREF(self)

    cdef bint is_needed(self) noexcept:
        """Whether the server must see that this process lives."""
        return self.taken != 0 or len(self.holdings) != 0

    cdef uint64_t thread_number(self) except 0:
        """The calling thread's, among those of this process that have had to do with the server."""
        number = getattr(self.local, "number", None)
        if number is None:
            # 24 bits of it are sent: after 16 million threads it begins anew.
            self.local.number = number = self.threads % ((1 << THREAD_BITS) - 1) + 1
            self.threads += 1
        return number

    # -- the server's memory ----------------------------------------------

    cdef object perform(
        self, uint8_t op, uint8_t flags, Target target, object name, object args, object kwds
    ):
        """Make a request; return the reply to it."""
        raise NotImplementedError

    cdef void end_view(self) noexcept:
        """What proxies know of the server's memory is not to be relied on any more."""
        if self.view is not None:
            self.view.usable = False

    cpdef object locate(self, Target target):
        """Ask where an object's cell is; its kind, segment, offset, size, and what else is known.

        None where this process cannot have it.
        """
        cdef View view
        cdef Segment segment
        self.channel()      # with the first one there is a view
        view = self.view
        if view.none:
            return None
        found = self.perform(OP_LOCATE, 0, target, None, None, None)
        if found is False:
            view.none = True
        if not found or type(found) is Outcome:
            return None
        kind, number, offset, size, about = found
        if view.alive is NULL and self.segment(view, 0) is None:
            return None
        segment = self.segment(view, number)
        if segment is None or not view.usable or view is not self.view:
            return None
        segment.place(offset, size)
        return kind, segment, offset, size, about

    cdef Segment segment(self, View view, object number):
        """A segment, mapped now if it was not; None if that is impossible."""
        cdef Segment segment = view.segment(number)
        if segment is None:
            segment = self.attach(number)
            if segment is None:
                view.none = True
            else:
                view.keep(segment)
        return segment

    cdef Segment attach(self, object number):
        """Have a segment passed over the calling thread's channel; None if that is impossible."""
        cdef Channel channel = self.channel()
        try:
            return (<FastChannel>channel).attach(number)
        except BaseException as error:
            if not channel.usable:
                self.lose(channel, channel.interrupted)
            if not isinstance(error, MemoryError) and not is_loss(error):
                raise
            util.info("the manager's memory cannot be mapped: %s", error)

    cdef int have_mailbox(self, FastChannel channel) except -1:
        """Have a mailbox for the calling thread's channel, if there can be one."""
        cdef Segment segment
        channel.asked = True
        if not self.view.none:
            segment = self.attach(MAILBOX)
            if segment is not None:
                segment.forget_fd()
                channel.stream.attach_mailbox(segment, False)
        return 0
