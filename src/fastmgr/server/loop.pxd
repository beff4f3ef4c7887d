from fastmgr.kinds.waits cimport Waiter
from fastmgr.link.mailbox cimport fm_mailroom
from fastmgr.link.system cimport fm_poller, fm_spinner
from fastmgr.server.connection cimport Acceptor, Conn, Handler
from fastmgr.server.driver cimport Driver, Load, Timers

cdef class Loop(Driver):
    cdef fm_poller poller
    cdef fm_mailroom mail         # the mailboxes of connections in `conns`, which keep them
    cdef int wake_read, wake_write
    cdef unsigned long ident      # the loop's thread
    cdef fm_spinner spinner
    cdef Handler handler          # while the loop runs
    cdef Acceptor acceptor
    cdef readonly dict conns      # fd -> Conn
    cdef dict watched             # fd -> callable
    cdef list backlog             # connections that wait for their share of the next turn
    cdef list inbox               # connections that workers have returned
    cdef bint stopping
    cdef list due                 # finished waiters; the loop has to reply to their clients
    cdef Timers timers            # of parked calls
    cdef Load load
    cdef public object tick       # called about once a second, or None
    cdef double next_tick

    cdef int handle_event(self, int fd, int ready) except -1
    cdef int accept(self) except -1
    cdef int receive(self, Conn conn, int ready) except -1
    cdef int serve_frames(self, Conn conn) except -1
    cdef int answer_parked(self, Conn conn) except -1
    cdef int send(self, Conn conn, const char *data, size_t size, list buffers) except -1
    cdef int flush(self, Conn conn) except -1
    cdef int read_from(self, Conn conn) except -1
    cdef int open_mailbox(self, Conn conn) noexcept
    cdef int shut_mailbox(self, Conn conn) except -1
    cdef int stop_reading(self, Conn conn, int interest) except -1
    cdef int hand_to_worker(self, Conn conn) except -1
    cdef int give_to_worker(self, Conn conn) except -1
    cdef int return_to_loop(self, Conn conn) except -1
    cdef int drop_broken(self, Conn conn) except -1
    cdef int take_from_worker(self, Conn conn) except -1
    cdef int drop(self, Conn conn) except -1
    cdef int wake(self) noexcept
    cdef int timeout_ms(self) except -2
    cdef int housekeeping(self) except -1
    cdef int look_at_the_clock(self, double now) except -1
    cdef int serve_all(self) except -1
    cdef int set_timer(self, Waiter waiter) except -1
    cdef int hang_up(self, Conn conn) except -1
