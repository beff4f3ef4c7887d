"""Values that a server carries without reading them.

What a client puts into a shared dict, list, queue, namespace or value may need pickle.
Where it is only kept and handed back the server keeps the pickle (`Opaque`): nothing is
unpickled and pickled again, and the server need not be able to import what is in it.
Before a method that looks at the values they are read, and from then on the object is
served as one that holds a user's values.  Which methods keep, and which look, is in the
type's row (`rows.Unread`).

Not carried are values that refer to processes, such as proxies, connections and
sockets: the server must hold its own (`wire.opaque` knows them).
"""

from __future__ import annotations

from typing import Any

from fastmgr.kinds.rows import UNREAD
from fastmgr.kinds.verbs import replace_item, replace_key
from fastmgr.wire.opaque import Opaque, opaque_values

__all__ = ["in_list", "in_mapping", "put_in_list", "put_in_mapping", "put_in_place", "read_values"]

#: The unread values of a list.
in_list = opaque_values


def in_mapping(mapping: dict[Any, Any]) -> list[Opaque]:
    """Return the unread values of a dict, or of an object's attributes."""
    return opaque_values(list(mapping.values()))


def put_in_list(items: list[Any], read: dict[Opaque, Any]) -> None:
    """Put ``read[value]`` in the place of each unread value."""
    for value in in_list(items):
        replace_item(items, value, read[value])


def put_in_mapping(mapping: dict[Any, Any], read: dict[Opaque, Any]) -> None:
    """Put ``read[value]`` in the place of each unread value."""
    for key, value in list(mapping.items()):
        if type(value) is Opaque:
            replace_key(mapping, key, value, read[value])


def read_values(obj: Any, read: dict[Opaque, Any]) -> bool:
    """Unpickle the `Opaque` values of an object, which itself stays as it is.

    Parameters
    ----------
    obj : object
        Of a type whose row says how it holds unread values.
    read : dict
        Opaque value to what it stands for; those that are missing are added.

    Returns
    -------
    bool
        Whether values were missing.  If so the object may hold more of them by now: unpickling
        runs any code, and other threads may use the object meanwhile.

    Raises
    ------
    Exception
        Whatever unpickling raises.
    """
    find = UNREAD[type(obj)].find
    missing = [value for value in find(obj) if value not in read] if find is not None else []
    for value in missing:
        read[value] = value.load()
    return bool(missing)


def put_in_place(obj: Any, read: dict[Opaque, Any]) -> None:
    """Put what they stand for in the place of all `Opaque` values.

    What other threads have written meanwhile stays; what they have taken away does not come back.
    """
    put = UNREAD[type(obj)].put_in_place
    if put is not None:
        put(obj, read)
