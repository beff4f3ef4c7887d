"""The rows of what holds values: containers, their iterators, namespaces, arrays without cell."""

from __future__ import annotations

import array
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastmgr.kinds.rows import GAINS, Later, Row, Unread, declare, names
from fastmgr.kinds.verbs import DictVerbs, ListVerbs, NamespaceVerbs, sets_value

if TYPE_CHECKING:
    from multiprocessing.managers import Namespace as _StockNamespace
else:
    _StockNamespace = object

carried: Any = Later("fastmgr.kinds.carried")

__all__ = ["DICT", "ITERATOR", "LIST", "NAMESPACE", "SET", "Array", "Namespace"]

DICT = declare(
    Row(
        typeids=("dict",),
        make=dict,
        types=(dict,),
        proxy="fastmgr.proxies:DictProxy",
        exposed=(
            "__contains__", "__delitem__", "__getitem__", "__ior__", "__iter__", "__len__",
            "__or__", "__reversed__", "__ror__", "__setitem__", "clear", "compare_exchange",
            "copy", "exchange", "fromkeys", "get", "incr", "items", "keys", "pop", "popitem",
            "setdefault", "update", "values",
        ),
        method_to_typeid={"__iter__": "Iterator"},
        gains=GAINS - {"get"},  # `get` takes nothing away
        readers=names(
            "__contains__ __getitem__ __iter__ __len__ __or__ __reversed__ __ror__ copy fromkeys "
            "get items keys values #GETVALUE __repr__ __str__"
        ),
        verbs={
            "incr": DictVerbs.incr,
            "exchange": DictVerbs.exchange,
            "compare_exchange": DictVerbs.compare_exchange,
        },
        texts={
            "dict": """Return a shared dict, made as by `dict`.

Parameters
----------
*args, **kwds
    As for `dict`: a mapping or pairs, and values by name.

Returns
-------
DictProxy
    With the methods of a dict, and `incr`, `exchange` and `compare_exchange`, which need no lock.

Notes
-----
What is read is a copy: to change a list in the dict put it there again, or put a shared list there.

Examples
--------
>>> counts = manager.dict(spam=1)
>>> counts.incr("spam")
2
>>> counts["eggs"] = 5
>>> sorted(counts.items())
[('eggs', 5), ('spam', 2)]
"""
        },
        is_closed=True,
        unread=Unread(
            keeps={"__setitem__": 1, "exchange": 1, "get": 1, "pop": 1, "setdefault": 1},
            blind=names(
                "__contains__ __delitem__ __getitem__ __iter__ __len__ __reversed__ __setitem__ "
                "clear copy exchange get items keys pop popitem setdefault update values #GETVALUE"
            ),
            find="fastmgr.kinds.carried:in_mapping",
            put_in_place="fastmgr.kinds.carried:put_in_mapping",
            bare=names("__iter__"),  # the iterator has the keys alone
        ),
        loop_makes=True,
        loop_runs=True,
    )
)  # fmt: skip

LIST = declare(
    Row(
        typeids=("list",),
        make=list,
        types=(list,),
        proxy="fastmgr.proxies:ListProxy",
        exposed=(
            "__add__", "__contains__", "__delitem__", "__getitem__", "__imul__", "__len__",
            "__mul__", "__reversed__", "__rmul__", "__setitem__", "append", "clear", "copy",
            "count", "extend", "incr", "index", "insert", "pop", "remove", "reverse", "sort",
        ),
        readers=names(
            "__add__ __contains__ __getitem__ __len__ __mul__ __reversed__ __rmul__ copy count "
            "index #GETVALUE __repr__ __str__"
        ),
        verbs={"incr": ListVerbs.incr},
        texts={
            "list": """Return a shared list, made as by `list`.

Parameters
----------
iterable : iterable, optional
    The items.

Returns
-------
ListProxy
    With the methods of a list, and `incr`.

Notes
-----
What is read is a copy: to change a list in the list put it there again, or put a shared one there.

Examples
--------
>>> names = manager.list(["spam"])
>>> names.append("eggs")
>>> names[:]
['spam', 'eggs']
"""
        },
        is_closed=True,
        unread=Unread(
            keeps={"__setitem__": 1, "append": 0, "insert": 1},
            blind=names(
                "__delitem__ __getitem__ __len__ __setitem__ append clear copy extend insert pop "
                "reverse #GETVALUE"
            ),
            find="fastmgr.kinds.carried:in_list",
            put_in_place="fastmgr.kinds.carried:put_in_list",
        ),
        loop_makes=True,
        loop_runs=True,
    )
)  # fmt: skip

