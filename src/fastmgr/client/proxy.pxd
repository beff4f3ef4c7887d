"""What a proxy does with a call, or on its object's cell by itself."""

cimport cython

from fastmgr.client.reads cimport Reads
from fastmgr.client.session cimport Outcome, Session, Target, posting_channels
from fastmgr.memory.atomics cimport uint32_t
from fastmgr.memory.arena cimport View
from fastmgr.memory.segments cimport Segment

cdef class ProxyCore(Target):
    cdef public object _manager
    cdef public object _serializer
    cdef public object _authkey
    cdef public object _owned_by_manager
    cdef public bint _awaits_reference  # it came with a process that was being spawned
    cdef public object _referent      # in the server: the entry that this proxy holds
    cdef Session _session_
    cdef Reads reads                  # None: nothing is kept
    cdef int calls                    # until replies are kept; negative: so many more before that
    cdef int rest                     # calls for which none were kept, the last time
    cdef object __weakref__
    cdef dict __dict__
    cdef object error_in_words(self, error)
    cdef bint is_there_again(self, Outcome outcome) except -1
    cdef Session _session(self)
    cdef object read(self, Session session, object name, object args, object kwds)
    cdef Reads begin_reads(self, Session session, object name)
    cdef void pause(self, int most) noexcept

cdef class CellCore(ProxyCore):
    cdef View view              # what the cell is mapped in; None before it was looked for
    cdef char *cell             # in `segment`; NULL: there is none, or none known
    cdef size_t size            # its bytes
    cdef Segment segment
    cdef int kind
    cdef uint32_t growths       # that the server had told of when the cell was looked for

    @cython.final
    cdef inline bint ready(self) noexcept:
        """Whether the cell is known, and still the object's."""
        return self.cell is not NULL and self.view.serves()

    @cython.final
    cdef inline bint at_hand(self) except -1:
        """Whether the caller may work on the cell, at once; see the module."""
        if posting_channels == 0 and self.ready():
            return True
        return self.find() and self.ready()

    cdef bint find(self) except -1
    cdef bint accepts(self, int kind, size_t size, object about) except -1
    cdef object spelled(self)
