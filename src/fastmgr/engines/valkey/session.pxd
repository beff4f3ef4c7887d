"""What this process and one Valkey server have with each other."""

from fastmgr.client.session cimport Session, Target
from fastmgr.engines.valkey.commands cimport Command
from fastmgr.engines.valkey.connection cimport Connection

cdef class ThreadConnections:
    cdef list connections           # the thread's, and the spare ones for calls within its calls
    cdef bint settling              # replies to posted calls are being taken
    cdef bint lost                  # one has ended by which the thread may have changed something
    cdef object __weakref__

    cdef int drop_unusable(self) except -1

cdef class ValkeySession(Session):
    cdef readonly object where      # the `Address`
    cdef readonly bytes ns
    cdef public bytes id            # the session's, in the server's books
    cdef readonly bytes prefix               # of keys: b"{ns:"
    cdef readonly object life       # shows the server that this process lives
    cdef readonly object timeout    # seconds in which the server must say something, or None
    cdef public dict posting        # connections with posted calls that are not answered, or None
    cdef readonly object references     # `References`
    cdef object pending             # what is to be returned
    cdef readonly dict fences       # by the thread in a block with a fence: the lock, the number
    cdef readonly object host       # of the primary, where the address is that of a replica
    cdef readonly double patience   # seconds for which a wait goes on without the server
    cdef readonly bint clustered    # it is a cluster: a `ClusterSession`
    cdef readonly object opened     # weak: every thread's connections

    cpdef bytes key_of(self, ident)
    cpdef Connection connection(self)
    cpdef Connection connection_of(self, words)
    cpdef object perform(self, object method, bytes key, object args, object kwds)
    cdef object run_command(self, Command command, bytes key, object args, object kwds)
    cpdef object run(self, words, bint reads=*, timeout=*)
    cpdef object ask(self, words, bint reads=*, timeout=*)

cdef object wrong_type(object reply, object words, Connection connection)
