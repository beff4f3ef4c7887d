# cython: auto_pickle=False
"""The references that a process holds to a server's objects.

A session counts what the process holds, so that the server need hear only of an object's first
proxy and of its last.

A reference is dropped at any moment and in any thread, also inside a call.  What is
done then is C alone: no signal's handler can run in it, and nothing can be raised.
The release is sent at once where that is possible, else it is *due*, and goes with
the next request or after the call under way.  The books are changed only
in steps that allocate nothing the garbage collector tracks, and so cannot be
interrupted by a finalizer.
"""

cimport cython
from cpython.dict cimport PyDict_DelItem, PyDict_GetItem
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cpython.unicode cimport PyUnicode_CheckExact

from fastmgr.client.session cimport Session, Target, handle_of


@cython.final
@cython.no_gc
cdef class Holding:
    """What this process holds of one object."""


@cython.final
@cython.no_gc
cdef class Reference:
    """One proxy's reference; dropping it is releasing it.

    It takes no part in cycles (what it points to never points back), so it is
    dropped exactly once, whatever the collector does to the proxy.
    """

    def __dealloc__(self):
        if self.holding is not None:
            self.holding.local -= 1
            if self.holding.local == 0:
                self.session.drop(self.holding)


cdef class References(Session):
    """A session that counts its process's references."""

    def __cinit__(self, *args, **kwds):
        self.holdings = {}
        self.releases = []

    def __dealloc__(self):
        cdef Holding holding
        while self.first_due is not NULL:
            holding = <Holding>self.first_due
            self.first_due = holding.next_due
            Py_DECREF(holding)

    def held(self):
        cdef Holding holding
        return [ident for ident, holding in list(self.holdings.items()) if holding.local]

    def acquire(self, Target target):
        cdef Holding holding = self.holdings.get(target._id)
        if holding is None:
            self.request_reference(target)
            holding = self.holding_of(target._id)
            holding.counted += 1
        return self.refer_to(holding)

    cdef bint regain(self, Target target) except -1:
        cdef Holding holding = self.holdings.get(target._id)
        if holding is None or holding.counted != 0 or holding.local == 0:
            return False
        self.request_reference(target)
        holding.counted += 1
        if holding.local == 0:      # dropped meanwhile
            self.drop(holding)
        return True

    cdef Holding holding_of(self, object ident):
        """What the books say of an object that the server has counted a reference of."""
        cdef Holding holding = self.holdings.get(ident)
        if holding is None:
            holding = Holding()
            holding.ident = ident
            holding.handle = handle_of(ident)
            holding = self.holdings.setdefault(ident, holding)
        return holding

    cdef Reference refer_to(self, Holding holding):
        cdef Reference reference = Reference()
        holding.local += 1
        reference.session = self
        reference.holding = holding
        return reference

    cdef Reference receive(self, object ident):
        """Hold a reference that the server has counted, until a proxy has one of its own.

        A custom proxy may take none.
        """
        cdef Holding holding = self.holding_of(ident)
        holding.counted += 1
        return self.refer_to(holding)

    # -- releases -----------------------------------------------------------

    cdef void drop(self, Holding holding) noexcept:
        """The last reference to an object was dropped: return what the server counts.

        This runs inside deallocations.
        """
        if holding.is_due:
            return
        if self.retired or holding.counted == 0 or self.release_now(holding):
            holding.counted = 0
            if PyUnicode_CheckExact(holding.ident):     # else comparing it may run any code
                self.strike(holding)
                return
        holding.is_due = self.some_due = True
        holding.next_due = self.first_due
        self.first_due = <PyObject *>holding
        Py_INCREF(holding)
        self.release_later()

    cdef void strike(self, Holding holding) noexcept:
        """Take what nothing is held of out of the books."""
        if PyDict_GetItem(self.holdings, holding.ident) is <PyObject *>holding:
            PyDict_DelItem(self.holdings, holding.ident)

    cdef list take_due(self):
        """Take what is to be returned: the holding and the count of each."""
        cdef list due, none = []
        cdef Holding holding
        cdef Py_ssize_t counted
        self.some_due = False
        due = self.releases
        self.releases = none
        while self.first_due is not NULL:
            holding = <Holding>self.first_due
            self.first_due = holding.next_due
            Py_DECREF(holding)
            holding.is_due = False
            if holding.local == 0:      # else another proxy has taken it meanwhile
                # Out of the books before anything is allocated: a finalizer that runs there may
                # want the object again.
                counted = holding.counted
                holding.counted = 0
                self.strike(holding)
                if counted:
                    due.append((holding, counted))
        return due

    cdef int put_back(self, list due) except -1:
        """What was taken has not been sent."""
        self.releases.extend(due)
        self.some_due = True
        return 0

    # -- what a kind of session does ------------------------------------------

    cdef int request_reference(self, Target target) except -1:
        """Have the server count a reference for this process."""
        raise NotImplementedError

    cdef bint release_now(self, Holding holding) noexcept:
        """Return a reference at once; False where that is impossible."""
        return False

    cdef void release_later(self) noexcept:
        """See to it that what is due is returned, if no request will take it along."""
