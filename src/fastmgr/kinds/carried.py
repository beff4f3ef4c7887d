"""Values that a server carries without reading them.

What a client puts into a shared dict, list, queue, namespace or value may need pickle.
Where it is only kept and handed back the server keeps the pickle (`Opaque`): nothing is
unpickled and pickled again, and the server need not be able to import what is in it.
Before a method that looks at the values they are read, and from then on the object is
served as one that holds a user's values.

Not carried are values that refer to processes, such as proxies, connections and
sockets: the server must hold its own (`wire.codec` knows them).
"""

from __future__ import annotations

from typing import Any

from fastmgr.kinds import shared
from fastmgr.kinds.verbs import replace
from fastmgr.kinds.waits import Queue
from fastmgr.wire.codec import Opaque, opaque_values

__all__ = ["BLIND", "KEPT_ARGUMENT", "put_in_place", "read_values"]

# (type, method) -> which argument is kept.
KEPT_ARGUMENT: dict[tuple[type, str], int] = {
    (dict, "__setitem__"): 1,
    (dict, "exchange"): 1,
    (dict, "get"): 1,
    (dict, "pop"): 1,
    (dict, "setdefault"): 1,
    (list, "__setitem__"): 1,
    (list, "append"): 0,
    (list, "insert"): 1,
    (shared.Namespace, "__setattr__"): 1,
    (shared.Value, "exchange"): 0,
    (shared.Value, "set"): 0,
    (Queue, "put"): 0,
    (Queue, "put_nowait"): 0,
}


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# type -> methods that do not look at the values, whatever plain arguments they get.  What is not
# among them may: it reads all values before.
BLIND: dict[type, frozenset[str]] = {
    dict: _names(
        "__contains__ __delitem__ __getitem__ __iter__ __len__ __reversed__ __setitem__ clear copy "
        "exchange get items keys pop popitem setdefault update values #GETVALUE"
    ),
    list: _names(
        "__delitem__ __getitem__ __len__ __setitem__ append clear copy extend insert pop reverse "
        "#GETVALUE"
    ),
    shared.Namespace: _names("__delattr__ __getattribute__ __setattr__ #GETVALUE"),
    shared.Value: _names("exchange get set #GETVALUE"),
}


def _unread(obj: Any) -> list[Opaque]:
    """Return the values of a list, dict, Value or Namespace that are unread, as of one moment."""
    if type(obj) is list:
        return opaque_values(obj)
    if type(obj) is shared.Value:
        return opaque_values([obj._other])
    return opaque_values(list((obj if type(obj) is dict else vars(obj)).values()))


def read_values(obj: Any, read: dict[Opaque, Any]) -> bool:
    """Find what the `Opaque` values of an object stand for; the object stays as it is.

    Parameters
    ----------
    obj : list, dict, Value or Namespace
    read : dict
        What is known of them, and where the rest is put.

    Returns
    -------
    bool
        Whether there was a rest.  If so there may be more of it by now: unpickling runs any code,
        and others may use the object meanwhile.

    Raises
    ------
    Exception
        Whatever unpickling raises.
    """
    missing = [value for value in _unread(obj) if value not in read]
    for value in missing:
        read[value] = value.load()
    return bool(missing)


def put_in_place(obj: Any, read: dict[Opaque, Any]) -> None:
    """Put what they stand for in the place of all `Opaque` values.

    What others have written since they were read stays, and what they have taken away does not
    come back.
    """
    if type(obj) is list:
        for value in _unread(obj):
            replace(obj, None, value, read[value])
        return
    if type(obj) is shared.Value:
        if type(value := obj._other) is Opaque:
            obj._other = read[value]
        return
    namespace = obj if type(obj) is dict else vars(obj)
    for key, value in list(namespace.items()):
        if type(value) is Opaque:
            replace(namespace, key, value, read[value])
