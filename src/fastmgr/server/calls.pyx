"""Making shared objects and calling their methods, and which of that the loop may do.

An entry is *known* while only plain values have reached an object that a built-in callable made:
the loop may run its methods.  Of what a client brings pickled the entry may hold the pickle
(`Opaque`), as long as no method looks at it; before one does, all of them are read.
"""

cimport cython
from cpython.object cimport PyObject

from fastmgr.link.stream cimport FLAG_VERSION, OP_ERROR, OP_PROXY, OP_RETURN, OP_TRACEBACK
from fastmgr.link.system cimport fm_now_ns, int64_t
from fastmgr.memory.arena cimport Version
from fastmgr.memory.versions cimport version_at
from fastmgr.server.replies cimport is_oneway, told
from fastmgr.server.table cimport Tally, key_of, tell
from fastmgr.wire.opaque cimport Opaque
from fastmgr.wire.writer cimport is_scalar

cdef extern from "Python.h":
    object PyObject_Vectorcall(object function, PyObject **args, size_t count, PyObject *names)

from multiprocessing import util
from time import sleep
from traceback import format_exc

from fastmgr.kinds import rows
from fastmgr.kinds.carried import put_in_place, read_values
from fastmgr.kinds.waits import here
from fastmgr.link.cutter import KINDS
from fastmgr.server.names import named_handle
from fastmgr.stock.dialect import Token

cdef enum:
    FEW = 4             # arguments that are passed without a tuple of their own
    MOST_UNREAD = 100   # changes without a client that reads, after which there is no version
    MOST_NAMES = 30     # exposed names that an error's text has

cdef object MISSING = object()
# What is particular to the types; filled as they are declared.
cdef set MADE_ON_LOOP = rows.MADE_ON_LOOP
cdef dict KEPT_ARGUMENT = rows.KEPT_ARGUMENT
cdef dict UNREAD = rows.UNREAD
cdef dict VERBS = rows.VERBS
cdef dict READ_BY = rows.READ_BY
# What makes objects whose errors a client gets as they are.
cdef set SHOWN_IF_MADE_BY = rows.SHOWN_IF_MADE_BY
cdef set SHOWN_IF_NAMED_BY = rows.SHOWN_IF_NAMED_BY


cdef bint may_make(object function) except -1:
    """Whether the loop may call this maker of objects, with plain arguments."""
    return function in MADE_ON_LOOP


cdef int note_carried(Entry entry) except -1:
    """See whether the object may hold `Opaque` values, and whether it does."""
    cdef object unread = UNREAD.get(type(entry.obj))
    entry.carries = entry.known and not entry.shown
    if unread is not None and unread.beside_cell is not None:
        # An object with a name may have been used before, in another server.
        held = unread.beside_cell(entry.obj)
        if held is not None:
            entry.opaque = type(held) is Opaque
            entry.known = entry.known and entry.opaque
    assert entry.is_legal()
    return 0


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
    unread = UNREAD[type(obj)]
    if type((<tuple>args)[kept]) is Opaque and name in unread.each:
        return False        # one pickle of all values
    return unread.keeps_if is None or unread.keeps_if(args)


cdef bint is_blind(object obj, object name):
    """Whether the method does not look at what `obj` holds."""
    unread = UNREAD.get(type(obj))
    return unread is not None and (unread.blind is None or name in unread.blind)


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


cdef bint are_scalars(object args, object kwds) except -1:
    """Whether nothing that came pickled is more than a number, a text or the like."""
    if kwds or type(args) is not tuple:
        return False
    for value in <tuple>args:
        if not is_scalar(value):
            return False
    return True


cpdef int look_inside(Entry entry) except -1:
    """Unpickle what the object holds unread.  Where that raises, the object has not changed."""
    cdef dict read = {}
    if not entry.opaque:
        return 0
    # This may take long, or raise: calls may put unread values into the object meanwhile.
    read_values(entry.obj, read)
    entry.looking += 1      # from here on no call begins to carry
    try:
        while entry.carrying:
            sleep(0)        # another thread has a few steps left
        while read_values(entry.obj, read):
            pass
        entry.known = False
        # Another thread may look as well; each leaves what the other has put in place.
        put_in_place(entry.obj, read)
        entry.opaque = False
    finally:
        entry.looking -= 1
        assert entry.is_legal()
    return 0


cpdef int show(Entry entry) except -1:
    """Give an object to code in the server: it holds no unread values from then on."""
    entry.shown = True
    entry.looking += 1      # from here on no call begins to carry
    try:
        while entry.carrying:
            sleep(0)        # another thread has a few steps left
        entry.carries = False
    finally:
        entry.looking -= 1
    look_inside(entry)
    entry.reveal()
    return 0


class UnknownType(KeyError):
    """No type of that name is registered with the server."""

    def __init__(self, typeid, hooks):
        known = ", ".join(sorted(map(repr, hooks.registry)))
        super().__init__(typeid)
        self.text = (
            f"KeyError: {typeid!r}: the server at {hooks.address!r} has no type of that name; "
            f"register it with the manager's class in the server, too (it has {known})\n"
        )


