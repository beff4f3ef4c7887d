"""An object whose attributes are the shared values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from fastmgr.kinds import carried
from fastmgr.kinds.rows import Row, Unread, declare, names
from fastmgr.kinds.verbs import NamespaceVerbs, sets_value

if TYPE_CHECKING:
    from multiprocessing.managers import Namespace as _StockNamespace
else:
    _StockNamespace = object

__all__ = ["NAMESPACE", "Namespace"]


class Namespace(_StockNamespace):
    """An object whose attributes are the shared values."""

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
