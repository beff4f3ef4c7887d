"""The rows of the types: each is whole, and a row is all that a new type needs."""

from __future__ import annotations

import multiprocessing.managers as stdlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ForwardRef

import pytest
from support import KEY, call_in_subprocess, stopped

from fastmgr import managers
from fastmgr.baseproxy import find_by_name
from fastmgr.kinds import makers, rows, standard, waits
from fastmgr.kinds.counters import Counter
from fastmgr.kinds.rows import Row, Unread, declare
from fastmgr.managers import CounterProxy, SyncManager
from fastmgr.wire.methods import METHODS

# A type that is not built in: its object, its verb, what makes it, its row, its proxy


class Tally(Counter):
    """A counter of another type."""


def raise_to(tally: Tally, value: int) -> int:
    """Set it to a number, unless it is higher already; return what it is now."""
    while (now := tally.get()) < value:
        tally.compare_exchange(now, value)
    return now


def make_tally(initial: int = 0, *, name: str | None = None) -> Any:
    return makers.make_named(name, Tally, (initial,))


assert makers.COUNTER.codec is not None
TALLY = declare(
    makers.COUNTER._replace(
        typeids=("Tally",),
        make=make_tally,
        also_make=(),
        types=(Tally,),
        proxy=f"{__name__}:TallyProxy",
        exposed=(*makers.COUNTER.exposed, "raise_to"),
        verbs={"raise_to": raise_to},
        codec=makers.COUNTER.codec._replace(
            number=1000,
            restore=lambda about, name: Tally(),
            described=lambda tally: "Tally",
        ),
    )
)


class TallyProxy(CounterProxy):
    """A proxy of a tally."""

    _exposed_ = TALLY.exposed

    def raise_to(self, value: int) -> int:
        return self._callmethod("raise_to", (value,))


class TallyManager(SyncManager):
    """A manager of tallies."""


managers.register_rows(TallyManager, [TALLY])


class StockManager(stdlib.BaseManager):
    """What a program without fastmgr has."""


StockManager.register("Tally", exposed=TALLY.exposed)


@pytest.fixture(scope="module")
def manager() -> Iterator[Any]:
    with TallyManager(authkey=KEY) as manager:
        yield manager


def test_a_type_of_one_row_works_by_its_cell_without_a_call(manager: Any) -> None:
    tally = manager.Tally(3)
    assert type(tally) is TallyProxy
    assert tally.incr() == 4
    with stopped(manager._process.pid):
        assert tally.incr(2) == tally.get() == 6
        assert tally.compare_exchange(6, 7)
    assert tally._getvalue() == 7


def test_a_type_of_one_row_has_its_verb(manager: Any) -> None:
    tally = manager.Tally(3)
    assert [tally.raise_to(2), tally.raise_to(8), tally.get()] == [3, 8, 8]
    with pytest.raises(TypeError, match="str"):
        tally.raise_to("high")
    with pytest.raises(TypeError, match="integer"):  # as it is, for the row says so
        manager.Tally("3")


def test_a_type_of_one_row_is_served_to_a_stock_client(manager: Any) -> None:
    stock: Any = StockManager(manager.address, KEY)
    stock.connect()
    tally = stock.Tally(5)
    assert [tally.incr(), tally.raise_to(9)] == [6, 9]
    # Of a named one both clients have the same.
    assert manager.Tally(1, name="both").incr() == 2
    assert stock.Tally(name="both").raise_to(4) == 4
    assert manager.Tally(name="both").get() == 4
    del tally
    manager.forget("both")


def test_a_type_of_one_row_outlives_the_server_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "arena"
    address = str(tmp_path / "socket")
    with TallyManager(address, KEY, arena=path) as first:
        kept: Any = first.Tally(10, name="kept")
        assert [kept.incr(), kept.raise_to(20)] == [11, 20]
    with TallyManager(address, KEY, arena=path) as second:
        again: Any = second.Tally(name="kept")
        assert again.incr() == 21
        with stopped(second._process.pid):
            assert again.incr() == 22
        assert kept.get() == 22  # the proxy that was there before has found it
        with pytest.raises(TypeError, match=r"Tally is kept there, and Counter was asked for"):
            second.Counter(name="kept")
        assert second.forget("kept")


# Rows that are not whole


class Plain:
    """A type of a user's."""

    def look(self) -> None:
        """Do nothing."""


def no_name(initial: int = 0) -> Any:
    return Tally(initial)