SET = declare(
    Row(
        typeids=("set",),
        make=set,
        types=(set,),
        proxy="fastmgr.proxies:SetProxy",
        exposed=(
            "__and__", "__class_getitem__", "__contains__", "__ge__", "__gt__", "__iand__",
            "__ior__", "__isub__", "__iter__", "__ixor__", "__le__", "__len__", "__lt__",
            "__or__", "__rand__", "__ror__", "__rsub__", "__rxor__", "__sub__", "__xor__",
            "add", "clear", "copy", "difference", "difference_update", "discard",
            "intersection", "intersection_update", "isdisjoint", "issubset", "issuperset",
            "pop", "remove", "symmetric_difference", "symmetric_difference_update", "union",
            "update",
        ),
        readers=names(
            "__and__ __contains__ __ge__ __gt__ __iter__ __le__ __len__ __lt__ __or__ __rand__ "
            "__ror__ __rsub__ __rxor__ __sub__ __xor__ copy difference intersection isdisjoint "
            "issubset issuperset symmetric_difference union #GETVALUE __repr__ __str__"
        ),
        texts={
            "set": """Return a shared set, made as by `set`.

Parameters
----------
iterable : iterable, optional
    The members.

Returns
-------
SetProxy
    With the methods and operators of a set.

Examples
--------
>>> seen = manager.set(["spam"])
>>> seen.add("eggs")
>>> "eggs" in seen
True
>>> len(seen)
2
"""
        },
        loop_makes=True,
        loop_runs=True,
    )
)  # fmt: skip

#: For all that methods return as an iterator, generators among them.
ITERATOR = declare(
    Row(
        typeids=("Iterator",),
        proxy="fastmgr.proxies:IteratorProxy",
        exposed=("__next__", "send", "throw", "close"),
    )
)

declare(
    Row(
        types=(
            type(iter({})), type(iter({}.values())), type(iter({}.items())), type(reversed({})),
            type(iter([])), type(reversed([])), type(iter(set())),
        ),
        loop_runs=True,
    )
)  # fmt: skip


class Namespace(_StockNamespace):
    """An object whose attributes are the shared values; `manager.Namespace` returns a proxy of it.

    Parameters
    ----------
    **kwds
        The attributes to begin with.

    Examples
    --------
    >>> shared = manager.Namespace(limit=3)
    >>> shared.limit += 1
    >>> shared.limit
    4
    """

    def __init__(self, /, **kwds: Any) -> None:
        self.__dict__.update(kwds)

    def __repr__(self) -> str:
        shown = sorted(
            f"{name}={value!r}"
            for name, value in list(self.__dict__.items())
            if not name.startswith("_")
        )
        return f"{type(self).__name__}({', '.join(shown)})"


NAMESPACE = declare(
    Row(
        typeids=("Namespace",),
        make=Namespace,
        types=(Namespace,),
        proxy="fastmgr.proxies:NamespaceProxy",
        exposed=("__getattribute__", "__setattr__", "__delattr__", "incr"),
        readers=names("__getattribute__ #GETVALUE __repr__ __str__"),
        verbs={"incr": NamespaceVerbs.incr},
        unread=Unread(
            keeps={"__setattr__": 1},
            blind=names("__delattr__ __getattribute__ __setattr__ #GETVALUE"),
            find=lambda obj: carried.in_mapping(vars(obj)),
            put_in_place=lambda obj, read: carried.put_in_mapping(vars(obj), read),
            keeps_if=sets_value,
        ),
        loop_makes=True,
        loop_runs=True,
    )
)


def Array(typecode: str, sequence: Iterable[Any], lock: bool = True) -> array.array[Any]:
    """Return an `array.array`: the stdlib's function, which nothing of fastmgr calls.

    Parameters
    ----------
    typecode : str
        As for `array.array`.
    sequence : iterable
        The items.
    lock : bool
        Ignored, as in the stdlib.
    """
    return array.array(typecode, sequence)


declare(
    Row(make=Array, also_make=(array.array,), types=(array.array,), loop_makes=True, loop_runs=True)
)
