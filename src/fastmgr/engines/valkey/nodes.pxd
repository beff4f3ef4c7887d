"""A session with a cluster of Valkey servers."""

from fastmgr.engines.valkey.connection cimport Connection
from fastmgr.engines.valkey.session cimport ThreadConnections, ValkeySession

cdef class NodeConnections(ThreadConnections):
    cdef dict at                    # by node: the thread's connections with it
    cdef object epoch               # what `Topology.epoch` was when the thread called last

cdef class ClusterSession(ValkeySession):
    cdef readonly object topology
    cdef list table                 # the topology's

    cdef NodeConnections own(self)
    cdef Connection at(self, object node)
    cdef object owner(self, int slot)
