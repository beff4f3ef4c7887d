"""A session in the stdlib's dialect."""

from fastmgr.client.connections cimport Connections

cdef object dial(Connections session, object name)
