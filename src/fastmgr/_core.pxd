from fastmgr.server.disposal cimport Disposal
from fastmgr.server.loop cimport Loop
from fastmgr.server.service cimport Service

cdef class Engine:
    cdef readonly Loop loop
    cdef readonly object stock_peers
    cdef Disposal disposal
    cdef Service service
