"""The server's hot path: read, decode, look up, run, encode, write.

Two drivers call one dispatch.  The loop serves connections whose requests run
built-in code on plain values; a worker thread serves one connection whose
requests may run anything.  `Engine.serve` is what both call, and the stock
dialect's ``serve_client`` runs the same `Engine.perform`.
"""

cimport cython
from cpython.object cimport Py_TYPE, PyObject, PyTypeObject
from libc.stdint cimport int32_t
from libc.string cimport memcpy, memset

from fastmgr.memory.arena cimport KIND_NONE, Arena, Celled, Segment, new_segment
from fastmgr.link.stream cimport (
    ENDS_CUT_OFF, FLAG_ANONYMOUS, FLAG_CARRIED, FLAG_FOLLOWS, FLAG_GAINS, FLAG_ONEWAY, FLAG_PICKLED,
    FRAME_PARTIAL, FRAME_READY, FRAME_TIMEOUT, HEADER_SIZE, MAILBOX, OP_ATTACH, OP_CALL,
    OP_CONTROL, OP_CREATE, OP_ERROR, OP_FAILED, OP_GOODBYE, OP_INCREF, OP_LOCATE, OP_PROXY,
    OP_REFUSED, OP_RELEASE, OP_RETURN, OP_TRACEBACK, OP_UNSERIALIZABLE, Header,
)
from fastmgr.server.connection cimport CLOSE, HAND_OFF, KEEP, PARK, Conn
from fastmgr.server.driver cimport Driver
from fastmgr.server.load cimport Load, note_request
from fastmgr.server.loop cimport Handler, Loop
from fastmgr.link.mailbox cimport FM_MAILBOX_SIZE
from fastmgr.link.message cimport begin_message, seal
from fastmgr.link.system cimport fm_spinner, uint8_t, uint64_t
from fastmgr.kinds.waits cimport Primitive, Waiter
from fastmgr.server.table cimport Entry, Session, key_of
from fastmgr.wire.codec cimport Opaque, Reader, Writer

cdef extern from "Python.h":
    object PyObject_Vectorcall(object function, PyObject **args, size_t count, PyObject *names)

import threading
from contextlib import suppress
from multiprocessing import util
from time import sleep
from traceback import format_exc

from fastmgr.kinds import rows
from fastmgr.kinds.carried import put_in_place, read_values
from fastmgr.kinds.waits import here
from fastmgr.link.handshake import HANDSHAKE_LIMIT
from fastmgr.link.introduction import (
    answer_introduction, is_proved, parse_introduction, stock_is_refused,
)
from fastmgr.link.stream import KINDS, OPS
from fastmgr.server.named import named_handle
from fastmgr.stock.dialect import Idle, StockConnection, Token
from fastmgr.wire.methods import METHODS as _methods
from fastmgr.wire.transit import transit

# Calls in a row that the loop could have served until a worker gives its connection back.
cdef enum:
    STREAK = 64

# Handles in a message that the loop sees to at once; on a worker others may run after as many.
cdef enum:
    HANDLES_AT_ONCE = 1024

# Arguments that need no tuple of their own.
cdef enum:
    FEW = 4

cdef enum:
    NOT_CARRIED = -2

# Exposed names, or handles that are no object's, that an error says something of.
cdef enum:
    MOST_NAMES = 30

# Bytes of replies that the loop sends in one go.
cdef enum:
    BATCH_SIZE = 64 * 1024

cdef object MISSING = object()
cdef frozenset PLAIN = frozenset((bool, int, float, str, bytes, Opaque))
cdef tuple METHODS = _methods

# What is particular to the types; filled as they are declared.
cdef set MADE_ON_LOOP = rows.MADE_ON_LOOP
cdef set SHOWN_IF_MADE_BY = rows.SHOWN_IF_MADE_BY
cdef set SHOWN_IF_NAMED_BY = rows.SHOWN_IF_NAMED_BY
cdef set ERRORS = rows.ERRORS
cdef dict CELL_CALLS = rows.CELL_CALLS
cdef dict KEPT_ARGUMENT = rows.KEPT_ARGUMENT
cdef dict UNREAD = rows.UNREAD
cdef dict VERBS = rows.VERBS

cdef double FOREVER = float("inf")

# Seconds without a request after which a worker gives its connection back.
cdef double WORKER_PATIENCE = 1.0


class UnknownType(KeyError):
    """No type of that name is registered with the server."""

    def __init__(self, typeid, server):
        known = ", ".join(sorted(map(repr, server.registry)))
        super().__init__(typeid)
        self.text = (
            f"KeyError: {typeid!r}: the server at {server.address!r} has no type of that name; "
            f"register it with the manager's class in the server, too (it has {known})\n"
        )


cpdef tuple failed_creation(server, typeid, kwds, error):
    """What is replied when a creation has failed: the operation and the payload.

    To be called while the exception is handled.
    """
    if isinstance(error, UnknownType):
        return <int>OP_TRACEBACK, error.text
    registered = server.registry.get(typeid) if type(typeid) is str else None
    if registered is not None and isinstance(error, Exception) and (
        registered[0] in SHOWN_IF_MADE_BY
        or registered[0] in SHOWN_IF_NAMED_BY and type(kwds) is dict and "name" in kwds
    ):
        error.__traceback__ = None
        return <int>OP_ERROR, error
    return <int>OP_TRACEBACK, format_exc()


def create(server, typeid, args, kwds, bint known=False):
    """Make an object of a registered type and share it; return its entry.

    Raises
    ------
    UnknownType
        No type is registered under `typeid`.
    ValueError
        The type has no callable and there is not exactly one argument.
    TypeError
        The registered ``method_to_typeid`` is no dict.
    """
    if typeid not in server.registry:
        raise UnknownType(typeid, server)
    function = server.registry[typeid][0]
    if function is None:
        if kwds or len(args) != 1:
            raise ValueError("Without callable, must have one non-keyword argument")
        obj = args[0]
    else:
        try:
            obj = function(*args, **kwds) if kwds else function(*args)
        except Exception:
            raise
        except BaseException as error:      # it is not to end the thread that serves the client
            raise RuntimeError(f"{typeid!r}: what makes it raised {error!r}") from error
        known = known and function in MADE_ON_LOOP
    handle = 0
    if kwds and type(typeid) is str:
        name = kwds.get("name")
        if type(name) is str and server.names.objects.get(name) is obj:
            handle = named_handle(typeid, name)
    return share(server, typeid, obj, known, handle)


