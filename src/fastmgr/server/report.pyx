"""What a server tells of itself: what was counted, who holds what, and who waits.

A worker makes the report, as values that any version can read.  Of the loop's time it takes steps
of `AT_ONCE` objects at most: between two steps it lets other threads have the GIL.
"""

cimport cython

from fastmgr.kinds.slots cimport session_of
from fastmgr.kinds.waits cimport Primitive, Waiter
from fastmgr.link.mailbox cimport FM_MAILBOX_SIZE, fm_mailroom_lag
from fastmgr.link.system cimport fm_now_ns, int64_t, uint64_t
from fastmgr.memory.arena cimport Arena, Celled
from fastmgr.memory.segments cimport Segment
from fastmgr.server.connection cimport Conn
from fastmgr.server.loop cimport Loop
from fastmgr.server.table cimport Entry, Session, Table, Tally, add_tally

import array
import os
from collections import deque
from heapq import nlargest
from threading import Lock
from time import time

from fastmgr.server.process import own_version

cdef enum:
    AT_ONCE = 256           # objects that are looked at before other threads may run
    MOST = 10000            # objects, clients and locks of one report

# Types of objects whose length says how many items they have, and is at hand.
cdef frozenset SIZED = frozenset((dict, list, set, frozenset, bytearray, deque, array.array))
cdef double NS = 1e-9


cdef inline int let_others_run(Py_ssize_t i) noexcept:
    """Let other threads have the GIL after each `AT_ONCE` steps."""
    if i % AT_ONCE == AT_ONCE - 1:
        with nogil:
            pass
    return 0


cdef int put_tally(dict into, const Tally *tally) except -1:
    into["calls"] = tally.calls
    into["errors"] = tally.errors
    into["seconds"] = max(tally.ns, 0) * NS
    into["bytes_in"] = tally.bytes_in
    into["bytes_out"] = tally.bytes_out
    return 0


cdef list waiters_of(Entry entry):
    """The waiters of an object that has some, in order."""
    return (<Primitive>entry.obj).waiters() if entry.parks else []


cdef object rank(Entry entry, object by):
    """What objects are put in order by, the largest first."""
    if by == "seconds":
        return entry.tally.ns
    if by == "errors":
        return entry.tally.errors
    if by == "bytes":
        return entry.tally.bytes_in + entry.tally.bytes_out
    if by == "references":
        return entry.refcount
    if by == "waiters":
        return len(waiters_of(entry))
    return entry.tally.calls


cdef object size_of(object obj):
    """How many items an object has, where that is at hand; else None."""
    kind = type(obj)
    if kind in SIZED:
        return len(obj)
    if isinstance(obj, Celled):
        if hasattr(kind, "qsize"):
            return obj.qsize()
        if hasattr(kind, "__len__"):
            return len(obj)
    return None


