"""Values that a server carries without reading them.

What a client puts into a shared dict, list, queue, namespace or value may need pickle.
Where it is only kept and handed back the server keeps the pickle (`Opaque`): nothing is
unpickled and pickled again, and the server need not be able to import what is in it.
Before a method that looks at the values they are read, and from then on the object is
served as one that holds a user's values.

Not carried are values that refer to processes, such as proxies, connections and
sockets: the server must hold its own (`_wire` knows them).
"""

from __future__ import annotations

from typing import Any

from fastmgr import shared
from fastmgr._atomic import replace
from fastmgr._park import Queue
from fastmgr._wire import Opaque, opaque_values

__all__ = ["BLIND", "KEPT_ARGUMENT", "read_all"]

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


def read_all(obj: Any) -> None:
    """Put what they stand for in the place of all `Opaque` values of a dict, list or attributes.

    Others may use the object meanwhile, for unpickling runs any code: what they write stays, and
    what they have taken away does not come back.

    Raises
    ------
    Exception
        Whatever unpickling raises; the values read before are in place, the others unread.
    """
    if type(obj) is list:
        while unread := opaque_values(obj):
            for value in unread:
                replace(obj, None, value, value.load())
        return
    if type(obj) is shared.Value:
        while type(value := obj._other) is Opaque:
            read = value.load()
            if obj._other is value:
                obj._other = read
        return
    namespace = obj if type(obj) is dict else vars(obj)
    for key, value in list(namespace.items()):
        if type(value) is Opaque:
            replace(namespace, key, value, value.load())
