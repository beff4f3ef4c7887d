# cython: auto_pickle=False
"""Proxies that work on shared memory themselves.

A proxy asks the server once where its object's cell is (`Session.locate`).  From then
on a call is one atomic step on that cell, made here, as long as the server lives and the
process is in the session that holds the reference.  Whatever that does not cover goes the
way of every call, `_callmethod`, and meets the same cell in the server.

Users' code may run where an argument is converted to a number or compared with a name, in a
finalizer, a signal's handler, a trace function.  It may close the proxy, fork, end the manager.  So
a method converts its arguments first, then asks `at_hand`, and from there to the step calls nothing
that could run users' code, and allocates nothing that the garbage collector tracks.
"""

from fastmgr.client.proxy cimport ProxyCore
from fastmgr.client.session cimport Session, posting_channels
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.arena cimport View


cdef class CellCore(ProxyCore):
    """What a proxy knows of its object's cell."""

    _has_cell = True

    cdef bint find(self) except -1:
        """Ask the server for the cell, once in a session.  Users' code may run meanwhile."""
        cdef Session session
        cdef View view
        cdef Segment segment
        if not self._has_cell or type(self)._callmethod is not ProxyCore._callmethod:
            return False    # a user's proxy type wants every call
        if self._ref is None:
            if not self._awaits_reference:
                return False    # without a reference the server may reuse the cell
            self._awaits_reference = False
            self._take_reference()
        session = self._session()
        if posting_channels and session.has_posted():
            return False    # the calls of a thread are served in order
        view = session.view
        if view is not None:
            if view.none or (view.alive is not NULL and view.usable and not view.serves()):
                return False    # the call will find out how the server ended
            if view is self.view and view.usable:
                return self.cell is not NULL
        self.cell = NULL
        self.segment = None
        self.growths = 0 if view is None else view.growths()
        found = session.locate(self)
        view = session.view
        if found is not None:
            kind, segment, offset, size, about = found
            if not self.accepts(kind, size, about):
                found = None
        if self._ref is None:
            return False    # the proxy was closed meanwhile
        self.view = view
        if found is None:
            return False
        self.kind = kind
        self.size = size
        self.segment = segment
        self.cell = segment.at + <size_t>offset
        return True

    cdef bint accepts(self, int kind, size_t size, object about) except -1:
        """Whether this is the kind of cell the proxy can work on."""
        return False

    def _seen(self):
        """A text that shows what the cell holds; None where that takes a call of the server."""
        if posting_channels and self._session().has_posted():
            return None
        return self.spelled() if self.ready() else None

    cdef object spelled(self):
        """A text for `_seen`, of the cell at hand; None where the server has the value."""
        return None

    def _close(self):
        self.cell = NULL
        self.view = None
        self.segment = None
        self._awaits_reference = False
        ProxyCore._close(self)