cpdef tuple failed_creation(object hooks, object typeid, object kwds, object error):
    """The operation and the payload of the reply to a creation that failed; in an `except`."""
    if isinstance(error, UnknownType):
        return <int>OP_TRACEBACK, error.text
    registered = hooks.registry.get(typeid) if type(typeid) is str else None
    if registered is not None and isinstance(error, Exception) and (
        registered[0] in SHOWN_IF_MADE_BY
        or registered[0] in SHOWN_IF_NAMED_BY and type(kwds) is dict and "name" in kwds
    ):
        error.__traceback__ = None
        return <int>OP_ERROR, error
    return <int>OP_TRACEBACK, format_exc()


cpdef Entry create(
    object hooks, object typeid, object args, object kwds, bint known=False, bint anew=False
):
    """Make an object of a registered type and share it; return its entry.

    With `known` no user's code has reached the arguments; with `anew` they are nothing else's.
    """
    cdef Entry entry
    if typeid not in hooks.registry:
        raise UnknownType(typeid, hooks)
    function = hooks.registry[typeid][0]
    if function is None:
        if kwds or len(args) != 1:
            raise ValueError("Without callable, must have one non-keyword argument")
        obj = args[0]
    else:
        try:
            obj = function(*args, **kwds) if kwds else function(*args)
        except Exception:
            raise
        except BaseException as error:      # which must not end the thread that serves the client
            raise RuntimeError(f"{typeid!r}: what makes it raised {error!r}") from error
        known = known and may_make(function)
    readers = None
    promised = getattr(hooks.registry[typeid], "readers", None)
    if promised is not None and function is not None:
        readers = promised
    elif known and anew and type(obj) in READ_BY:
        row = READ_BY[type(obj)]
        # What a method returns may be shared by itself, and so change unseen.
        if (hooks.registry[typeid][2] or None) == row.method_to_typeid:
            readers = row.readers
    handle = 0
    if kwds and type(typeid) is str:
        name = kwds.get("name")
        if type(name) is str and hooks.names.objects.get(name) is obj:
            handle = named_handle(typeid, name)
    entry = share(hooks, typeid, obj, known, handle)
    entry.settle_readers(readers, promised is not None)
    return entry


cdef Entry share(object hooks, object typeid, object obj, bint known, uint64_t handle):
    """Share an object of a registered type; return its entry."""
    cdef Entry entry
    _function, exposed, method_to_typeid, _proxytype = hooks.registry[typeid]
    if exposed is None:
        exposed = hooks.public_methods(obj)
    if method_to_typeid is not None:
        if not isinstance(method_to_typeid, dict):
            raise TypeError(
                f"Method_to_typeid {method_to_typeid!r}: type {type(method_to_typeid)}, not dict"
            )
        exposed = list(exposed) + list(method_to_typeid)
    entry = hooks.table.add(obj, exposed, method_to_typeid, known, handle)
    if entry.typeid is None:
        entry.typeid = typeid
    return entry


cpdef tuple create_for_stock(object hooks, object typeid, object args, object kwds):
    """The same for a stock peer; return the ident and the names of the exposed methods."""
    cdef Entry entry = create(hooks, typeid, args, kwds)
    util.debug("%r callable returned object with id %r", typeid, entry.ident)
    return entry.ident, tuple(entry.names)


def revive(hooks, key):
    """Share a named object again for a client that knows it from before, or from another server.

    Return its entry, with no reference counted, or None where the key is no named object's.
    """
    cdef Entry entry
    found = hooks.finder.find(key, hooks.names, hooks.registry)
    if found is None:
        return None
    typeid, obj = found
    entry = share(hooks, typeid, obj, True, key)
    entry.refcount -= 1
    note_carried(entry)
    return entry


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


cdef void tell_both(
    Tally *client, Entry entry, size_t came, bint failed, int64_t ns
) noexcept:
    """Count a stock peer's call."""
    tell(client, came, 0, failed)
    client.ns += ns
    if entry is not None:
        tell(&entry.tally, came, 0, failed)
        entry.tally.ns += ns


cdef bint is_ours(function) except -1:
    """Whether a function is this package's."""
    return str(getattr(function, "__module__", "")).startswith("fastmgr.")


cdef str some_names(names):
    """Some of the exposed names, sorted, for an error's text."""
    shown = sorted(map(repr, names))
    more = len(shown) - MOST_NAMES
    if more > 0:
        shown[MOST_NAMES:] = [f"... and {more} more"]
    return f"{{{', '.join(shown)}}}"


cdef object importable_name(proxytype):
    """``module:name`` of a proxy type that a client could import, or None."""
    module = getattr(proxytype, "__module__", None)
    name = getattr(proxytype, "__qualname__", None)
    if not module or not name or "<" in name or module == "__main__":
        return None
    return f"{module}:{name}"


