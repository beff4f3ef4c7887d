"""The types behind the proxies that the stdlib does not have elsewhere."""

from __future__ import annotations

import array
import threading
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastmgr.kinds import waits
from fastmgr.kinds.values import Value as Value

if TYPE_CHECKING:
    from multiprocessing.managers import Namespace as _StockNamespace
else:
    _StockNamespace = object

__all__ = [
    "Array",
    "Barrier",
    "Condition",
    "Namespace",
    "Value",
    "is_locked",
]


_RLock = type(threading.RLock())


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


def Condition(lock: Any = None) -> Any:
    """Return a condition; one over a lock that is given waits in threads."""
    return waits.Condition() if lock is None else threading.Condition(lock)


def Barrier(parties: int, action: Any = None, timeout: float | None = None) -> Any:
    """Return a barrier; one with an action to call waits in threads."""
    if action is None:
        return waits.Barrier(parties, timeout)
    return threading.Barrier(parties, action, timeout)


def is_locked(obj: Any) -> bool:
    """Whether a primitive of `threading` is held, where it cannot say so itself.

    Raises
    ------
    AttributeError
        It is no primitive that can be held.
    """
    if isinstance(obj, threading.Condition):
        obj = obj._lock  # type: ignore[attr-defined]
    if isinstance(obj, threading.Semaphore):
        return bool(obj._value == 0)
    if isinstance(obj, _RLock):
        # The compiled RLock tells its state in its representation alone.
        return repr(obj).startswith("<locked")
    return bool(obj.locked())


def Array(typecode: str, sequence: Iterable[Any], lock: bool = True) -> array.array[Any]:
    """Return an `array.array`; `lock` is accepted and ignored, as in the stdlib."""
    return array.array(typecode, sequence)
