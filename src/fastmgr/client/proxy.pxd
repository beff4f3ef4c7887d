"""What a proxy does with a call."""

from fastmgr.client.session cimport Session, Target

cdef class ProxyCore(Target):
    cdef public object _manager
    cdef public object _serializer
    cdef public object _authkey
    cdef public object _owned_by_manager
    cdef public bint _awaits_reference  # it came with a process that was being spawned
    cdef public object _referent      # in the server: the entry that this proxy holds
    cdef Session _session_
    cdef object __weakref__
    cdef dict __dict__
    cdef Session _session(self)