cdef Entry share(server, typeid, obj, bint known, uint64_t handle):
    """Share an object of a registered type; return its entry."""
    _function, exposed, method_to_typeid, _proxytype = server.registry[typeid]
    if exposed is None:
        exposed = server.public_methods(obj)
    if method_to_typeid is not None:
        if not isinstance(method_to_typeid, dict):
            raise TypeError(
                f"Method_to_typeid {method_to_typeid!r}: type {type(method_to_typeid)}, not dict"
            )
        exposed = list(exposed) + list(method_to_typeid)
    return server.table.add(obj, exposed, method_to_typeid, known, handle)


cdef int note_carried(Entry entry) except -1:
    """See whether the object may hold `Opaque` values, and whether it does."""
    cdef object unread = UNREAD.get(type(entry.obj))
    entry.carries = entry.known
    if unread is not None and unread.beside_cell is not None:
        # One with a name may have had a life before.
        held = unread.beside_cell(entry.obj)
        if held is not None:
            entry.opaque = type(held) is Opaque
            entry.known = entry.known and entry.opaque
    return 0


def revive(server, key):
    """Share a named object again for who has known it in another server, or before it was dropped.

    Returns
    -------
    Entry or None
        Without a reference counted; None where the key is of no named object.
    """
    cdef Entry entry
    found = server.finder.find(key, server.names, server.registry)
    if found is None:
        return None
    typeid, obj = found
    entry = share(server, typeid, obj, True, key)
    entry.refcount -= 1
    note_carried(entry)
    return entry


cdef object method_name(Conn conn, Reader reader):
    cdef Py_ssize_t number = conn.stream.header.method
    if number == 0:
        name = reader.get()
        hash(name)      # here a TypeError harms nobody
        return name
    if number > len(METHODS):
        raise ValueError(f"a method of number {number}: this server knows {len(METHODS)}")
    return METHODS[number - 1]


cdef tuple call_arguments(Reader reader):
    """What follows a name: the arguments, and the keywords or None."""
    args = reader.get()
    kwds = reader.get()
    return args if kwds is True else (args, kwds)


cdef bint keeps(Entry entry, object name, object args) except -1:
    """Whether the method keeps the `Opaque` among its arguments without looking at it."""
    cdef Py_ssize_t i, kept
    cdef object obj = entry.obj
    if type(args) is not tuple or entry.method_to_typeid and name in entry.method_to_typeid:
        return False
    kept = KEPT_ARGUMENT.get((type(obj), name), -1)
    if not 0 <= kept < len(<tuple>args):
        return False
    for i in range(len(<tuple>args)):
        if type((<tuple>args)[i]) is Opaque and i != kept:
            return False
    keeps_if = UNREAD[type(obj)].keeps_if
    return keeps_if is None or keeps_if(args)


cdef object call_unbound(object function, object obj, object args, object kwds):
    cdef PyObject *stack[1 + FEW]
    cdef Py_ssize_t i, n
    if kwds or type(args) is not tuple or len(<tuple>args) > FEW:
        return function(obj, *args, **(kwds or {}))
    n = len(<tuple>args)
    stack[0] = <PyObject *>obj
    for i in range(n):
        stack[i + 1] = <PyObject *>(<tuple>args)[i]     # held by `args`
    return PyObject_Vectorcall(function, stack, <size_t>(n + 1), NULL)


cdef inline bint is_oneway(Conn conn) noexcept:
    """Whether nobody waits for the reply to the connection's current request."""
    return (
        conn is not None and conn.stream.fast and conn.stream.header.op == OP_CALL
        and conn.stream.header.flags & FLAG_ONEWAY
    )


cdef bint is_hard_to_drop(Entry entry) except -1:
    """Whether dropping it is not for the loop: its destructor may be a user's, or take long."""
    return not entry.known or isinstance(entry.obj, Celled) and (<Celled>entry.obj).is_heavy(True)


cdef str some_names(names):
    """The names that are exposed, in an order that does not change, and not too many of them."""
    shown = sorted(map(repr, names))
    more = len(shown) - MOST_NAMES
    if more > 0:
        shown[MOST_NAMES:] = [f"... and {more} more"]
    return f"{{{', '.join(shown)}}}"


cdef object told(Conn conn):
    """What is said of the error being handled; None where nobody hears more than of the first."""
    return None if is_oneway(conn) and (conn.failed or conn.left) else format_exc()


cdef bint is_blind(object obj, object name):
    """Whether the method does not look at what `obj` holds."""
    unread = UNREAD.get(type(obj))
    return unread is not None and (unread.blind is None or name in unread.blind)


def look_inside(Entry entry):
    """Unpickle what the object holds unread.

    Raises
    ------
    Exception
        Whatever unpickling raises; then nothing has changed.
    """
    cdef dict read = {}
    if not entry.opaque:
        return
    # It may take long, or fail: others go on carrying meanwhile.
    read_values(entry.obj, read)
    entry.looking += 1      # from here on no call begins to carry
    try:
        while entry.carrying:
            sleep(0)        # a few steps of another thread are left
        while read_values(entry.obj, read):
            pass
        entry.known = False
        # Whoever else looks meanwhile reads too; what one has put in place the other leaves.
        put_in_place(entry.obj, read)
        entry.opaque = False
    finally:
        entry.looking -= 1
        assert entry.looking >= 0


cdef bint shows_values(Entry entry, object name) except -1:
    """Whether a call of the method needs what the object holds unread."""
    if not entry.opaque or name == "__repr__" or name == "__str__":     # as far as it can be had
        return False
    if not is_blind(entry.obj, name):
        return True
    # What it returns is shared by itself, and not only sent.
    return (
        entry.method_to_typeid is not None and name in entry.method_to_typeid
        and name not in UNREAD[type(entry.obj)].bare
    )


@cython.final
@cython.freelist(8)
cdef class Gift:
    """What the reply to a call gave, until the peer is known to have taken it."""


cdef int note_taking(dict taken, Gift gift) except -1:
    if gift.waiter.depth == 0:      # not a condition's `wait`
        taken.setdefault(gift.handle, []).append(gift)
    return 0


