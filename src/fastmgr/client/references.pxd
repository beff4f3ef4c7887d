"""The references that a process holds to a server's objects."""

from cpython.object cimport PyObject

from fastmgr.client.session cimport Session, Target
from fastmgr.link.system cimport uint64_t

cdef class Holding:
    cdef object ident
    cdef uint64_t handle
    cdef Py_ssize_t local       # `Reference`s of this process
    cdef Py_ssize_t counted     # references that the server counts for this process
    cdef bint is_due            # to be returned, as long as there is no `Reference` again
    cdef PyObject *next_due     # owned, as the first: it may be struck from `holdings` meanwhile

cdef class Reference:
    cdef References session
    cdef Holding holding

cdef class References(Session):
    cdef dict holdings               # ident -> Holding
    cdef PyObject *first_due         # a chain of `Holding`s that are to be returned
    cdef list releases               # (Holding, count): taken from the chain, and not sent
    cdef bint some_due               # there may be something in one of the two

    cdef Holding holding_of(self, object ident)
    cdef Reference refer_to(self, Holding holding)
    cdef Reference receive(self, object ident)
    cdef void drop(self, Holding holding) noexcept
    cdef void strike(self, Holding holding) noexcept
    cdef list take_due(self)
    cdef int put_back(self, list due) except -1

    cdef int request_reference(self, Target target) except -1
    cdef bint release_now(self, Holding holding) noexcept
    cdef void release_later(self) noexcept
