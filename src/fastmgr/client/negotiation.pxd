"""A session in the dialect that the server speaks."""

from fastmgr.client.fast cimport FastSession
from fastmgr.client.session cimport Session

cdef class ClientSession(FastSession):
    cdef bint is_fast               # the server has proved that it speaks the fast dialect
    cdef Session fallback           # with a server that does not

    cdef Session other(self)
