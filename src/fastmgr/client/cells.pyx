# cython: auto_pickle=False
"""Proxies that work on shared memory themselves.

A proxy asks the server once where its object's cell is (`ClientSession.locate`).  From then
on a call is one atomic step on that cell, made here, as long as the server lives and the
process is in the session that holds the reference.  Whatever that does not cover goes the
way of every call, `_callmethod`, and meets the same cell in the server.

Users' code may run wherever an argument only stands for a number or a name, in a finalizer, a
signal's handler, a trace function.  It may close the proxy, fork, end the manager.  So arguments
are made plain first, then `at_hand` is asked, and from there to the step nothing is called that
could run any, nor allocates what the garbage collector tracks.
"""

from fastmgr.client.channel cimport posting_channels
from fastmgr.client.proxy cimport ProxyCore
from fastmgr.client.session cimport ClientSession
from fastmgr.memory.segments cimport Segment, fm_growths
from fastmgr.memory.view cimport View


cdef class CellCore(ProxyCore):
    """What a proxy knows of its object's cell."""

    _has_cell = True

    cdef bint find(self) except -1:
        """Look for the cell, not twice in vain in one session; any code may run meanwhile."""
        cdef ClientSession session
        cdef View view
        cdef Segment segment
        if not self._has_cell or type(self)._callmethod is not ProxyCore._callmethod:
            return False    # a user's proxy wants to see its calls
        if self._ref is None:
            if not self._awaits_reference:
                return False    # nothing keeps the cell ours
            self._awaits_reference = False
            self._take_reference()
        session = self._session()
        if posting_channels and session.has_posted():
            return False    # the calls of a thread are served in order
        view = session.view
        if view is not None:
            if view.none or (view.alive is not NULL and view.usable and not view.serves()):
                return False    # the call will find out what has become of the server
            if view is self.view and view.usable:
                return self.cell is not NULL
        self.cell = NULL
        self.segment = None
        self.growths = (
            fm_growths(view.alive) if view is not None and view.alive is not NULL else 0)
        found = session.locate(self._id, self._handle)
        view = session.view
        if found is not None:
            kind, segment, offset, size, about = found
            if not self.accepts(kind, size, about):
                found = None
        if self._ref is None:
            return False    # it was closed meanwhile
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
        """What the cell holds, for the eye; None where that would take a call of the server."""
        cdef ClientSession session
        if posting_channels:
            session = self._session()
            if session.has_posted():
                return None
        return self.spelled() if self.ready() else None

    cdef object spelled(self):
        """What the cell, which is at hand, holds; None where the server has it."""
        return None

    def _close(self):
        self.cell = NULL
        self.view = None
        self.segment = None
        self._awaits_reference = False
        ProxyCore._close(self)
