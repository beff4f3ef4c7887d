"""What the methods of shared types are made of on a Valkey server."""

cdef class Command:
    cdef public bint reads
    cdef public int joins

    cpdef object request(self, bytes key, object args, object kwds, object session)
    cpdef object result(self, object reply, bytes key, object args, object kwds, object session)
    cpdef object failure(self, object reply, bytes key, object args, object kwds, object session)
    cpdef tuple join_calls(self, bytes key, list calls, object session)
    cpdef list split_reply(self, object reply, object state)

cdef class Procedure:
    pass

cdef class FunctionMethod(Procedure):
    cdef readonly object function

    cdef object apply(self, object session, bytes key, object args, object kwds)
