"""Standing in for `multiprocessing.managers` in this process."""

from __future__ import annotations

import importlib
import multiprocessing
import pickle
import sys
from collections.abc import Callable
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, ModuleType
from typing import Any

from fastmgr import managers
from fastmgr.wire import opaque

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
    module before stays what it is, and can still be sent to other processes.  Calling
    it twice does no more than once.

    Examples
    --------
    >>> fastmgr.install()
    >>> import multiprocessing
    >>> with multiprocessing.Manager() as manager:
    ...     type(manager)
    <class 'fastmgr.managers.SyncManager'>
    >>> fastmgr.uninstall()
    """
    global _replaced
    if installed():
        return
    _replaced = (sys.modules.get(_NAME, _ABSENT), multiprocessing.__dict__.get("managers", _ABSENT))
    sys.modules[_NAME] = managers
    vars(multiprocessing)["managers"] = managers
    if _replaced[0] is not _ABSENT:
        ForkingPickler.reducer_override = _pickle_by_name  # type: ignore[method-assign]
        opaque.use_pickler(_Pickler)


def uninstall() -> None:
    """Take `install` back; nothing happens where it is not in force."""
    global _replaced
    if not installed() or _replaced is None:
        return
    module, attribute = _replaced
    _replaced = None
    if vars(ForkingPickler).get("reducer_override") is _pickle_by_name:
        del ForkingPickler.reducer_override
        opaque.use_pickler(pickle.Pickler)
    if isinstance(module, ModuleType):
        sys.modules[_NAME] = module
    else:
        del sys.modules[_NAME]
    if attribute is _ABSENT:
        del vars(multiprocessing)["managers"]
    else:
        vars(multiprocessing)["managers"] = attribute


# -- pickling what the replaced module has made ----------------------------------------


class _ModuleOfTheReader:
    """Stands, in a pickle, for the reader's `multiprocessing.managers`, whichever that is."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return importlib.import_module, (_NAME,)


def _pickle_by_name(self: pickle.Pickler, obj: Any) -> Any:
    """``ForkingPickler.reducer_override``, for classes and functions of the replaced module.

    The pickler insists that their names lead back to them, which they do no more.
    """
    if isinstance(obj, (type, FunctionType)) and obj.__module__ == _NAME and _replaced is not None:
        name: str = obj.__name__
        if vars(_replaced[0]).get(name) is obj:
            return getattr, (_ModuleOfTheReader(), name)
    return NotImplemented


class _Pickler(pickle.Pickler):
    """For what our own calls carry."""

    reducer_override = _pickle_by_name
