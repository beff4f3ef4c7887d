"""One row per shared type, and the tables that are derived from the rows.

Everything particular to a type is one `Row`, in the file of that type in this room.  `declare`
checks that the row is whole and enters it into the tables below.  The server's hot path, the files
of named objects and the managers look there.  Nothing replaces a table, so a row that a test or
another package declares late counts like all others.

A client needs neither the objects nor the functions that work on them.  A row may name these by
texts (``module:qualname``), and its functions use modules by `Later`.  What only a server needs of
a row is looked up, checked and entered when the server's package is loaded (`fill_tables`).
"""

# No `from __future__ import annotations`: `NamedTuple` would compile each of these texts, at every
# start of a program.

from collections.abc import Callable, Iterator, Mapping
from importlib import import_module
from itertools import chain
from operator import attrgetter
from typing import Any, Literal, NamedTuple

__all__ = [
    "GAINS", "Codec", "Later", "Row", "Unread", "codec_of", "declare", "fill_tables", "names",
]  # fmt: skip


def names(text: str) -> frozenset[str]:
    """Return the names in a text, as the fields of a `Row` hold them."""
    return frozenset(text.split())


class Later:
    """A module that is imported when something of it is first asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        found = vars(self)[name] = getattr(import_module(self._name), name)
        return found


#: What may be called of each object.
_OF_ALL = names("#GETVALUE __repr__ __str__")

#: Methods that take something, by the names that they have in most types.
GAINS = names("acquire __enter__ get get_many get_nowait pop popitem exchange __next__ send")


class Unread(NamedTuple):
    """How objects of a type hold values that the server has not read (`Opaque`)."""

    #: Methods that keep one of their arguments without looking at it -> which argument that is.
    keeps: Mapping[str, int]
    #: Methods that look at no value which the object holds, whatever plain arguments they get.
    #: Before another method runs, the server reads all values.  None: no method of the type looks.
    blind: frozenset[str] | None
    #: ``find(obj)`` returns the unread values in a list, as of one moment.
    find: Callable[[Any], list[Any]] | str | None = None
    #: ``put_in_place(obj, read)`` puts ``read[value]`` where the unread `value` still is.
    put_in_place: Callable[[Any, dict[Any, Any]], None] | str | None = None
    #: ``keeps_if(args)`` says, in one step, whether a method of `keeps` keeps it this time.
    keeps_if: Callable[[tuple[Any, ...]], bool] | None = None
    #: Methods of `keeps` whose argument is a list, of which they keep each value by itself.
    each: frozenset[str] = frozenset()
    #: Methods whose result holds no value of the object, even where the result is shared.
    bare: frozenset[str] = frozenset()
    #: ``beside_cell(obj)`` returns what an object holds that is shared once more; None for nothing.
    #: If that is no unread value, the loop does not know what it is.
    beside_cell: Callable[[Any], Any] | None = None


def _stays(kept: Any, *added: Any) -> None:
    raise ValueError(f"{type(kept).__name__} does not grow")


def _has_none(kept: Any) -> None:
    return None


class Codec(NamedTuple):
    """How a file keeps named objects of a type."""

    #: Says in a record which type the object has.  Numbers below 256 are this package's.
    number: int
    #: ``about(obj, name)`` returns what else is needed to make the object again, as JSON can hold
    #: it.  It raises TypeError where a file cannot keep the object.
    about: Callable[[Any, str], Any]
    #: ``restore(about, name)`` makes an object, whose state then is the record's data.  A file is
    #: hostile: `restore` raises TypeError or ValueError for what `about` never returns.
    restore: Callable[[Any, str], Any]
    #: ``described(obj)`` says in a few words which object a file keeps, or a client asks for.
    described: Callable[[Any], str]
    #: ``join(kept, wanted)`` compares the kept object with the one that a client asks for.  It
    #: returns None, or an object of the type that has to be added to the kept one.  Where the two
    #: do not agree it raises TypeError or ValueError, whose text nobody sees.
    join: Callable[[Any, Any], Any]
    #: Says in a record that the object was added to the one of the same name.
    added: int | None = None
    #: ``grow(kept, *added)`` adds them; it raises ValueError for what `join` never returns.
    grow: Callable[..., None] = _stays
    #: ``typecode(obj)`` returns what a client has to give beside the name, as text, to find it.
    typecode: Callable[[Any], str | None] = _has_none


class Row(NamedTuple):
    """All that is particular to one shared type."""

    #: The names under which `SyncManager` has the type; none for a type that only users register.
    typeids: tuple[str, ...] = ()
    #: Makes an object.  None: objects come only from methods of others.
    make: Callable[..., Any] | None = None
    #: What else makes such objects, for those who register it themselves.
    also_make: tuple[Callable[..., Any] | str, ...] = ()
    #: The exact types of the objects, or texts.  A subclass of a user's is another type.
    types: tuple[Any, ...] = ()
    #: Names the proxy type, ``module:qualname``, for proxies stand in a room above.  None:
    #: `AutoProxy`.
    proxy: str | None = None
    #: Names of the methods that proxies may call.  Empty: every public method.
    exposed: tuple[str, ...] = ()
    #: Methods whose results are shared in their turn -> the id of the results' type.
    method_to_typeid: dict[str, str] | None = None
    #: Methods that take something, which is lost where their reply does not reach the caller.
    gains: frozenset[str] = GAINS
    #: Methods that a client on the host does by itself where it has mapped the object's cell.  Only
    #: if all of them are exposed does the server tell where the cell is.  Empty: it never does.
    cell_calls: frozenset[str] | None = None
    #: Methods that change nothing, whatever plain arguments they get, of objects whose replies a
    #: client on the host may keep until another method is called.  None: it keeps none.
    readers: frozenset[str] | None = None
    #: Methods that the type itself does not have: ``verb(obj, *args, **kwds)``.  A verb that the
    #: loop runs is one step: nothing in it gives the GIL away.
    verbs: Mapping[str, Callable[..., Any]] = {}
    #: What `help` shows where `make` and its methods say nothing, or what is not true here: by a
    #: method's name, or by the type's id for the manager's method.
    texts: Mapping[str, str] = {}
    #: Objects have no attributes of their own, so a method that the type has is the object's.
    is_closed: bool = False
    #: How objects hold values that the server has not read.  None: they never do.
    unread: Unread | None = None
    #: Nothing but code of ours or the interpreter's runs when `make` gets plain arguments.
    loop_makes: bool = False
    #: The same of all methods, as long as only plain values have reached the object.
    loop_runs: bool = False
    #: The objects are a `kinds.waits.Primitive`: a call that waits needs no thread.
    parks: bool = False
    #: No method depends on the thread that runs it.  True of what the loop runs or parks.
    any_thread: bool = False
    #: What methods raise on purpose, without arguments: the loop pickles such an error.
    errors: tuple[type[Exception], ...] = ()
    #: Whether a client gets an error of `make` as it is.  'hidden': in a `RemoteError`, as the
    #: stdlib has it; 'named': as it is where the object has a name; 'shown': as it is.
    creation_errors: Literal["hidden", "named", "shown"] = "hidden"
    #: How a file keeps the objects that have a name.  `make` then takes the keyword ``name``.
    codec: Codec | None = None

    @property
    def label(self) -> str:
        """What messages call the row."""
        if self.typeids:
            return self.typeids[0]
        return "/".join(getattr(kind, "__name__", kind) for kind in self.types)


# -- the tables -------------------------------------------------------------------

#: By a type's id, and by the exact type of an object.
BY_TYPEID: dict[str, Row] = {}
BY_TYPE: dict[type, Row] = {}
#: What the loop may call to make an object.
MADE_ON_LOOP: set[Callable[..., Any]] = set()
#: Types of which the loop may run each method, while only plain values have reached the object.
RUN_ON_LOOP: set[type] = set()
#: Types of primitives, whose waiters the loop keeps.
PARKING: set[type] = set()
#: Types of which no method depends on the thread that runs it.
ANY_THREAD: set[type] = set()
#: Exceptions that the loop pickles: there is nothing in them but their type.
ERRORS: set[type[Exception]] = set()
CELL_CALLS: dict[type, frozenset[str]] = {}
#: By a type, the row whose `readers` count.
READ_BY: dict[type, Row] = {}
#: By a type and a name, what is called where the type has no such method.
VERBS: dict[tuple[type, str], Callable[..., Any]] = {}
_COMPILED_METHODS = type(dict.get), type(dict.__setitem__)
#: By a closed type, then by name: what is called with the object and the arguments.
METHODS_OF: dict[type, dict[str, Callable[..., Any]]] = {}
UNREAD: dict[type, Unread] = {}
#: By a type and a method's name: which argument is kept unread.
KEPT_ARGUMENT: dict[tuple[type, str], int] = {}
#: What makes objects whose errors a client gets as they are: always, or if they have a name.
SHOWN_IF_MADE_BY: set[Callable[..., Any]] = set()
SHOWN_IF_NAMED_BY: set[Callable[..., Any]] = set()
#: The bit that only handles of objects with a name have.
NAMED = 1 << 62
#: By what makes an object that may have a name: the type of the object.
NAMED_BY: dict[Callable[..., Any], type] = {}
#: By the number in a record of a file.
BY_NUMBER: dict[int, Row] = {}


#: The rows declared so far, while the process is only a client; None once the tables are filled.
_waiting: list[Row] | None = []


def declare(row: Row) -> Row:
    """Enter a row into the tables, and return it; into a server's when they are filled.

    It raises ValueError where the row is not whole, or contradicts itself or another row.
    """
    _raise_for(row, _problems_of_ids(row))
    if _waiting is not None:
        _waiting.append(row)
    else:
        _enter(_found(row))
    BY_TYPEID.update(dict.fromkeys(row.typeids, row))
    return row


def fill_tables() -> None:
    """Check and enter the rows declared so far into the server's tables; later ones at once."""
    global _waiting
    while _waiting:
        _enter(_found(_waiting[0]))  # if that raises, the next import of a server will, too
        del _waiting[0]
    _waiting = None


