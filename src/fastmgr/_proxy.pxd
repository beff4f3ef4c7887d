"""The client's half: sessions, channels and the call path of a proxy."""

from cpython.pythread cimport PyThread_type_lock

from fastmgr._arena cimport Segment, View
from fastmgr._frame cimport Header, Stream
from fastmgr._os cimport fm_spinner, uint8_t, uint16_t, uint32_t, uint64_t
from fastmgr._wire cimport Reader, Writer

# Put a header before the body that began at `start`, which has HEADER_SIZE bytes of room there.
cdef int seal(Writer writer, size_t start, Header *header) except -1

# How many channels of this process have sent calls since the last reply for which none comes.
cdef int posting_channels

cdef class Holding:
    cdef uint64_t handle
    cdef Py_ssize_t local       # proxies of this process that hold a reference
    cdef Py_ssize_t unclaimed   # references the server gave that no proxy has taken yet
    cdef Py_ssize_t owed        # references the server counts for this process

cdef class Ref:
    cdef ClientSession session
    cdef object ident
    cdef Holding holding

cdef class Channel:
    cdef readonly bint usable        # by its thread, for another request
    cdef readonly bint interrupted   # a request was sent whose reply nobody has read
    cdef PyThread_type_lock lock     # owned; held while a frame is on its way
    cdef unsigned long holder        # the thread that holds it, or 0
    cpdef tuple call(self, object ident, object name, object args, object kwds)
    cpdef object close(self)
    cpdef object abandon(self)
    cdef Py_ssize_t failed           # one-way calls, as far as is known
    cdef object failure              # of the first its operation and payload
    cdef void renew_lock(self) noexcept
    cdef void hold(self) noexcept
    cdef bint hold_now(self) noexcept
    cdef void let_go(self) noexcept
    cdef tuple with_failure(self, tuple reply)

cdef class FastChannel(Channel):
    cdef Stream stream
    cdef Writer writer
    cdef Reader reader
    cdef int pid                     # whose connection it is: a forked child has but a copy
    cdef bint encoding               # `writer` is in use further up this thread's stack
    cdef uint32_t calls
    cdef fm_spinner spinner
    cdef bint may_spin               # the server does
    cdef bint posted                 # one-way calls since the last reply
    cdef bint ahead                  # what gets no reply, since the last: mail would overtake it
    cdef bint asked                  # for a mailbox
    cdef dict lent                   # what they need: ident -> Ref, and arguments
    cdef tuple request(
        self, uint8_t op, uint8_t flags, uint64_t handle, object name, object args, object kwds,
        list due
    )
    cdef size_t begin(self, Writer writer, list due) except 0
    cdef int finish(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, uint16_t method,
        uint64_t handle
    ) except -1
    cdef int put_call(
        self, Writer writer, size_t start, uint8_t op, uint8_t flags, uint64_t handle,
        object name, object args, object kwds
    ) except -1
    cdef tuple exchange(self, Writer writer)
    cdef bint wants_mailbox(self) noexcept
    cdef object payload(self)
    cdef int receive(self, uint32_t expected) except -1
    cdef int post(self, Writer writer) except -1
    cdef void set_posted(self, bint posted) noexcept
    cdef int lend(self, object key, object value) except -1
    cdef int await_posted(self) except -1
    cdef void say_goodbye(self, bint whole) noexcept
    cdef int send_alone(self, list due) except -1
    cdef list pipeline(self, list calls, list due, list others)
    cdef Segment attach(self, object number)
    cdef size_t send_some(self, const char *data, size_t size) except? 0
    cdef bint arrived(self, uint32_t expected) except -1
    cdef bint check(self, int status, uint32_t expected) except -1
    cdef int take_reply(self, list replies, list others) except -1

cdef class Tenancy:
    cdef Channel channel
    cdef object session              # weak: the session owns the threading.local that holds us
    cdef Tenancy spare               # for the calls that are made inside one of the channel's

cdef class ClientSession:
    cdef readonly object address
    cdef readonly object serializer
    cdef readonly object authkey
    cdef readonly object local       # threading.local: .connection is the thread's Tenancy
    cdef bytes id
    cdef object instance             # which server process answered last
    cdef View view                   # of the server's arena, once there is a connection
    cdef uint64_t threads            # of this process that have had a channel
    cdef readonly bint stock         # the server speaks only the stdlib's dialect
    cdef readonly bint retired                # its server is known to be gone
    cdef dict holdings               # ident -> Holding
    cdef list releases               # (handle or ident, count): to be returned
    cdef list channels               # all that are open
    cdef Channel orphan              # no thread's, kept open to keep the session alive
    cdef object farewell             # the exit finalizer of this process
    cdef object __weakref__

    cdef Channel channel(self)
    cdef Tenancy open_channel(self)
    cdef Channel open_fast(self, object name)
    cdef Channel open_stock(self, object name)
    cdef int adopt(self, Channel channel) except -1
    cdef int reclaim(self, FastChannel channel) except -1
    cdef int replace_orphan(self) except -1
    cdef int lose(self, Channel channel, bint keep) except -1
    cdef int ask_for(self, object ident, uint64_t handle) except -1
    cdef int given(self, object ident) except -1
    cdef int forget(self, object ident, Holding holding) except -1
    cdef int flush(self) except -1
    cdef int release_over(self, Channel channel) except -1
    cdef bint is_stock(self)
    cdef tuple perform(
        self, uint8_t op, uint8_t flags, object ident, uint64_t handle, object name, object args,
        object kwds
    )
    cdef bint has_posted(self) except -1
    cdef uint64_t thread_number(self) except 0
    cdef uint64_t thread_owner(self) except 0
    cdef object locate(self, object ident, uint64_t handle)
    cdef Segment segment(self, View view, object number)
    cdef Segment attach(self, object number)
    cdef int have_mailbox(self, FastChannel channel) except -1
    cdef object one_shot(self, object name, object args, object kwds)
    cdef int disconnect(self) except -1

cdef class ProxyCore:
    cdef public object _token
    cdef public object _id
    cdef public object _manager
    cdef public object _serializer
    cdef public object _authkey
    cdef public object _owned_by_manager
    cdef public bint _awaits_reference  # it came with a process that was being spawned
    cdef public object _referent      # in the server: the entry that this proxy holds
    cdef ClientSession _session_
    cdef Ref _ref
    cdef uint64_t _handle
    cdef object __weakref__
    cdef dict __dict__
    cdef ClientSession _session(self)