KEPT = Unread(keeps={"look": 0}, blind=rows.names("look"))


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (Row(), "neither an id nor a type"),
        (Row(typeids=("Tally",)), "'Tally' is another row's"),
        (Row(types=(dict,)), "the type dict has a row"),
        (Row(types=(Plain,), exposed=("look", "find")), "Plain has no method find"),
        (Row(types=(Plain,), verbs={"look": raise_to}), "verbs that Plain has itself: look"),
        (
            Row(types=(Plain,), exposed=("look",), verbs={"raise_to": raise_to}),
            "verbs has what is not exposed: raise_to",
        ),
        (
            Row(types=(Plain,), exposed=("look",), method_to_typeid={"find": "list"}),
            "method_to_typeid has what is not exposed: find",
        ),
        (Row(types=(Plain,), proxy="somewhere"), "proxy='somewhere' is not spelled"),
        (Row(types=(Plain,), parks=True), "Plain is a primitive, or is none"),
        (Row(types=(waits.Owner,), loop_runs=True, parks=True), "exclude each other"),
        (Row(types=(type("Own", (Tally,), {}),)), "Own may have a cell: cell_calls"),
        (Row(types=(Plain,), cell_calls=rows.names("look")), "Plain has no cell"),
        (
            Row(types=(type("Own", (Tally,), {}),), exposed=("get",), cell_calls=rows.names("set")),
            "cell_calls has what is not exposed: set",
        ),
        (Row(types=(Plain,), loop_makes=True), "but nothing makes it"),
        (Row(types=(Plain,), creation_errors="shown"), "but nothing makes it"),
        (Row(typeids=("P",), any_thread=True), "but not of which types"),
        (Row(types=(Plain,), unread=KEPT), "the loop neither runs nor parks"),
        (Row(types=(Plain,), loop_runs=True, unread=KEPT), "no find or put_in_place"),
        (
            Row(types=(Plain,), loop_runs=True, unread=KEPT._replace(bare=rows.names("loook"))),
            "Plain has no method loook",
        ),
        (
            Row(types=(Plain,), loop_runs=True, unread=Unread({}, None)),
            "unread, but no method keeps anything",
        ),
        (
            Row(types=(Plain,), loop_runs=True, unread=KEPT._replace(blind=frozenset())),
            "what keeps a value looks at the others: look",
        ),
        (
            Row(types=(Plain,), loop_runs=True, unread=KEPT._replace(each=rows.names("loook"))),
            "each has what is not in keeps: loook",
        ),
        (Row(types=(Plain,), make=make_tally, codec=TALLY.codec), "one type that has a cell"),
        (Row(types=(Plain,), make=no_name, codec=TALLY.codec), "takes no keyword 'name'"),
        (Row(types=(Plain,), make=make_tally, codec=TALLY.codec), "has the number 1000"),
        (
            Row(types=(Plain,), codec=TALLY.codec and TALLY.codec._replace(added=7)),
            "added and grow need each other",
        ),
    ],
)
def test_a_row_that_is_not_whole_is_refused(row: Row, problem: str) -> None:
    import fastmgr.server  # noqa: F401 (from then on all of a row is checked at once)

    before = dict(rows.BY_TYPE), dict(rows.VERBS), set(rows.MADE_ON_LOOP)
    with pytest.raises(ValueError, match="the row of ") as raised:
        declare(row)
    assert problem in str(raised.value)
    assert before == (rows.BY_TYPE, rows.VERBS, rows.MADE_ON_LOOP)


# The rows that are built in


@pytest.mark.parametrize("row", standard.ROWS, ids=lambda row: row.label)
def test_a_proxy_is_what_its_row_says(row: Row) -> None:
    for typeid in row.typeids:
        make, exposed, method_to_typeid, proxytype = SyncManager._registry[typeid]
        assert make is row.make and method_to_typeid == row.method_to_typeid
        assert (exposed or ()) == row.exposed
        assert hasattr(SyncManager, typeid) == (row.make is not None)
    if row.proxy is None:
        assert proxytype is managers.AutoProxy
        return
    assert find_by_name(row.proxy) is proxytype
    assert proxytype._exposed_ == row.exposed
    assert proxytype._gains == row.gains
    assert getattr(proxytype, "_method_to_typeid_", None) == row.method_to_typeid
    assert set(row.method_to_typeid or {}) <= set(row.exposed)
    assert {*(row.method_to_typeid or {}).values()} <= rows.BY_TYPEID.keys()
    assert {*row.exposed} - {*METHODS} <= {"__class_getitem__"}  # those that a call names in full


def declare_a_bad_row() -> list[str]:
    rows.declare(Row(types=("fastmgr.kinds.verbs:DictVerbs",), exposed=("incr", "find")))
    said = []
    for _ in range(2):
        try:
            import fastmgr.server  # noqa: F401
        except ValueError as error:
            said.append(str(error))
    return said


def test_what_a_client_declares_is_checked_where_it_is_served() -> None:
    said = call_in_subprocess(declare_a_bad_row)
    assert said == ["the row of DictVerbs: DictVerbs has no method find"] * 2


def test_every_row_with_an_id_is_a_managers() -> None:
    found = [row for row in rows.BY_TYPEID.values() if row is not TALLY]
    assert {id(row) for row in found} == {id(row) for row in standard.ROWS}


def test_what_a_row_has_no_name_for_cannot_be_kept() -> None:
    with pytest.raises(TypeError, match="list"):
        rows.codec_of(list)
    with pytest.raises(ValueError, match="does not grow"):
        rows.codec_of(Tally).grow(Tally(), Tally())
    with pytest.raises(ValueError, match="only a manager's server"):
        make_tally(name="nobody's")


@pytest.mark.parametrize("kind", [Row, Unread, rows.Codec])
def test_no_text_is_compiled_for_the_types_of_fields(kind: type) -> None:
    """It took as long as a sixth of all of fastmgr's import."""
    texts = (str, ForwardRef)
    assert not [name for name, told in kind.__annotations__.items() if isinstance(told, texts)]
