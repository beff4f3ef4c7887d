"""The engine of a server."""

from fastmgr.server.disposal cimport Disposal
from fastmgr.server.loop cimport Loop
from fastmgr.server.service cimport ServerHandler

cdef class Engine:
    cdef readonly Loop loop
    cdef readonly object stock_peers
    cdef Disposal disposal
    cdef ServerHandler handler