def _find(named: Any) -> Any:
    """Return what a text of a row names; what is no such text is returned as it is."""
    if type(named) is not str:
        return named
    module, _, qualname = named.partition(":")
    return attrgetter(qualname)(import_module(module))


def _found(row: Row) -> Row:
    """Return a row with what its texts name in their place."""
    return row._replace(
        types=tuple(map(_find, row.types)),
        also_make=tuple(map(_find, row.also_make)),
        unread=row.unread and Unread(*map(_find, row.unread)),
    )


def _raise_for(row: Row, problems: Iterator[str]) -> None:
    if found := "; ".join(problems):
        raise ValueError(f"the row of {row.label}: {found}")


def _enter(row: Row) -> None:
    """Enter a row, all of which is at hand, into the tables of the server."""
    _raise_for(row, chain(_problems(row), _problems_of_methods(row), _problems_of_codec(row)))
    BY_TYPE.update(dict.fromkeys(row.types, row))
    makers = (*((row.make,) if row.make else ()), *row.also_make)
    for chosen, things, table in (
        (row.loop_makes, makers, MADE_ON_LOOP),
        (row.loop_runs, row.types, RUN_ON_LOOP),
        (row.parks, row.types, PARKING),
        (row.any_thread or row.loop_runs or row.parks, row.types, ANY_THREAD),
        (row.creation_errors == "shown", makers[:1], SHOWN_IF_MADE_BY),
        (row.creation_errors == "named", makers[:1], SHOWN_IF_NAMED_BY),
        (True, row.errors, ERRORS),
    ):
        if chosen:
            table.update(things)
    for kind in row.types:
        if row.cell_calls:
            CELL_CALLS[kind] = row.cell_calls
        if row.readers:
            READ_BY[kind] = row
        if row.unread is not None:
            UNREAD[kind] = row.unread
            KEPT_ARGUMENT.update({(kind, name): i for name, i in row.unread.keeps.items()})
        VERBS.update({(kind, name): verb for name, verb in row.verbs.items()})
        if row.is_closed:
            own = {name: m for name, m in vars(kind).items() if type(m) in _COMPILED_METHODS}
            METHODS_OF[kind] = {**own, **row.verbs}
    if row.codec is not None and row.make is not None:
        NAMED_BY[row.make] = row.types[0]
        BY_NUMBER[row.codec.number] = row
        if row.codec.added is not None:
            BY_NUMBER[row.codec.added] = row