@cython.final
cdef class Reporter:
    """Makes the reports of one server."""

    cdef object hooks, workers
    cdef Loop loop
    cdef Table table
    cdef Arena arena
    cdef double started
    cdef object version         # None: nobody has asked yet
    cdef readonly object lock   # of who makes a report: one thread does, the others wait
    cdef readonly Py_ssize_t asking     # threads that want one
    cdef dict made              # by what was asked for: when it was begun, and the report

    def __init__(self, hooks, workers, Loop loop, Arena arena):
        self.hooks = hooks
        self.table = hooks.table
        self.workers = workers
        self.loop = loop
        self.arena = arena
        self.started = time()
        self.lock = Lock()
        self.made = {}

    def report(self, object most, object by):
        """Return the report, with `most` objects, clients and locks of each at most.

        The objects are those with the largest numbers of `by`, those first.  Of those who ask at
        the same time several get the same report, which was begun after all of them had asked.
        """
        cdef Py_ssize_t limit
        cdef int64_t asked, begun
        if type(most) is not int or most < 0:
            raise ValueError(f"most={most!r}: a number of objects, 0 or more, is needed")
        if by not in ("calls", "seconds", "errors", "bytes", "references", "waiters"):
            raise ValueError(
                f"by={by!r}: calls, seconds, errors, bytes, references or waiters is needed")
        limit = min(most, MOST)
        asked = fm_now_ns()
        self.asking += 1
        try:
            with self.lock:
                begun, report = self.made.get((limit, by), (0, None))
                if begun < asked:
                    begun = fm_now_ns()
                    report = self.make(limit, by)
                    self.made[limit, by] = begun, report
        finally:
            self.asking -= 1
            if self.asking == 0:
                self.made.clear()
        return report

    cdef dict make(self, Py_ssize_t limit, object by):
        if self.version is None:
            self.version = own_version()
        conns = list(self.loop.conns.values())
        names = self.names()
        parties = Parties(conns, list(self.table.sessions.values()))
        entries = list(self.table.entries.values())
        held = self.table.entries
        entries += [entry for entry in list(self.table.local.values()) if entry.key not in held]
        return {
            "version": self.version,
            "pid": os.getpid(),
            "started": self.started,
            "uptime": max(<double>time() - self.started, 0.0),
            "server": self.server(conns, len(entries)),
            "objects": self.objects(entries, names, limit, by),
            "clients": self.clients(conns, limit),
            "locks": self.locks(entries, names, parties, limit),
        }

    cdef dict names(self):
        """The names of the objects that have one, by their ids."""
        cdef dict found = {}
        cdef Py_ssize_t i
        for i, (name, obj) in enumerate(list(self.hooks.names.objects.items())):
            found[id(obj)] = name
            let_others_run(i)
        return found

    cdef dict server(self, list conns, Py_ssize_t objects):
        cdef Tally all = self.table.gone
        cdef Session session
        cdef Conn conn
        cdef Py_ssize_t i
        cdef size_t shared = 0
        cdef Segment segment
        for i, session in enumerate(list(self.table.sessions.values())):
            add_tally(&all, &session.tally)
            let_others_run(i)
        for i, conn in enumerate(conns):
            if conn.tally == &conn.own:
                add_tally(&all, &conn.own)
            if conn.stream.mailbox is not NULL:
                shared += FM_MAILBOX_SIZE
            let_others_run(i)
        if self.arena is not None:
            for segment in list(self.arena.segments.values()):
                shared += segment.size
        listener = self.loop.acceptor.listener
        cdef dict about = {
            "objects": objects,
            "clients": len(self.table.sessions),
            "connections": len(conns),
            "accepted": self.loop.acceptor.accepted,
            "refused": self.loop.acceptor.refused,
            "workers": len(self.workers.threads),
            "idle_workers": self.workers.idle,
            "backlog": None if listener is None else backlog_of(listener),
            "loop_lag": fm_mailroom_lag(&self.loop.mail) * NS,
            "memory": resident(),
            "shared_memory": shared,
            "descriptors": len(os.listdir("/dev/fd")) - 1,      # but for the one that lists them
        }
        put_tally(about, &all)
        return about

    cdef list objects(self, list entries, dict names, Py_ssize_t most, object by):
        cdef list best = [], ranked = []
        cdef list found = []
        cdef Entry entry
        cdef Py_ssize_t i
        for i, entry in enumerate(entries):
            ranked.append((rank(entry, by), -i))
            if len(ranked) > AT_ONCE + 4 * most:    # to choose takes as long as there are many
                best = nlargest(most, best + ranked)
                ranked = []
            let_others_run(i)
        for i, (_number, place) in enumerate(nlargest(most, best + ranked)):
            found.append(self.about_object(entries[-place], names))
            let_others_run(i)
        return found

    cdef dict about_object(self, Entry entry, dict names):
        cdef object obj = entry.obj
        cdef Waiter waiter
        cdef list waiting = waiters_of(entry)
        cdef int64_t now = fm_now_ns(), waited = 0
        if entry.parks:
            waited = (<Primitive>obj).waited
            for waiter in waiting:
                waited += now - waiter.since
        about = {
            "id": entry.ident,
            "typeid": entry.typeid or type(obj).__name__,
            "name": names.get(id(obj)),
            "references": entry.refcount,
            "waiters": len(waiting),
            "waited": waited * NS,
            "size": size_of(obj),
            "in_memory": is_in_memory(entry),
        }
        put_tally(about, &entry.tally)
        return about

    cdef list clients(self, list conns, Py_ssize_t most):
        cdef dict conns_of = {}
        cdef list found = []
        cdef Session session
        cdef Conn conn
        cdef Py_ssize_t i
        for i, conn in enumerate(conns):
            if conn.session is not None:
                conns_of.setdefault(conn.session, []).append(conn)
            elif conn.name:         # a peer of the stdlib's, whose calls are served
                conns_of.setdefault(conn.peer if conn.peer[0] else conn, []).append(conn)
            let_others_run(i)
        for i, (whose, its) in enumerate(conns_of.items()):
            if i == most:
                break
            session = whose if type(whose) is Session else None
            found.append(about_client(session, its))
            let_others_run(i)
        return found

    cdef list locks(self, list entries, dict names, Parties parties, Py_ssize_t most):
        cdef list found = []
        cdef list holders, waiting
        cdef Primitive obj
        cdef Entry entry
        cdef Py_ssize_t i
        for i, entry in enumerate(entries):
            let_others_run(i)
            if not entry.parks:
                continue
            obj = entry.obj
            holders, waiting = obj.holders(), obj.waiters()
            if holders or waiting:
                found.append({
                    "id": entry.ident,
                    "typeid": entry.typeid or type(obj).__name__,
                    "name": names.get(id(obj)),
                    "holders": [parties.holder(*holder) for holder in holders],
                    "waiters": [parties.waiter(waiter) for waiter in waiting],
                })
                if len(found) >= most:
                    break
        return found


