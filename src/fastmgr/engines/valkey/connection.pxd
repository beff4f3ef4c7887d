"""One connection with a server: requests are sent, replies received, in order."""

from libc.stdint cimport int64_t

from fastmgr.engines.valkey.resp cimport Encoder, Parser
from fastmgr.link.system cimport fm_spinner

cdef class Connection:
    cdef int fd                     # owned, unless `tls` has it; -1 once closed
    cdef object tls                 # an ssl.SSLSocket, or None
    cdef readonly object name       # of the server, for messages
    cdef readonly bint usable       # for another request
    cdef public object node         # which node of a cluster, or which primary, the server is
    cdef readonly bint busy         # a request is under way
    cdef Parser parser
    cdef Encoder requests
    cdef readonly list posted       # what the makers of requests keep beside those not answered
    cdef public list answered       # the same and the reply, of those answered since
    cdef public bint settling       # the owner takes these out
    cdef int64_t limit              # nanoseconds in which something must come; 0: any time
    cdef int64_t deadline           # by the monotonic clock; 0: none
    cdef int64_t end                # what the caller's block has set for its calls; 0: nothing
    cdef Py_ssize_t awaited         # replies to the requests of a pipeline
    cdef list arrived               # the replies to a pipeline that could not be sent whole
    cdef int64_t last               # when the server was last heard
    cdef fm_spinner spinner         # of the thread that waits for replies

    cpdef object call(self, words, timeout=*)
    cdef object exchange(self)
    cdef int begin(self, object timeout) except -1
    cdef int begin_limit(self, int64_t now) except -1
    cdef bint hung_up(self) except -1
    cdef int send_all(self, bint by_turns, bint many) except -1
    cdef object receive(self)
    cdef int receive_posted(self) except -1
    cdef int receive_some(self) except -1
    cdef int receive_tls(self) except -1
    cdef bint receive_tls_now(self) except -1
    cdef bint receive_now(self) except -1
    cdef void renew(self) noexcept
    cdef int wait(self, short events) except -1
    cdef int drop(self) except -1
    cdef object unsent(self, int number, bint many)
    cdef int cut(self, error, list replies) except -1
    cdef object lost(self, object reason, object applied)
