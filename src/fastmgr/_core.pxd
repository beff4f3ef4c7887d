"""The engine of a server."""

from fastmgr.server.disposal cimport Disposal
from fastmgr.server.handler cimport ServerHandler
from fastmgr.server.loop cimport Loop

cdef class Engine:
    cdef readonly Loop loop
    cdef readonly object stock_peers
    cdef Disposal disposal
    cdef ServerHandler handler