@cython.final
cdef class Parties:
    """Who is who: what the numbers in locks mean."""

    cdef dict conns             # owner's number -> Conn
    cdef dict sessions          # number -> Session
    cdef int64_t now

    def __init__(self, list conns, list sessions):
        cdef Conn conn
        cdef Session session
        self.conns = {}
        self.sessions = {}
        self.now = fm_now_ns()
        for conn in conns:
            self.conns[conn.number] = conn
        for session in sessions:
            self.sessions[session.number] = session

    cdef dict party(self, uint64_t number, Conn conn, int64_t since):
        """Describe an owner, by its number and the connection that has it, if there is one."""
        cdef Session session = None
        if conn is None:
            conn = self.conns.get(number)
        session = self.sessions.get(session_of(number)) if conn is None else conn.session
        host, pid, process, thread = "", None, None, None
        if session is not None:
            host, pid, process = session.host, session.pid, session.process
        elif conn is not None:
            pid, host = conn.peer
            process = conn.name.partition("|")[0]
        elif session_of(number) == 0:
            pid, process = os.getpid(), "server"
        if conn is not None:
            thread = thread_of(conn)
            pid = pid or conn.peer[0]
        return {
            "host": host or os.uname().nodename,
            "pid": pid,
            "process": process,
            "thread": thread,
            "since": (self.now - since) * NS if since else None,
            "number": number,
        }

    def holder(self, uint64_t number, int64_t since):
        return self.party(number, None, since)

    def waiter(self, Waiter waiter not None):
        conn = <Conn>waiter.owner if type(waiter.owner) is Conn else None
        return self.party(waiter.owner.number, conn, waiter.since)


cdef str thread_of(Conn conn):
    """The name of the client's thread; its main thread is called by the process's name alone."""
    return conn.name.partition("|")[2] or "MainThread"


cdef dict about_client(Session session, list conns):
    """Describe a client process: of ours, or of the stdlib's, which has no session."""
    cdef Conn conn = conns[0]
    cdef Tally all
    cdef size_t mapped = 0
    if session is not None:
        all, mapped = session.tally, session.mapped
        pid, host, process = session.pid, session.host, session.process
        references = len(session.held)
    else:
        pid, host, process, references = conn.peer[0], "", conn.name.partition("|")[0], None
        all = conn.own
        for conn in conns[1:]:
            add_tally(&all, &conn.own)
    for conn in conns:
        if conn.stream.mailbox is not NULL:
            mapped += FM_MAILBOX_SIZE
    conn = conns[0]
    about = {
        "pid": pid or conn.peer[0],
        "host": host or (os.uname().nodename if not conn.peer[1] else conn.peer[1]),
        "name": process,
        "address": conn.peer[1],
        "connections": len(conns),
        "threads": [thread_of(conn) for conn in conns],
        "references": references,
        "mapped": mapped,
        "number": conn.number if session is None else session.number,
    }
    put_tally(about, &all)
    return about


cdef bint is_in_memory(Entry entry) except -1:
    """Whether clients on this host may make calls that the server does not see."""
    cdef Celled obj
    if entry.version is not None:
        return True
    if not isinstance(entry.obj, Celled):
        return False
    obj = entry.obj
    return obj.cell is not None and obj.cell.segment is not None


cdef object backlog_of(listener):
    """How many connections wait to be accepted; None where nothing tells."""
    try:
        return listener.backlog()
    except (OSError, AttributeError):       # it is closed this moment, or it is a user's own
        return None


cdef object resident():
    """The bytes of memory that this process has; None where nothing tells."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return None
