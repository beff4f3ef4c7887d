"""The types behind the proxies that the stdlib does not have elsewhere."""

from __future__ import annotations

import array
import threading
from collections.abc import Iterable
from multiprocessing import process
from typing import TYPE_CHECKING, Any

from fastmgr.kinds import numbers, waits
from fastmgr.kinds.numbers import Value as Value

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
    "make_array",
    "make_counter",
    "make_counters",
    "make_value",
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


# -- what a name may be given to -----------------------------------------------------


def _named(name: str | None, kind: type, arguments: tuple[Any, ...]) -> Any:
    """Make an object; one that has a name only if the server has none of that name."""
    if name is None:
        return kind(*arguments)
    server = getattr(process.current_process(), "_manager_server", None)
    if server is None:
        raise ValueError(f"name={name!r}: only a manager's server keeps objects by name")
    return server.names.get(name, kind, arguments, server.arena)


def make_counter(initial: int = 0, *, name: str | None = None) -> Any:
    """Return a counter, an integer of 64 bits that changes in one step.

    Parameters
    ----------
    initial : int
        What it begins with.
    name : str, optional
        What it is kept under until ``manager.forget``, in an arena's file beyond the server's life.
        Who asks for a name that is kept gets what is kept there, with its value.

    Raises
    ------
    TypeError
        It is no integer, or something of another kind has the name.
    """
    return _named(name, numbers.Counter, (initial,))


def make_counters(names: Any, *, name: str | None = None) -> Any:
    """Return counters in a row.

    Parameters
    ----------
    names : iterable of str, mapping of str to int, or int
        What they are called; by a mapping, what each begins with, too; or how many there are, which
        then have indices.
    name : str, optional
        As for a Counter; those that are not among the kept ones are added to them.

    Raises
    ------
    TypeError
        A count is no integer, or something of another kind has the name.
    ValueError
        The name has counters of which some are not asked for while others are, or a counter's name
        occurs twice.
    """
    return _named(name, numbers.Counters, (names,))


def make_value(typecode: str, value: Any, lock: bool = True, *, name: str | None = None) -> Any:
    """Return a value.

    Parameters
    ----------
    typecode : str
        Kept for the representation.
    value : object
        What it begins with; in an arena's file None, a bool, a float or an int of 48 bits.
    lock : bool
        Ignored, as in the stdlib.
    name : str, optional
        As for a Counter.

    Raises
    ------
    TypeError
        Something of another kind or typecode has the name.
    """
    return _named(name, numbers.Value, (typecode, value))


def make_array(
    typecode: str, sequence: Iterable[Any], lock: bool = True, *, name: str | None = None
) -> Any:
    """Return an array of numbers.

    Parameters
    ----------
    typecode : str
        As for `array.array`.
    sequence : iterable
        The items that it begins with.
    lock : bool
        Ignored, as in the stdlib.
    name : str, optional
        As for a Counter.  An empty sequence asks for however many there are.

    Raises
    ------
    TypeError
        Something of another kind or typecode has the name.
    ValueError
        The array of that name has another length.
    """
    return _named(name, numbers.Array, (typecode, sequence))