@cython.final
cdef class Calls:
    """The calls of shared objects, in both dialects."""

    def __init__(self, hooks, Gifts gifts, create):
        self.hooks = hooks
        self.table = hooks.table
        self.gifts = gifts
        self.create = create
        self.proxytypes = {}

    cdef object perform(
        self, object c, Conn conn, Entry entry, object ident, object name, object args,
        object kwds, uint8_t *op, uint64_t *handle
    ):
        """Call a method of a shared object; return the reply's payload and set its operation.

        `c` is the connection as hooks see it; `conn` is the engine's, None for a connection that
        the server accepted itself.  `handle` is set for OP_PROXY.
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
                        if unbound is None and name not in self.hooks.fallback_mapping:
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
                        if typeid and (conn is None or not is_oneway(conn)):
                            result, handle[0] = self.make_proxy(c, conn, entry, typeid, result)
                            op[0] = OP_PROXY
                    return result
            fallback = self.hooks.fallback_mapping.get(name)
            if fallback is None:
                raise AttributeError(
                    f"method {name!r} of {type(obj)!r} object is not in "
                    f"exposed={some_names(entry.names)}"
                )
            if not is_ours(fallback):
                show(entry)         # the user's function may keep the object
            return fallback(self.hooks, c, entry.ident, obj, *args, **(kwds or {}))
        except BaseException as error:
            if not isinstance(error, Exception):
                # A SystemExit, say, was to end something in this process: only the client is told.
                util.info("%r raised %r", name, error)
            op[0] = OP_TRACEBACK
            return told(conn)

    cdef object perform_versioned(
        self, object c, Conn conn, Entry entry, object ident, object name, object args,
        object kwds, uint8_t *op, uint64_t *handle
    ):
        """The same for an object of which clients may keep what they have read."""
        cdef Version version = entry.version
        cdef uint64_t at
        entry.running += 1
        try:
            if name in entry.readers:
                at = version_at(version.word)
                payload = self.perform(c, conn, entry, ident, name, args, kwds, op, handle)
                if (
                    at != 0 and conn is not None and conn.stream.header.flags & FLAG_VERSION
                    and not is_oneway(conn) and (entry.known or entry.promised)
                ):
                    conn.reading, conn.version = version, at
                    version.unread = 0
                return payload
            version.begin()
            try:
                return self.perform(c, conn, entry, ident, name, args, kwds, op, handle)
            finally:
                version.end()
        finally:
            entry.running -= 1
            if version.unread > MOST_UNREAD or not (entry.known or entry.promised):
                if entry.version is version:
                    entry.drop_version()

    cdef tuple make_proxy(self, object c, Conn conn, Entry parent, object typeid, object result):
        """Share what a method returned; return the reply's payload and the new object's handle."""
        cdef Entry entry
        if conn is None or conn.session is None:
            if self.create is not None:
                ident, exposed = self.create(c, typeid, result)
            else:
                ident, exposed = create_for_stock(self.hooks, typeid, (result,), None)
            return (exposed, Token(typeid, self.hooks.address, ident)), 0
        entry = create(self.hooks, typeid, (result,), None, parent.known)
        if not self.gifts.share(conn, entry, False):
            raise EOFError("the client is gone")
        if typeid not in self.proxytypes:
            self.proxytypes[typeid] = importable_name(self.hooks.registry[typeid][3])
        payload = (tuple(entry.names), typeid, self.proxytypes[typeid])
        return payload, entry.key

    def call(self, c, Conn conn, ident, name, args, kwds):
        """Call a method for a stock peer; return the ``(kind, payload)`` it is sent."""
        cdef Entry entry = self.table.find(key_of(ident))
        cdef uint8_t op = OP_RETURN
        cdef uint64_t handle = 0
        cdef int64_t began = fm_now_ns(), waited = 0 if conn is None else conn.waited
        cdef Tally *client = &self.table.gone if conn is None else conn.tally
        if entry is not None:
            if not shows_values(entry, name) and not are_scalars(args, kwds):
                entry.known = False
            here.owner = conn       # None: the thread itself owns what it takes
            if conn is not None and entry.pins and not conn.pinned:
                conn.pin()
        if entry is not None and entry.version is not None:
            payload = self.perform_versioned(
                c, conn, entry, ident, name, args, kwds, &op, &handle)
            if conn is not None:
                conn.reading = None     # the stdlib's dialect has no words for it
        else:
            if entry is not None:
                entry.running += 1
            payload = self.perform(c, conn, entry, ident, name, args, kwds, &op, &handle)
            if entry is not None:
                entry.running -= 1
        began += 0 if conn is None else conn.waited - waited
        tell_both(
            client, entry, 0 if conn is None else conn.stream.size + 4,
            op != OP_RETURN and op != OP_PROXY, fm_now_ns() - began)
        return KINDS[op], payload

    def note_sent(self, Conn conn not None, ident, size_t size):
        """Count the bytes of a reply to a stock peer, with those that say how many they are."""
        cdef Entry entry = self.table.find(key_of(ident))
        conn.tally.bytes_out += size + 4
        if entry is not None:
            entry.tally.bytes_out += size + 4
