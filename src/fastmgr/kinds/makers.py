"""The rows of counters, values and arrays, and the functions that make them, perhaps by name.

A function has the name that users call it by: `help` shows the function, and messages its name.
"""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from multiprocessing import process
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from fastmgr.kinds.rows import GAINS, Codec, Later, Row, Unread, declare, names
from fastmgr.wire.opaque import Opaque

if TYPE_CHECKING:
    from fastmgr.kinds import arrays, carried, counters, values
else:
    arrays, carried, counters, values = (
        Later(f"fastmgr.kinds.{name}") for name in ("arrays", "carried", "counters", "values")
    )

__all__ = ["ARRAY", "COUNTER", "COUNTERS", "VALUE", "Array", "Counter", "Counters", "Value"]


def make_named(name: str | None, kind: type, arguments: tuple[Any, ...]) -> Any:
    """Make an object; with a `name` return the server's object of that name, if there is one."""
    if name is None:
        return kind(*arguments)
    server = getattr(process.current_process(), "_manager_server", None)
    if server is None:
        raise ValueError(f"name={name!r}: only a manager's server keeps objects by name")
    return server.names.get(name, kind, arguments, server.arena)


def Counter(initial: int = 0, *, name: str | None = None) -> Any:
    """Return a counter, an integer of 64 bits that changes in one step, without a lock.

    Parameters
    ----------
    initial : int
        The number to begin with.
    name : str, optional
        The server keeps the counter under this name until ``manager.forget``, and an arena's file
        beyond the server's life.  If the name is in use, this returns the kept counter as it is.

    Returns
    -------
    CounterProxy

    Raises
    ------
    TypeError
        `initial` is no integer, or an object of another kind has the name.

    Examples
    --------
    >>> hits = manager.Counter()
    >>> hits.incr()
    1
    >>> hits += 2
    >>> hits.value
    3
    """
    if isinstance(initial, str):  # type: ignore[unreachable]  # callers are not all checked
        raise TypeError(
            f"Counter({initial!r}): it begins with an int; its name is name={initial!r}"
        )
    return make_named(name, counters.Counter, (initial,))


def Counters(names: Any, *, name: str | None = None) -> Any:
    """Return counters in a row, each of which changes in one step, without a lock.

    Parameters
    ----------
    names : iterable of str, mapping of str to int, or int
        The counters' names; a mapping from names to the numbers to begin with; or how many there
        are, which then have indices.
    name : str, optional
        As for a Counter.  Counters that are not among the kept ones are added to them.

    Returns
    -------
    CountersProxy

    Raises
    ------
    TypeError
        A number is no integer, or an object of another kind has the name.
    ValueError
        A counter's name occurs twice; or new counters are asked for without all of the kept ones.

    Examples
    --------
    >>> words = manager.Counters(["spam", "eggs"])
    >>> words.incr("spam", 3)
    3
    >>> words.as_dict()
    {'spam': 3, 'eggs': 0}
    """
    return make_named(name, counters.Counters, (names,))


def Value(typecode: str, value: Any, lock: bool = True, *, name: str | None = None) -> Any:
    """Return a value: one object that is read and replaced.

    Parameters
    ----------
    typecode : str
        Kept for the representation.
    value : object
        The object to begin with; in an arena's file None, a bool, a float or an int of 48 bits.
    lock : bool
        Ignored, as in the stdlib.
    name : str, optional
        As for a Counter.

    Returns
    -------
    ValueProxy

    Raises
    ------
    TypeError
        An object of another kind or typecode has the name.

    Examples
    --------
    >>> best = manager.Value("d", 0.5)
    >>> best.value = 0.75
    >>> best.exchange(1.0)
    0.75
    """
    return make_named(name, values.Value, (typecode, value))


def Array(
    typecode: str, sequence: Iterable[Any], lock: bool = True, *, name: str | None = None
) -> Any:
    """Return an array of numbers.

    Parameters
    ----------
    typecode : str
        As for `array.array`.
    sequence : iterable
        The items to begin with.
    lock : bool
        Ignored, as in the stdlib.
    name : str, optional
        As for a Counter.  An empty sequence asks for an array of any length.

    Returns
    -------
    ArrayProxy

    Raises
    ------
    TypeError
        An object of another kind or typecode has the name.
    ValueError
        The array of that name has another length.

    Examples
    --------
    >>> samples = manager.Array("d", [0.0, 1.5])
    >>> samples[0] = 2.5
    >>> samples[:]
    array('d', [2.5, 1.5])
    """
    return make_named(name, arrays.Array, (typecode, sequence))


def _spelled(row: counters.Counters) -> list[Any] | int:
    return len(row) if row.names is None else list(row.names)


def _about_counters(row: counters.Counters, name: str) -> list[Any] | int:
    if not all(type(key) is str for key in row.names or ()):
        raise TypeError(f"{name!r}: counters in a file are called by strings, or by index")
    return _spelled(row)


def _restore_counters(about: Any, name: str) -> counters.Counters:
    # `Counters` takes more than that, a text for example.
    if type(about) is int or (type(about) is list and all(type(key) is str for key in about)):
        return counters.Counters(about)
    raise TypeError(f"counters are not called {reprlib.repr(about)}")