@cython.final
cdef class Worker(Driver):
    """One thread that serves one connection by blocking reads."""

    def __init__(self, Load load):
        self.load = load

    cdef int send_replies(self, Conn conn) except -1:
        if self.writer.size or conn.stream.unsent is not None:
            conn.stream.send_all(self.writer.data, self.writer.size, self.writer.buffers or None)
            self.writer.reset()
        return 0


@cython.final
cdef class Engine(Handler):
    """What a server does with requests.

    Parameters
    ----------
    server : Server
        Its registry, table, hooks and names of public functions are used.
    listener : Listener or None
        None where the server accepts connections itself, on threads.
    workers : Workers
        Threads for connections that may block or run users' code.
    offers_fast : bool
        Whether the fast dialect is offered.
    arena : Arena, optional
        What may be shared with clients on the host.
    """

    def __init__(self, server, listener, workers, bint offers_fast, Arena arena=None):
        self.load = Load()
        self.loop = Loop(server, listener, self.load)
        self.server = server
        self.table = server.table
        self.workers = workers
        self.offers_fast = offers_fast
        self.arena = arena
        self.proxytypes = {}
        self.doomed = []

    def run(self):
        """Serve until the loop is stopped."""
        self.loop.run(self)

    @property
    def conns(self):
        """The connections by their descriptors."""
        return self.loop.conns

    # -- driver one: the loop -----------------------------------------------

    cdef int begin(self) except -1:
        if self.arena is not None:
            try:
                self.arena.open()
            except (OSError, MemoryError) as error:
                util.info("no shared memory for clients on this host: %s", error)
                self.arena = None
        return 0

    cdef int end(self) except -1:
        for conn in self.loop.conns.values():
            self.end_wait(conn)     # nobody would hear what it is given
        if self.arena is not None:
            self.arena.close()
        return 0

    cdef int serve(self, Conn conn) except -1:
        if conn.stream.fast:
            return self.dispatch(conn, self.loop)
        if conn.stock is not None:
            return HAND_OFF
        handshake, conn.handshake = conn.handshake, None
        if self.offers_fast and self.introduce(conn, handshake):
            return KEEP if conn.stream.fast else CLOSE
        if stock_is_refused():
            util.info("connection refused: %s", "a peer of the standard library's")
            return CLOSE
        return HAND_OFF

    cdef int introduce(self, Conn conn, object handshake) except -1:
        """Whether the first request is an introduction; if so it is answered, where it is true."""
        cdef bytes frame
        if conn.stream.size > HANDSHAKE_LIMIT:
            return 0
        frame = conn.stream.body[:conn.stream.size]
        introduced = parse_introduction(frame)
        if introduced is None:
            return 0
        if not is_proved(frame, handshake.prove):
            util.info("connection refused: the introduction is not of this handshake")
            return 1
        session_id, conn.name, thread = introduced
        conn.session = self.table.join(session_id)
        conn.belong(conn.session.number, thread)
        if conn.session.connections == 1 and self.arena is not None:
            conn.session.place = self.arena.enter(conn.session.number)
        answer = (
            self.server.instance, conn.session.connections > 1, conn.session.number,
            conn.session.place,
        )
        self.loop.send_frames(conn, [answer_introduction(frame, answer, handshake.prove)])
        conn.stream.fast = True
        return 1

    cdef int part(self, Conn conn, const Header *goodbye) except -1:
        """The peer has closed this connection in order, or ends as a process."""
        conn.clean = True
        conn.untaken = goodbye.call     # read by `leave`, which comes next
        if goodbye.handle:
            conn.session.clean = True
        return 0

    cdef Gift note_gift(self, Conn conn):
        """The reply to the current call gives something that an interrupted peer is not to keep."""
        cdef Gift gift = Gift()
        gift.call = conn.stream.header.call
        if conn.in_transit is None:
            conn.in_transit = [gift]
        else:
            conn.in_transit.append(gift)
        return gift

    cdef int reply_taking(self, Conn conn, Driver by, Waiter waiter, object value) except -1:
        """Reply to a call of a primitive with `value`, which it may have got from it."""
        cdef Gift gift
        cdef int verdict
        if (
            waiter.method == "put" or is_oneway(conn)
            or value is False and waiter.method == "acquire"    # nothing was given
        ):
            return self.reply(conn, by, OP_RETURN, 0, value)
        gift = self.note_gift(conn)
        gift.handle = conn.stream.header.handle
        gift.waiter = waiter
        gift.value = value
        if conn.left:       # this moment, it may be: `end_exchange` undoes a gift once only
            conn.untaken = gift.call
            self.take_back_gifts(conn, [gift], False)
            return CLOSE
        if conn.taken is not None:
            note_taking(conn.taken, gift)
        verdict = self.reply(conn, by, OP_RETURN, 0, value)
        gift.is_hard = (verdict == HAND_OFF or not by.on_loop) and type(value) not in PLAIN
        return verdict

    cdef int forget_gifts(self, Conn conn, Driver by) except -1:
        """The peer has taken what it was given, or shall have it."""
        cdef list given
        given, conn.in_transit = conn.in_transit, None
        conn.taken = None
        if by.on_loop and given is not None:
            self.drop_gifts(given)
        return 0

    cdef int drop_gifts(self, list given) except -1:
        for thing in given:
            if type(thing) is Gift and (<Gift>thing).is_hard:
                self.drop_elsewhere((<Gift>thing).value)
        return 0

    cdef int forget_taking(self, Conn conn, object count) except -1:
        """The current call has given back what its pipeline took before, the last first."""
        cdef list gifts
        if conn.taken is None:
            conn.taken = {}
            for thing in conn.in_transit or ():
                if type(thing) is Gift and (<Gift>thing).waiter is not None:
                    note_taking(conn.taken, thing)
        gifts = conn.taken.get(conn.stream.header.handle)
        if gifts:
            if type(count) is not int or count > len(gifts):
                count = len(gifts)
            for _ in range(<Py_ssize_t>count):
                (<Gift>gifts.pop()).waiter = None
        return 0

    cdef int take_back_gifts(self, Conn conn, list given, bint cut_off) except -1:
        """Undo what the replies gave that the peer, which was interrupted, has not taken.

        All of it if the pipeline was `cut_off`: its client gets no reply.  The last comes first, so
        that the items of a queue are in their order again.
        """
        cdef list dead = []
        cdef list keys
        cdef Entry entry
        cdef Gift gift
        cdef Waiter waiter
        for thing in reversed(given):
            if type(thing) is not Gift:
                continue
            gift = thing
            if not cut_off and <int32_t>(gift.call - conn.untaken) < 0:
                continue
            waiter, gift.waiter = gift.waiter, None
            keys, gift.keys = gift.keys, None
            if waiter is not None:
                entry = self.table.find(gift.handle)
                if entry is not None and entry.parks:
                    entry.opaque = entry.opaque or type(gift.value) is Opaque
                    waiter.value, gift.value = gift.value, None
                    waiter.cut_off = cut_off
                    (<Primitive>entry.obj).interrupted(waiter)
                    waiter.value = None     # timers may keep the waiter
            for key in keys or ():
                with suppress(KeyError, AssertionError):
                    dead.append(
                        self.table.release(key) if gift.anonymous
                        else self.table.session_release(conn.session, key, 1))
        return self.dispose([entry for entry in dead if entry is not None])

    cdef int leave(self, Conn conn) except -1:
        """The peer is gone; with its session's last connection go its references."""
        cdef Session session = conn.session
        cdef Entry entry
        try:
            self.end_exchange(conn)
        finally:
            if session is not None:
                session.broken = session.broken or not conn.clean
                if self.table.leave(session):
                    if self.arena is not None:
                        self.arena.leave(session.place)
                    if session.broken and not session.clean:
                        # What a killed client held goes on; after a clean exit it stays held, as in
                        # the stdlib.
                        for key in list(session.parked):
                            entry = self.table.find(key)
                            if entry is not None and entry.parks:
                                (<Primitive>entry.obj).abandon(session.number)
                    self.dispose(self.table.forsake(session))
        return 0

    cdef int end_exchange(self, Conn conn) except -1:
        """End the wait of a peer that is gone, and take back what it has not taken."""
        cdef Header last
        cdef list given
        cdef bint cut_off = False
        if conn.session is not None and not conn.clean:
            # A goodbye lies behind a call that is not done, or behind what nobody will serve.
            if conn.stream.ending(&last) == ENDS_CUT_OFF:
                cut_off = last.flags & FLAG_FOLLOWS != 0
            elif last.op == OP_GOODBYE:
                self.part(conn, &last)
        self.end_wait(conn)
        given, conn.in_transit = conn.in_transit, None
        conn.taken = None
        if given is not None:
            if conn.untaken or cut_off:
                self.take_back_gifts(conn, given, cut_off)
            self.drop_gifts(given)
        if conn.failure is not None:
            failure, conn.failure = conn.failure, None
            self.drop_elsewhere(failure)
        return 0

    cdef int end_wait(self, Conn conn) except -1:
        """End the wait of a connection whose client does not wait any more, if there is one."""
        cdef Waiter waiter = conn.waiter
        if waiter is None or waiter.at is None:
            return 0
        conn.finished = True    # its worker makes none of the calls that were to come after it
        if waiter.finished:
            if not waiter.failed:
                waiter.at.interrupted(waiter)    # it was given something this moment
            waiter.failed, waiter.value = True, None
        waiter.at.cancel(waiter)
        conn.waiter = None
        return self.discard(waiter)

    cdef int answer(self, Conn conn) except -1:
        cdef Waiter waiter = conn.waiter
        conn.waiter = None
        # A waiter may stay among the timers until its deadline: not with what it was given.
        value, waiter.value = waiter.value, None
        self.discard(waiter)
        if waiter.failed:
            return self.reply(conn, self.loop, OP_ERROR, 0, value)
        return self.reply_taking(conn, self.loop, waiter, value)

    cdef int discard(self, Waiter waiter) except -1:
        """Drop what a call brought that came to nothing, on a worker: it may be a user's."""
        item, waiter.item = waiter.item, None
        return self.drop_elsewhere(item)

    cdef int dispose(self, list dead) except -1:
        """Drop entries from the loop: where a destructor might be a user's, elsewhere."""
        cdef Entry entry
        for entry in dead:
            if is_hard_to_drop(entry):
                return self.dispose_elsewhere(dead)
        return 0

    cdef int dispose_elsewhere(self, list dead) except -1:
        self.disposing += 1
        try:
            self.workers.submit(self.dispose_now, "disposal", dead)
        except BaseException:
            self.disposing -= 1     # there is no thread for it
            raise
        return 0

    def dispose_now(self, list dead):
        """Drop entries whose objects may have destructors of their own."""
        try:
            dead.clear()
        finally:
            self.disposing -= 1

    cdef int hand_off(self, Conn conn) except -1:
        if not conn.timed:
            conn.timed = True
            conn.stream.set_timeout(WORKER_PATIENCE)
        self.workers.submit(self.work, conn.name or "stock peer", conn)
        return 0

    # -- driver two: a worker -------------------------------------------------

    def work(self, Conn conn):
        """Serve one connection on the calling thread until it idles or ends.

        Returns
        -------
        bool
            Whether the thread may serve another connection: not if a user's
            object may have left something of this one in it.
        """
        try:
            if conn.stream.fast:
                self.work_fast(conn)
            else:
                self.work_stock(conn)
        except (EOFError, OSError, SystemExit):
            conn.finished = True
        except BaseException:
            conn.finished = True
            util.sub_warning("connection dropped by an internal error:\n%s", format_exc())
        finally:
            here.owner = None
            self.loop.give_back(conn)
        return not conn.pinned

    cdef int work_fast(self, Conn conn) except -1:
        cdef Worker by = Worker(self.load)
        cdef fm_spinner spinner
        cdef int status, verdict
        memset(&spinner, 0, sizeof(spinner))
        if conn.undelivered is not None:
            (op, handle, payload), conn.undelivered = conn.undelivered, None
            self.reply(conn, by, op, handle, payload)
            payload = None
        while not conn.finished:
            status = conn.stream.take()
            if status == FRAME_PARTIAL:
                by.send_replies(conn)
                by.reader.buffers = None
                conn.receiving = True
                status = conn.stream.receive(False, &spinner, self.load.may_spin)
                conn.receiving = False
            if status == FRAME_READY:
                if (
                    conn.hung_up and not conn.left
                    and conn.stream.header.op != OP_RELEASE and conn.stream.header.op != OP_GOODBYE
                ):
                    # Its last request, which may take long: what it held goes back before.
                    self.loop.hang_up(conn)
                if conn.stream.unsent is not None:
                    by.send_replies(conn)    # what is served now may take long
                verdict = self.dispatch(conn, by)
                if verdict == PARK or verdict == CLOSE:
                    by.send_replies(conn)
                if verdict == PARK:
                    conn.stream.shut_mailbox()
                    return 0
                if verdict == CLOSE:
                    conn.finished = True
                conn.stream.drop_buffers()
                if conn.streak > STREAK and not self.load.may_spin and not conn.pinned:
                    # Where many are busy one loop serves them better than as many threads.
                    by.send_replies(conn)
                    conn.streak = 0
                    if not conn.stream.shut_mailbox():
                        return 0
            elif status != FRAME_TIMEOUT:
                conn.finished = True
            elif not conn.pinned:
                return 0
        return 0

    cdef int work_stock(self, Conn conn) except -1:
        if conn.stock is None:
            conn.stock = _Served(conn, self.server.serializer)
        try:
            if not conn.introduced:
                self.server.answer_request(conn.stock)
                conn.finished = True
            else:
                self.server.serve_client(conn.stock)
        except Idle:
            conn.introduced = True
        return 0

    cdef int pin(self, Conn conn) except -1:
        """Keep this thread for this connection: what it owns stays its own."""
        conn.pinned = True
        conn.stream.set_timeout(0)
        if conn.stock is not None:
            conn.stock.may_idle = False
        return 0

    # -- the dispatch of both -------------------------------------------------

    cdef int dispatch(self, Conn conn, Driver by) except -1:
        """Serve the stream's last frame.  The caller owns `conn` and `by`."""
        cdef uint8_t op = conn.stream.header.op
        note_request(self.load, conn.stream.fd, by.on_loop)
        if op == OP_CALL:
            return self.serve_call(conn, by)
        if op == OP_RELEASE:
            return self.serve_release(conn, by)
        if op == OP_INCREF:
            return self.serve_incref(conn, by)
        if op == OP_LOCATE:
            return self.serve_locate(conn, by)
        if op == OP_ATTACH:
            return self.serve_attach(conn, by)
        if op == OP_GOODBYE:
            self.part(conn, &conn.stream.header)
            return CLOSE
        if conn.in_transit is not None:
            self.forget_gifts(conn, by)
        if op == OP_CREATE:
            return self.serve_create(conn, by)
        if op == OP_CONTROL:
            return HAND_OFF if by.on_loop else self.serve_control(conn, by)
        util.info("connection dropped: unknown operation %d", op)
        return CLOSE

    cdef int serve_call(self, Conn conn, Driver by) except -1:
        cdef Entry entry = self.table.at(conn.stream.header.handle)
        cdef int verdict
        if conn.failed and conn.stream.header.flags & FLAG_GAINS:
            # Who is told of a failure by an exception could not use, nor give back, what it gains.
            return self.reply(conn, by, OP_REFUSED, 0, None)
        if (
            conn.stream.header.flags & FLAG_CARRIED and entry is not None and entry.known
            and entry.carries and not entry.looking
        ):
            entry.carrying += 1
            try:
                verdict = self.serve_call_of(conn, entry, by, True)
            finally:
                entry.carrying -= 1
                assert entry.carrying >= 0
            if verdict != NOT_CARRIED:
                return verdict
        return self.serve_call_of(conn, entry, by, False)

    cdef int serve_call_of(
        self, Conn conn, Entry entry, Driver by, bint carried
    ) except -1:
        """Serve a call of an entry (None: there is none); with `carried` its pickle is kept.

        NOT_CARRIED says that the pickle has to be read, and that nothing was done.
        """
        cdef uint64_t handle = conn.stream.header.handle
        cdef object returned = None     # how many that it took this connection gives back
        cdef bint pickled = conn.stream.header.flags & FLAG_PICKLED
        cdef uint8_t op = OP_RETURN
        if entry is None or (pickled and not carried) or not (entry.known or entry.parks):
            if by.on_loop:
                return HAND_OFF
            conn.streak = 0
        else:
            conn.streak += 1
        if conn.in_transit is not None and not conn.stream.header.flags & FLAG_FOLLOWS:
            self.forget_gifts(conn, by)
        by.reader.feed(
            conn.stream.body, conn.stream.size, conn.stream.buffers, pickled and not by.on_loop
        )
        by.reader.carry = carried
        try:
            name = method_name(conn, by.reader)
            args, kwds = call_arguments(by.reader)
            if carried and not keeps(entry, name, args):
                return NOT_CARRIED
        except BaseException:
            return self.reply(conn, by, OP_TRACEBACK, 0, told(conn))
        if entry is not None:
            if carried:
                assert entry.known and entry.carries    # nobody else may see an `Opaque`
                entry.opaque = True
            elif pickled and not shows_values(entry, name):
                entry.known = False     # from now on it may hold anything; or else once all is read
            if entry.opaque and by.on_loop and (
                not is_blind(entry.obj, name) or shows_values(entry, name)
            ):
                return HAND_OFF
            if entry.pins and not conn.pinned:
                self.pin(conn)
            if entry.parks:
                if by.on_loop and not entry.known and name == "shutdown":
                    return HAND_OFF     # it may drop what users put there
                blocks = name in entry.names and (<Primitive>entry.obj).blocks(name)
                if conn.left and (blocks or name == "release" or name == "consistent"):
                    # Dead already: what it took now it would hold for ever, and what it held is
                    # another's by now, who has not released it.
                    return CLOSE
                here.owner = conn
                if blocks:
                    if conn.noted != conn.stream.header.handle:
                        self.table.note_parked(conn.session, entry)
                        conn.noted = conn.stream.header.handle
                    if entry.method_to_typeid is None or name not in entry.method_to_typeid:
                        return self.serve_blocking(conn, entry, by, name, args, kwds)
                    if by.on_loop:
                        return HAND_OFF     # what it returns is to be shared: a worker waits for it
                if conn.in_transit is not None and (name == "release" or name == "task_done"):
                    returned = args[0] if args else kwds.get("n", 1) if kwds else 1
        payload = self.perform(
            conn, conn, entry, "%x" % handle if entry is None else None, name, args, kwds, &op,
            &handle,
        )
        # What the call was given must not outlive it in this frame.
        entry = args = kwds = None
        if returned is not None and op == OP_RETURN:
            self.forget_taking(conn, returned)
        return self.reply(conn, by, op, handle, payload)

    cdef int serve_blocking(
        self, Conn conn, Entry entry, Driver by, object name, object args, object kwds
    ) except -1:
        """A call that may have to wait: it is answered now, or parked, or a pinned worker waits."""
        cdef Waiter waiter
        try:
            if conn.pinned:
                waiter = Waiter(conn)
                (<Primitive>entry.obj).wait_here(waiter, name, args, kwds or {})
            else:
                waiter = Waiter(conn, self.loop.finished)
                # Before it is queued, for it may be finished by another thread at once.
                conn.waiter = waiter
                waiter.method = name
                (<Primitive>entry.obj).begin(waiter, name, args, kwds or {})
        except Exception as error:
            conn.waiter = None
            return self.reply(conn, by, OP_ERROR, 0, error)
        if waiter.at is not None and not conn.pinned:
            self.loop.set_timer(waiter)
            return PARK
        conn.waiter = None
        if waiter.failed:
            return self.reply(conn, by, OP_ERROR, 0, waiter.value)
        value, waiter.value = waiter.value, None
        return self.reply_taking(conn, by, waiter, value)

    cdef object perform(
        self, object c, Conn conn, Entry entry, object ident, object name, object args,
        object kwds, uint8_t *op, uint64_t *handle
    ):
        """Call a method of a shared object; return the reply's payload and set its operation.

        `c` is the connection as hooks see it; `conn` is the engine's, None for a
        connection that a server accepted itself.  `handle` is set for OP_PROXY.
        """
        op[0] = OP_RETURN
        handle[0] = 0
        try:
            if entry is None:
                raise self.table.missing(ident)
            obj = entry.obj
            if entry.opaque and shows_values(entry, name):
                look_inside(entry)
            if name in entry.names:
                function = MISSING
                unbound = entry.methods.get(name) if entry.methods is not None else None
                if unbound is None:
                    try:
                        function = getattr(obj, name)
                    except AttributeError:
                        # It may be a user's, raised by a property or by `__getattr__`.
                        unbound = VERBS.get((type(obj), name))
                        if unbound is None and name not in self.server.fallback_mapping:
                            raise
                if unbound is not None or function is not MISSING:
                    try:
                        if unbound is not None:
                            result = call_unbound(unbound, obj, args, kwds)
                        else:
                            result = function(*args, **kwds) if kwds else function(*args)
                    except Exception as error:
                        op[0] = OP_ERROR
                        return error
                    if entry.method_to_typeid:
                        typeid = entry.method_to_typeid.get(name)
                        if typeid and not is_oneway(conn):
                            result, handle[0] = self.make_proxy(c, conn, entry, typeid, result)
                            op[0] = OP_PROXY
                    return result
            fallback = self.server.fallback_mapping.get(name)
            if fallback is None:
                raise AttributeError(
                    f"method {name!r} of {type(obj)!r} object is not in "
                    f"exposed={some_names(entry.names)}"
                )
            return fallback(self.server, c, entry.ident, obj, *args, **(kwds or {}))
        except BaseException as error:
            if not isinstance(error, Exception):
                # The client is told, and goes on: what it stands for was to end something here.
                util.info("%r raised %r", name, error)
            op[0] = OP_TRACEBACK
            return told(conn)

    cdef tuple make_proxy(self, object c, Conn conn, Entry parent, object typeid, object result):
        """Share what a method returned, and return what is said of it and its handle.

        A fast peer's session owns the reference.
        """
        cdef Entry entry
        if conn is None or conn.session is None:
            ident, exposed = self.server.create(c, typeid, result)
            return (exposed, Token(typeid, self.server.address, ident)), 0
        entry = create(self.server, typeid, (result,), None, parent.known)
        if not self.give(conn, entry, False):
            raise EOFError("the client is gone")
        if typeid not in self.proxytypes:
            self.proxytypes[typeid] = _importable_name(self.server.registry[typeid][3])
        payload = (tuple(entry.names), typeid, self.proxytypes[typeid])
        return payload, entry.key

    cdef bint give(self, Conn conn, Entry entry, bint anonymous) except -1:
        """Book the reference that comes with a reply; False where nobody is left to read that."""
        cdef list keys = [entry.key]
        cdef Gift gift = self.note_gift(conn)
        if conn.left:
            self.table.release(entry.key)       # the process may live, which was interrupted
            return False
        if not anonymous and self.table.session_retain(conn.session, entry.key) is not None:
            return False
        gift.keys = keys
        gift.anonymous = anonymous
        return True

    def call(self, c, ident, name, args, kwds):
        """Call a method for a stock peer; return the ``(kind, payload)`` it is sent."""
        cdef Conn conn = c.conn if isinstance(c, _Served) else None
        cdef Entry entry = self.table.find(key_of(ident))
        cdef uint8_t op = OP_RETURN
        cdef uint64_t handle = 0
        if entry is not None:
            if not shows_values(entry, name):
                entry.known = False
            here.owner = conn       # None: the thread is its own owner
            if conn is not None and entry.pins and not conn.pinned:
                self.pin(conn)
        payload = self.perform(c, conn, entry, ident, name, args, kwds, &op, &handle)
        return KINDS[op], payload

    cdef int serve_create(self, Conn conn, Driver by) except -1:
        cdef bint pickled = conn.stream.header.flags & FLAG_PICKLED
        cdef bint anonymous = conn.stream.header.flags & FLAG_ANONYMOUS
        cdef Entry entry
        typeid = kwds = None
        if by.on_loop and pickled:
            return HAND_OFF
        by.reader.feed(
            conn.stream.body, conn.stream.size, conn.stream.buffers, pickled and not by.on_loop
        )
        try:
            typeid = by.reader.get()
            if by.on_loop:
                registered = self.server.registry.get(typeid)
                if registered is None or registered[0] not in MADE_ON_LOOP:
                    return HAND_OFF
            args, kwds = call_arguments(by.reader)
            util.debug("%r requested by %s", typeid, conn.name)
            entry = create(self.server, typeid, args, kwds, not pickled)
            note_carried(entry)
        except BaseException as error:
            op, payload = failed_creation(self.server, typeid, kwds, error)
            return self.reply(conn, by, op, 0, payload)
        if not self.give(conn, entry, anonymous):
            return CLOSE
        return self.reply(conn, by, OP_RETURN, entry.key, tuple(entry.names))

    cdef int serve_control(self, Conn conn, Driver by) except -1:
        """One of the server's public functions."""
        by.reader.feed(conn.stream.body, conn.stream.size, conn.stream.buffers, True)
        conn.answered = False
        try:
            name = by.reader.get()
            args, kwds = call_arguments(by.reader)
            function = self.server.public_function(name)
            by.send_replies(conn)    # before its own, if it replies by itself
            result = function(conn, *args, **(kwds or {}))
        except BaseException:
            if conn.answered:
                return CLOSE    # a second reply would be taken for that to the next request
            return self.reply(conn, by, OP_TRACEBACK, 0, format_exc())
        if conn.answered:
            return KEEP
        return self.reply(conn, by, OP_RETURN, 0, result)

    cdef int respond(self, Conn conn, object message) except -1:
        kind, payload = message
        conn.answered = True
        cdef Worker by = Worker(self.load)
        self.reply(conn, by, OPS[kind], 0, payload)
        return by.send_replies(conn)    # now: the function may end the process

    cdef int serve_incref(self, Conn conn, Driver by) except -1:
        cdef size_t count = conn.stream.size // sizeof(uint64_t)
        cdef uint64_t handle
        cdef size_t i
        cdef dict missing = {}      # handle -> why, of the first
        cdef list retained = []
        cdef Gift gift
        if by.on_loop and count > HANDLES_AT_ONCE:
            return HAND_OFF
        if conn.left:
            return CLOSE        # nobody would return what it counts
        for i in range(count):
            memcpy(&handle, conn.stream.body + i * sizeof(uint64_t), sizeof(uint64_t))
            if self.table.find(handle) is None and (
                not handle >> 62 or self.table.revive is None
                or self.table.revive(handle) is None
            ):
                missing[handle] = (
                    self.table.missing(handle).args[0] if len(missing) < MOST_NAMES else None)
            else:
                self.table.retain(handle)
                self.table.session_retain(conn.session, handle)
                retained.append(handle)
            if i % HANDLES_AT_ONCE == HANDLES_AT_ONCE - 1:
                with nogil:
                    pass
        if conn.in_transit is not None:
            # A proxy's reference may be asked for where another in the same reply is still to be
            # read; what else was given has been taken.
            in_transit = [thing for thing in conn.in_transit if type(thing) is not Gift]
            self.forget_gifts(conn, by)
            conn.in_transit = in_transit or None
        gift = self.note_gift(conn)
        gift.keys = retained
        if conn.left:
            conn.untaken = gift.call
            self.take_back_gifts(conn, [gift], False)
            return CLOSE
        return self.reply(conn, by, OP_RETURN, 0, missing)

    cdef int serve_locate(self, Conn conn, Driver by) except -1:
        """Say where a client on this host finds an object's cell.

        The reply is None for an object that has none, and False where no client can have any.
        """
        cdef Entry entry = self.table.at(conn.stream.header.handle)
        cdef Celled obj
        payload = None
        if self.arena is None or not conn.stream.is_local():
            payload = False
        elif entry is not None and isinstance(entry.obj, Celled):
            obj = entry.obj
            if by.on_loop and obj.is_heavy(False):
                return HAND_OFF
            calls = CELL_CALLS.get(type(obj))       # a user's subclass wants to see its calls
            if (
                calls is not None and calls.issubset(entry.names) and not entry.method_to_typeid
                and obj.kind != KIND_NONE and obj.settle(self.arena)
            ):
                payload = (
                    obj.kind, obj.cell.segment.number, obj.cell.offset, obj.cell.size, obj.about())
                if entry.parks:
                    self.table.note_parked(conn.session, entry)
        return self.reply(conn, by, OP_RETURN, 0, payload)

    cdef int serve_attach(self, Conn conn, Driver by) except -1:
        """Pass a segment's descriptor to a client on this host."""
        cdef uint64_t number = conn.stream.header.handle
        cdef Segment segment = None
        cdef Header header
        cdef size_t start
        if self.arena is not None and conn.stream.is_local():
            if number != MAILBOX:
                segment = self.arena.segments.get(number)
            elif conn.stream.mailbox_segment is None:
                with suppress(OSError, MemoryError):
                    segment = new_segment(MAILBOX, FM_MAILBOX_SIZE)
        if segment is None:
            return self.reply(conn, by, OP_RETURN, 0, None)
        by.send_replies(conn)
        if conn.closed or conn.stream.unsent is not None:
            return CLOSE        # who asks for a segment waits for nothing else
        start = begin_message(by.writer)
        by.writer.out_of_band = False
        by.writer.put_compact((segment.offset, segment.size, bool(segment.is_file)))
        memset(&header, 0, HEADER_SIZE)
        header.call = conn.stream.header.call
        header.op = OP_RETURN
        seal(by.writer, start, &header)
        outcome = conn.stream.send_passing(by.writer.data, by.writer.size, segment.fd)
        by.writer.reset()
        if outcome == FRAME_PARTIAL:
            return self.reply(conn, by, OP_RETURN, 0, None)
        if number == MAILBOX:
            segment.forget_fd()
            conn.stream.attach_mailbox(segment, True)
        return KEEP if outcome == FRAME_READY else CLOSE

    cdef int serve_release(self, Conn conn, Driver by) except -1:
        cdef size_t count = conn.stream.size // (2 * sizeof(uint64_t))
        cdef uint64_t pair[2]
        cdef size_t i
        cdef Entry entry
        if by.on_loop:
            if count > HANDLES_AT_ONCE:
                return HAND_OFF
            for i in range(count):
                memcpy(pair, conn.stream.body + i * sizeof(pair), sizeof(pair))
                entry = self.table.find(pair[0])
                if entry is not None and is_hard_to_drop(entry):
                    return HAND_OFF
        self.disposing += 1
        try:
            for i in range(count):
                memcpy(pair, conn.stream.body + i * sizeof(pair), sizeof(pair))
                try:
                    self.table.session_release(conn.session, pair[0], <Py_ssize_t>pair[1])
                except (KeyError, AssertionError):
                    util.debug("release of unknown handle %x", pair[0])
                if i % HANDLES_AT_ONCE == HANDLES_AT_ONCE - 1:
                    with nogil:
                        pass
        finally:
            self.disposing -= 1
        return KEEP

    cdef int reply(
        self, Conn conn, Driver by, uint8_t op, uint64_t handle, object payload
    ) except -1:
        """Encode a whole reply, and send it with those of the other frames at hand."""
        cdef Header header
        cdef int pickled = 0
        cdef size_t start
        if is_oneway(conn):
            if op != OP_RETURN:
                conn.failed += 1
                if conn.failed == 1 and not conn.left:
                    if op == OP_ERROR:
                        # Neither frames nor arguments are to wait for the next call.
                        payload.__traceback__ = payload.__context__ = payload.__cause__ = None
                    conn.failure = self.call_at_hand(conn), (op, payload)
                    return KEEP
            if by.on_loop:
                self.drop_elsewhere(payload)
            return KEEP
        if conn.failure is not None and self.report_failure(conn, by):
            conn.undelivered = (op, handle, payload)
            return HAND_OFF
        start = begin_message(by.writer)
        by.writer.pickles = 0
        by.writer.out_of_band = True
        if by.on_loop:
            if by.writer.put_compact(payload) == 0:
                pass
            elif type(payload) in ERRORS and payload.args == ():
                pickled = by.writer.put(payload)
            else:
                by.writer.size = start - HEADER_SIZE
                conn.undelivered = (op, handle, payload)
                return HAND_OFF
        else:
            try:
                pickled = self.put_any(conn, by.writer, payload)
            except BaseException:
                op = OP_UNSERIALIZABLE
                by.writer.size = start
                by.writer.buffers = by.writer.writable = None
                pickled = by.writer.put(format_exc())
        header.handle = handle
        header.call = conn.stream.header.call
        header.method = self.load.may_spin
        header.op = op
        header.flags = FLAG_PICKLED if pickled or by.writer.pickles else 0
        seal(by.writer, start, &header)
        if (
            conn.stream.start == conn.stream.end or by.writer.size > BATCH_SIZE
            or by.writer.buffers
        ):
            by.send_replies(conn)
        return KEEP

    cdef str call_at_hand(self, Conn conn):
        """The connection's current call, in words."""
        cdef Reader reader
        cdef Entry entry = self.table.at(conn.stream.header.handle)
        kind = name = "?"
        if entry is not None:
            # Not by Python, where a metaclass of a user's would be asked.
            kind = (<PyTypeObject *>Py_TYPE(entry.obj)).tp_name.decode().rpartition(".")[2]
        try:
            reader = Reader()
            reader.feed(conn.stream.body, conn.stream.size, None, False)
            name = str(method_name(conn, reader))[:40]
        except Exception:
            pass        # a name that takes a pickle, or none: the error says so
        return f"{kind[:40]}.{name}() of object {conn.stream.header.handle:x}"

    cdef int put_any(self, Conn conn, Writer writer, object payload) except -1:
        """Encode for a client; what proxies in `payload` stand for is held until it has read."""
        transit.sink = []
        try:
            outcome = writer.put(payload)
            if transit.sink:
                conn.in_transit = (conn.in_transit or []) + transit.sink
            return outcome
        finally:
            transit.sink = None

    cdef int drop_elsewhere(self, object payload) except -1:
        """Drop on a worker what nobody takes, unless it surely is not a user's."""
        if payload is not None and type(payload) not in PLAIN:
            self.doomed.append(payload)
        return 0

    cdef int turn(self) except -1:
        # Only now: those who called `drop_elsewhere` had a reference too, until they returned.
        cdef list doomed
        if self.doomed:
            doomed, self.doomed = self.doomed, []
            self.dispose_elsewhere(doomed)
        return 0

    cdef int report_failure(self, Conn conn, Driver by) except -1:
        """Say that calls without a reply have failed; 1 if that takes a worker."""
        cdef Header header
        cdef size_t start, start_of_error
        cdef int pickled
        cdef object first = conn.failure
        if first is None:
            return 0        # the loop has seen the peer leave, and dropped it
        call, failure = first
        start = begin_message(by.writer)
        by.writer.pickles = 0
        by.writer.out_of_band = False
        by.writer.put_compact(call)        # by itself: it is read also where the error cannot be
        pickled = by.writer.put_compact(failure)
        if pickled:
            if by.on_loop:
                by.writer.size = start - HEADER_SIZE
                return 1
            start_of_error = by.writer.size
            try:
                self.put_any(conn, by.writer, failure)
            except BaseException:
                by.writer.size = start_of_error
                by.writer.put((<int>OP_UNSERIALIZABLE, format_exc()))
        memset(&header, 0, HEADER_SIZE)
        header.handle = <uint64_t>conn.failed
        header.call = conn.stream.header.call
        header.op = OP_FAILED
        header.flags = FLAG_PICKLED if pickled else 0
        seal(by.writer, start, &header)
        conn.failed = 0
        conn.failure = None
        return 0


class _Served(StockConnection):
    """A stock peer's connection as the server's functions see it."""

    def __init__(self, conn, serializer):
        super().__init__(conn.stream, serializer)
        self.conn = conn
        self.may_idle = True

    def send(self, message):
        transit.sink = []
        try:
            data = self._dumps(message)
            self.in_transit = transit.sink
        finally:
            transit.sink = None
        self.stream.send_bytes(data)

    def close(self):
        self.conn.close()   # the loop closes the descriptor that it watches


cdef object _importable_name(proxytype):
    """``module:name`` where a client could import it, or None."""
    module = getattr(proxytype, "__module__", None)
    name = getattr(proxytype, "__qualname__", None)
    if not module or not name or "<" in name or module == "__main__":
        return None
    return f"{module}:{name}"