def codec_of(kind: type) -> Codec:
    """Return how a file keeps objects of a type (TypeError if none may have a name)."""
    codec = BY_TYPE[kind].codec if kind in BY_TYPE else None
    if codec is None:
        raise TypeError(f"no row says how a {kind.__name__} is kept by name")
    return codec


def _problems_of_ids(row: Row) -> Iterator[str]:
    """Say what is wrong with the names that a client knows the type by."""
    yield from (f"{typeid!r} is another row's" for typeid in row.typeids if typeid in BY_TYPEID)
    if not row.typeids and not row.types:
        yield "it has neither an id nor a type"
    if row.proxy is not None and not all(row.proxy.partition(":")):
        yield f"proxy={row.proxy!r} is not spelled 'module:qualname'"


def _problems(row: Row) -> Iterator[str]:
    """Say what is wrong with the types, what makes objects and where their methods run."""
    from fastmgr.kinds.waits import Primitive
    from fastmgr.memory.arena import Celled

    yield from (f"the type {kind.__name__} has a row" for kind in row.types if kind in BY_TYPE)
    if row.make is None and (row.loop_makes or row.creation_errors != "hidden"):
        yield "loop_makes or creation_errors, but nothing makes it"
    if row.loop_runs and row.parks:
        yield "loop_runs and parks exclude each other"
    if (row.loop_runs or row.parks or row.any_thread) and not row.types:
        yield "it says where its methods run, but not of which types"
    if row.readers is not None and not (row.loop_makes and row.loop_runs):
        yield "readers, but the loop does not make the objects and run their methods"
    for kind in row.types:
        if row.parks != issubclass(kind, Primitive):
            yield f"parks={row.parks}, and {kind.__name__} is a primitive, or is none"
        if issubclass(kind, Celled) and row.cell_calls is None:
            yield f"{kind.__name__} may have a cell: cell_calls, or that there are none"
        if row.cell_calls and not issubclass(kind, Celled):
            yield f"cell_calls, but {kind.__name__} has no cell"


