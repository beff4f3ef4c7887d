"""Standing in for `multiprocessing.managers` in this process."""

from __future__ import annotations

import multiprocessing
import sys
from types import ModuleType

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
    module before stays what it is.  Calling it twice does no more than once.
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


def uninstall() -> None:
    """Take `install` back; nothing happens where it is not in force."""
    global _replaced
    if not installed() or _replaced is None:
        return
    module, attribute = _replaced
    _replaced = None
    if isinstance(module, ModuleType):
        sys.modules[_NAME] = module
    else:
        del sys.modules[_NAME]
    if attribute is _ABSENT:
        del vars(multiprocessing)["managers"]
    else:
        vars(multiprocessing)["managers"] = attribute
