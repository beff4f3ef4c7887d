"""Standing in for `multiprocessing.managers` in this process."""

from __future__ import annotations

import copyreg
import importlib
import multiprocessing
import sys
from collections.abc import Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

from fastmgr import managers

__all__ = ["install", "installed", "uninstall"]

_NAME = "multiprocessing.managers"
_ABSENT = object()

#: What `install` found: the entry of sys.modules and the package's attribute.
_replaced: tuple[object, object] | None = None


def installed() -> bool:
    """Return whether this process's `multiprocessing.managers` is fastmgr's."""
    return sys.modules.get(_NAME) is managers


def install() -> None:
    """Make `multiprocessing.managers` be `fastmgr.managers` in this process.

    `multiprocessing.Manager` and every context's ``Manager`` follow, for they
    import the module when they are called.  Children that are forked inherit it;
    spawned ones have to call it themselves.  What was imported from the stock
    module before stays what it is, and its proxies can still be pickled.  Calling it
    twice does no more than once.
    """
    global _replaced
    if installed():
        return
    _replaced = (
        sys.modules.get(_NAME, _ABSENT),
        multiprocessing.__dict__.get("managers", _ABSENT),
    )
    sys.modules[_NAME] = managers
    vars(multiprocessing)["managers"] = managers
    for kind in _bases_of(_replaced[0]):
        kind.__reduce_ex__ = _reduce_by_name


def uninstall() -> None:
    """Take `install` back; nothing happens where it is not in force."""
    global _replaced
    if not installed() or _replaced is None:
        return
    module, attribute = _replaced
    _replaced = None
    for kind in _bases_of(module):
        del kind.__reduce_ex__
    if isinstance(module, ModuleType):
        sys.modules[_NAME] = module
    else:
        del sys.modules[_NAME]
    if attribute is _ABSENT:
        del vars(multiprocessing)["managers"]
    else:
        vars(multiprocessing)["managers"] = attribute


# -- pickling what the replaced module's classes have made -----------------------------


class _Named:
    """Stands, in a pickle, for what has this name in the reader's `multiprocessing.managers`.

    The pickler itself insists that the name leads back to the object, which it does no more.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def __call__(self) -> None:
        """Nobody calls it; but the pickler insists that what makes an object can be called."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        if self.name is None:
            return importlib.import_module, (_NAME,)
        return getattr, (_Named(), self.name)


def _bases_of(module: object) -> Iterator[Any]:
    """The classes of the replaced module, if one was loaded, that are not derived from others."""
    for kind in list(vars(module).values()) if isinstance(module, ModuleType) else ():
        if isinstance(kind, type) and _NAME == kind.__module__ != kind.__base__.__module__:
            yield kind


def _reduce_by_name(self: Any, protocol: int) -> Any:
    """``__reduce_ex__`` of the replaced module's classes."""
    made_by, *rest = tuple(object.__reduce_ex__(self, max(protocol, 2)))
    if made_by is copyreg.__newobj__:  # type: ignore[attr-defined]
        made_by = object.__new__  # the other has to have the class itself
    return _by_name((made_by, *rest))


def _by_name(value: Any) -> Any:
    if type(value) is tuple:
        return tuple(map(_by_name, value))
    if isinstance(value, (type, FunctionType)) and value.__module__ == _NAME:
        name: str = value.__name__
        if _replaced is not None and vars(_replaced[0]).get(name) is value:
            return _Named(name)
    return value
