"""The client's half: sessions, references and the call path of a proxy."""

from cpython.object cimport PyObject

from fastmgr.client.fastchannel cimport Channel, FastChannel
from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.view cimport View

cdef class Holding:
    cdef object ident
    cdef uint64_t handle
    cdef Py_ssize_t local       # `Ref`s of this process
    cdef Py_ssize_t owed        # references the server counts for this process
    cdef bint is_due            # it is to be returned, as long as there is no `Ref` again
    cdef PyObject *next_due     # owned, as the first: it may be struck from `holdings` meanwhile

cdef class Ref:
    cdef ClientSession session
    cdef Holding holding

cdef class Tenancy:
    cdef Channel channel
    cdef object session              # weak: the session owns the threading.local that holds us
    cdef Tenancy spare               # for the calls that are made inside one of the channel's
    cdef object stock                # the connection in the stdlib's dialect, once asked for

cdef class ClientSession:
    cdef readonly object address
    cdef readonly object serializer
    cdef readonly object authkey
    cdef object timeout              # seconds that each answer may take; None: any time
    cdef readonly object local       # threading.local: .connection is the thread's Tenancy
    cdef bytes id
    cdef object instance             # which server process answered last
    cdef View view                   # of the server's arena, once there is a connection
    cdef uint64_t threads            # of this process that have had a channel
    cdef readonly bint stock         # only the stdlib's dialect is spoken, as is known by now
    cdef readonly bint retired                # its server is known to be gone
    cdef dict holdings               # ident -> Holding
    cdef Py_ssize_t taken            # locks and permits: while there are any it keeps itself alive
    cdef PyObject *first_due         # a chain of `Holding`s that are to be returned
    cdef list releases               # (handle or ident, count): taken from it, and not sent
    cdef bint some_due               # there may be something in one of the two
    cdef bint flush_asked            # the main thread is going to send what is due
    cdef list channels               # all that are open
    cdef Channel orphan              # no thread's, kept open to keep the session alive
    cdef list inherited              # copies of its parent's channels, in the child of a fork
    cdef unsigned long hasty         # the thread whose next connection is not to take long, or 0
    cdef object farewell             # the exit finalizer of this process
    cdef public object private       # what `privates` shows of it, once asked for
    cdef object __weakref__

    cdef Channel channel(self)
    cdef Tenancy open_channel(self)
    cdef object time_to_dial(self)
    cdef Channel open_fast(self, object name)
    cdef Channel open_stock(self, object name)
    cdef object dial_stock(self, object name)
    cdef int adopt(self, Channel channel) except -1
    cdef int reclaim(self, FastChannel channel) except -1
    cdef int replace_orphan(self) except -1
    cdef int lose(self, Channel channel, bint keep) except -1
    cdef int ask_for(self, object ident, uint64_t handle) except -1
    cdef Holding holding_of(self, object ident)
    cdef Ref refer_to(self, Holding holding)
    cdef Ref given(self, object ident)
    cdef void drop(self, Holding holding) noexcept
    cdef bint send_release(self, Holding holding) noexcept
    cdef bint is_fast(self) noexcept
    cdef void strike(self, Holding holding) noexcept
    cdef bint ask_for_flush(self) noexcept
    cdef list take_due(self)
    cdef int put_back(self, list due) except -1
    cdef int forget_due(self) except -1
    cdef int flush(self) except -1
    cdef void flush_fast(self) noexcept
    cdef int flush_stock(self) except -1
    cpdef bint is_lost(self, error) except -1
    cdef tuple perform(
        self, uint8_t op, uint8_t flags, object ident, uint64_t handle, object name, object args,
        object kwds
    )
    cdef void took(self) noexcept
    cdef void gave(self) noexcept
    cdef void has_nothing(self) noexcept
    cdef bint has_posted(self) except -1
    cdef uint64_t thread_number(self) except 0
    cdef object locate(self, object ident, uint64_t handle)
    cdef Segment segment(self, View view, object number)
    cdef Segment attach(self, object number)
    cdef int have_mailbox(self, FastChannel channel) except -1
    cdef object one_shot(self, object name, object args, object kwds)
    cdef int disconnect(self) except -1

cdef class Target:
    cdef public object _token
    cdef public object _id
    cdef object _ref                # what returns the reference when it is dropped
    cdef uint64_t _handle           # that `_id` spells

cdef bint makes_oneway_calls
cdef uint64_t handle_of(object ident) noexcept
