"""Values that a server carries without reading them.

What a client puts into a shared dict, list, queue, namespace or value may need pickle.  Where the
server only keeps such a value and hands it back, it keeps the pickle (`Opaque`): it unpickles
nothing, and need not be able to import what the pickle names.  Before a method that looks at the
values runs, the server reads all of them, and from then on it serves the object as one that holds
a user's values.  The type's row says which methods keep and which look (`rows.Unread`).

The server holds proxies, connections and sockets of its own, so it does not carry a value that
refers to a process (`opaque.names_a_process`).

To search or to replace is one step: these functions do not give the GIL away.
"""

from cpython.list cimport PyList_GET_SIZE

from fastmgr.wire.opaque cimport Opaque

from fastmgr.kinds.rows import UNREAD


def in_list(list values not None):
    """Return the unread values of a list."""
    return [value for value in values if type(value) is Opaque]


def in_mapping(dict mapping not None):
    """Return the unread values of a dict, or of an object's attributes."""
    return in_list(list(mapping.values()))


def put_in_list(list items not None, dict read not None):
    """Put ``read[value]`` in the place of each unread value."""
    cdef Py_ssize_t i = 0
    while i < PyList_GET_SIZE(items):
        value = items[i]
        if type(value) is Opaque:
            items[i] = read[value]
        i += 1


def put_in_mapping(dict mapping not None, dict read not None):
    """Put ``read[value]`` in the place of each unread value."""
    for key, value in list(mapping.items()):
        if type(value) is Opaque and mapping.get(key) is value:
            mapping[key] = read[value]


def read_values(obj, dict read not None):
    """Unpickle the `Opaque` values of an object that `read` does not have yet, into `read`.

    The object stays as it is.  Return whether there were such values.  If so the object may have
    more by now: unpickling runs any code, and other threads may use the object meanwhile.
    """
    find = UNREAD[type(obj)].find
    missing = [value for value in find(obj) if value not in read] if find is not None else []
    for value in missing:
        read[value] = value.load()
    return bool(missing)


def put_in_place(obj, read):
    """Put the values that were read in the place of all `Opaque` values.

    What other threads have written meanwhile stays; what they have removed does not come back.
    """
    put = UNREAD[type(obj)].put_in_place
    if put is not None:
        put(obj, read)
