"""The workers' driver: a thread serves one connection by blocking reads."""

from fastmgr.server.connection cimport Conn
from fastmgr.server.load cimport Load
from fastmgr.server.loop cimport Loop
from fastmgr.server.operations cimport Operations
from fastmgr.server.replies cimport Replies

cdef class Service:
    cdef object hooks
    cdef object stock_peers
    cdef object workers
    cdef Loop loop
    cdef Load load
    cdef Operations operations
    cdef Replies replies

    cdef int hand_off(self, Conn conn) except -1
    cdef int serve_fast(self, Conn conn) except -1
    cdef int serve_stock(self, Conn conn) except -1
