"""Making objects of registered types, and sharing them."""

from fastmgr.link.stream cimport OP_ERROR, OP_TRACEBACK
from fastmgr.link.system cimport uint64_t
from fastmgr.server.policy cimport may_make, note_carried
from fastmgr.server.table cimport Entry

from multiprocessing import util
from traceback import format_exc

from fastmgr.kinds import rows
from fastmgr.server.named import named_handle

# What makes objects whose errors a client gets as they are; filled as types are declared.
cdef set SHOWN_IF_MADE_BY = rows.SHOWN_IF_MADE_BY
cdef set SHOWN_IF_NAMED_BY = rows.SHOWN_IF_NAMED_BY


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
    """What is replied when a creation has failed: the operation and the payload.

    To be called while the exception is handled.
    """
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


cpdef Entry create(object hooks, object typeid, object args, object kwds, bint known=False):
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
        except BaseException as error:      # it is not to end the thread that serves the client
            raise RuntimeError(f"{typeid!r}: what makes it raised {error!r}") from error
        known = known and may_make(function)
    handle = 0
    if kwds and type(typeid) is str:
        name = kwds.get("name")
        if type(name) is str and hooks.names.objects.get(name) is obj:
            handle = named_handle(typeid, name)
    return share(hooks, typeid, obj, known, handle)


cdef Entry share(object hooks, object typeid, object obj, bint known, uint64_t handle):
    """Share an object of a registered type; return its entry."""
    _function, exposed, method_to_typeid, _proxytype = hooks.registry[typeid]
    if exposed is None:
        exposed = hooks.public_methods(obj)
    if method_to_typeid is not None:
        if not isinstance(method_to_typeid, dict):
            raise TypeError(
                f"Method_to_typeid {method_to_typeid!r}: type {type(method_to_typeid)}, not dict"
            )
        exposed = list(exposed) + list(method_to_typeid)
    return hooks.table.add(obj, exposed, method_to_typeid, known, handle)


cpdef tuple create_for_stock(object hooks, object typeid, object args, object kwds):
    """The same for a stock peer; return the ident and the names of the exposed methods."""
    cdef Entry entry = create(hooks, typeid, args, kwds)
    util.debug("%r callable returned object with id %r", typeid, entry.ident)
    return entry.ident, tuple(entry.names)


def revive(hooks, key):
    """Share a named object again for who has known it in another server, or before it was dropped.

    Returns
    -------
    Entry or None
        Without a reference counted; None where the key is of no named object.
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