def _problems_of_methods(row: Row) -> Iterator[str]:
    """Say what is wrong with what may be called, and with how values are kept unread."""
    for field, found in (
        ("cell_calls", row.cell_calls or ()),
        ("verbs", row.verbs),
        ("readers", (row.readers or frozenset()) - _OF_ALL),
        ("method_to_typeid", row.method_to_typeid or ()),
    ):
        if missing := set(found).difference(row.exposed or found):
            yield f"{field} has what is not exposed: {_listed(missing)}"
    unread = row.unread
    told: set[str] = set()
    if unread is not None:
        told.update(unread.keeps, unread.blind or (), unread.each, unread.bare)
    for kind in row.types:
        if missing := {*row.exposed, *told} - {*row.verbs, *dir(kind), "#GETVALUE"}:
            yield f"{kind.__name__} has no method {_listed(missing)}"
        if hidden := {name for name in row.verbs if hasattr(kind, name)}:
            yield f"verbs that {kind.__name__} has itself: {_listed(hidden)}"
    if unread is None:
        return
    if not unread.keeps:
        yield "unread, but no method keeps anything"
    if strange := set(unread.each) - unread.keeps.keys():
        yield f"each has what is not in keeps: {_listed(strange)}"
    if unread.blind is not None:
        if looking := set(unread.keeps) - unread.blind:
            yield f"what keeps a value looks at the others: {_listed(looking)}"
        if unread.find is None or unread.put_in_place is None:
            yield "methods look at its values, but it has no find or put_in_place"
    if not (row.loop_runs or row.parks):
        yield "unread, but the loop neither runs nor parks its methods"


def _problems_of_codec(row: Row) -> Iterator[str]:
    """Say what is wrong with how a file keeps objects."""
    from fastmgr.memory.arena import Celled

    codec = row.codec
    if codec is None:
        return
    if row.make is None or "name" not in (getattr(row.make, "__kwdefaults__", None) or ()):
        yield "codec, but what makes it takes no keyword 'name'"
    if len(row.types) != 1 or not issubclass(row.types[0], Celled):
        yield "codec: a file keeps objects of one type that has a cell"
    if (codec.added is None) != (codec.grow is _stays):
        yield "codec: added and grow need each other"
    numbers = {codec.number, codec.added or codec.number}
    if numbers & BY_NUMBER.keys() or 0 in numbers:
        yield f"codec: another row has the number {codec.number} or {codec.added}"


def _listed(found: set[str]) -> str:
    return ", ".join(sorted(found))
