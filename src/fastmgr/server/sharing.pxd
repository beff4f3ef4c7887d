"""Making objects of registered types, and sharing them."""

from fastmgr.link.system cimport uint64_t
from fastmgr.server.table cimport Entry

cdef Entry share(object hooks, object typeid, object obj, bint known, uint64_t handle)
cpdef Entry create(object hooks, object typeid, object args, object kwds, bint known=*)
cpdef tuple create_for_stock(object hooks, object typeid, object args, object kwds)
cpdef tuple failed_creation(object hooks, object typeid, object kwds, object error)
