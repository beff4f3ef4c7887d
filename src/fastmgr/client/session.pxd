"""What proxies, pipelines and managers know of the way to a server."""

from fastmgr.link.system cimport uint8_t, uint64_t
from fastmgr.memory.segments cimport Segment
from fastmgr.memory.arena cimport View

# Whether this process has ever made a one-way call: the others need not ask what a call takes.
cdef bint makes_oneway_calls
# How many channels of this process have sent calls since the last reply for which none comes.
cdef int posting_channels
# Methods whose callers catch whatever they raise, as debuggers and logs do: failures of one-way
# calls are left for the next call of another.
cdef frozenset FOR_DISPLAY

cdef class Target:
    cdef public object _token
    cdef public object _id
    cdef object _ref                # the reference; dropping it returns it
    cdef uint64_t _handle           # that `_id` spells

cdef class Outcome:
    cdef uint8_t op
    cdef object payload
    cdef object ident               # of the object that the reply introduces, or None
    cdef object reference           # to that object
    cdef object result              # of OP_FAILED: what the call itself came to

cdef class Kept:
    cdef uint64_t version           # of the object, when the server read it
    cdef object value               # what the reply carries; None once the caller has it alone
    cdef bytes data                 # it as it came; None where every caller may have the same
    cdef object fresh(self)

cdef class Session:
    cdef readonly object address
    cdef readonly object serializer
    cdef readonly object authkey
    cdef public bint retired        # its server is known to be gone
    cdef public object private      # what `privates` shows of it, once asked for
    cdef readonly object local      # threading.local: what each thread has
    cdef View view                  # of memory shared with the server, where there is any
    cdef object __weakref__

    cpdef object call(self, Target target, object name, object args, object kwds)
    cdef object call_after_posts(
        self, Target target, object name, object args, object kwds, bint takes
    )
    cdef object call_keeping(self, Target target, object name, object args)
    cpdef object locate(self, Target target)
    cpdef bint is_lost(self, error) except -1
    cdef int keep_failure(self, Target target, object name, object outcome) except -1
    cdef bint has_posted(self) except -1
    cdef bint regain(self, Target target) except -1
    cdef void took(self) noexcept
    cdef void gave(self, Py_ssize_t count) noexcept
    cdef uint64_t thread_number(self) except 0
    cdef Segment segment(self, View view, object number)

cdef uint64_t handle_of(object ident) noexcept
cdef int note_oneway_calls() except -1
cdef Outcome outcome_of(uint8_t op, object payload, uint64_t handle)
cdef object error_of(Outcome outcome)
cdef Kept kept_at(uint64_t version, object value, bytes data)
cdef Outcome failed_before(Py_ssize_t failed, tuple failure, object result)