def _missing_counters(kept: counters.Counters, wanted: counters.Counters) -> Any:
    """Return the counters that have to be added so that all that are wanted are there, or None."""
    if len(wanted) == 0:
        return None
    if (kept.names is None) != (wanted.names is None):
        raise ValueError
    if kept.names is None or wanted.names is None:
        return counters.Counters(len(wanted) - len(kept)) if len(wanted) > len(kept) else None
    new = [key for key in wanted.names if key not in kept]
    if new and not all(key in wanted for key in kept.names):
        raise ValueError  # this is another row, or somebody has renamed a counter
    return counters.Counters({key: wanted[key] for key in new}) if new else None


def _about_value(value: values.Value, name: str) -> str | int | None:
    value.keeper = name
    value.set(value.get())  # refuses what a file cannot hold, before anything is written
    code = value._typecode
    if code is not None and not isinstance(code, (str, int)):
        # JSON cannot hold it, or makes another typecode of it: then nobody would find the value.
        raise TypeError(f"{name!r}: the typecode of a value in a file is text; not {code!r}")
    return code


def _restore_value(about: Any, name: str) -> values.Value:
    value = values.Value(about, None)
    value.keeper = name
    return value


def _join_values(kept: values.Value, wanted: values.Value) -> None:
    if kept._typecode != wanted._typecode:
        raise TypeError


def _join_arrays(kept: arrays.Array, wanted: arrays.Array) -> None:
    if kept.typecode != wanted.typecode:
        raise TypeError
    if len(wanted) not in (0, len(kept)):  # a client that asks for no items gets the kept array
        raise ValueError


def _put_in_value(value: values.Value, read: dict[Opaque, Any]) -> None:
    if type(held := value._other) is Opaque:
        value._other = read[held]


COUNTER = declare(
    Row(
        typeids=("Counter",),
        make=Counter,
        also_make=("fastmgr.kinds.counters:Counter",),
        types=("fastmgr.kinds.counters:Counter",),
        proxy="fastmgr.proxies:CounterProxy",
        exposed=("incr", "decr", "get", "set", "exchange", "compare_exchange"),
        gains=GAINS - {"get"},
        cell_calls=names("incr decr get set exchange compare_exchange"),
        loop_makes=True,
        loop_runs=True,
        creation_errors="shown",
        codec=Codec(
            number=1,
            about=lambda counter, name: None,
            restore=lambda about, name: counters.Counter(),
            described=lambda counter: "Counter",
            join=lambda kept, wanted: None,
        ),
    )
)

COUNTERS = declare(
    Row(
        typeids=("Counters",),
        make=Counters,
        also_make=("fastmgr.kinds.counters:Counters",),
        types=("fastmgr.kinds.counters:Counters",),
        proxy="fastmgr.proxies:CountersProxy",
        exposed=(
            "incr", "decr", "exchange", "compare_exchange", "keys", "snapshot", "as_dict",
            "__getitem__", "__setitem__", "__contains__", "__len__",
        ),
        cell_calls=names(
            "incr decr exchange compare_exchange keys snapshot __getitem__ __setitem__ __len__"
        ),
        loop_makes=True,
        loop_runs=True,
        creation_errors="shown",
        codec=Codec(
            number=2,
            about=_about_counters,
            restore=_restore_counters,
            described=lambda row: f"Counters({reprlib.repr(_spelled(row))})",
            join=_missing_counters,
            added=5,
            grow=lambda kept, *added: counters.grow(kept, *added),
        ),
    )
)  # fmt: skip

VALUE = declare(
    Row(
        typeids=("Value",),
        make=Value,
        also_make=("fastmgr.kinds.values:Value",),
        types=("fastmgr.kinds.values:Value",),
        proxy="fastmgr.proxies:ValueProxy",
        exposed=("get", "set", "incr", "exchange", "compare_exchange"),
        gains=GAINS - {"get"},
        cell_calls=names("get set incr exchange compare_exchange"),
        unread=Unread(
            keeps={"exchange": 0, "set": 0},
            blind=names("exchange get set #GETVALUE"),
            find=lambda value: carried.in_list([value._other]),
            put_in_place=_put_in_value,
            beside_cell=attrgetter("_other"),
        ),
        loop_makes=True,
        loop_runs=True,
        creation_errors="named",
        codec=Codec(
            number=3,
            about=_about_value,
            restore=_restore_value,
            described=lambda value: f"Value({value._typecode!r}, ...)",
            join=_join_values,
            typecode=lambda value: value._typecode if type(value._typecode) is str else None,
        ),
    )
)

ARRAY = declare(
    Row(
        typeids=("Array",),
        make=Array,
        also_make=("fastmgr.kinds.arrays:Array",),
        types=("fastmgr.kinds.arrays:Array",),
        proxy="fastmgr.proxies:ArrayProxy",
        exposed=("__len__", "__getitem__", "__setitem__", "incr"),
        cell_calls=names("__len__ __getitem__ __setitem__ incr"),
        loop_makes=True,
        loop_runs=True,
        creation_errors="named",
        codec=Codec(
            number=4,
            about=lambda array, name: array.typecode,
            restore=lambda about, name: arrays.Array(about, ()),
            described=lambda array: f"Array({array.typecode!r}, ...) of {len(array)} items",
            join=_join_arrays,
            typecode=attrgetter("typecode"),
        ),
    )
)
