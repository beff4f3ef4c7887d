"""Objects by name, in memory and in a file that outlives its server."""

from __future__ import annotations

import array
import collections
import struct
from pathlib import Path
from typing import Any

import pytest
from support import Script, connected, say, stopped
from support.names import started, write

from fastmgr.kinds import makers

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def manager(shared_manager: Any) -> Any:
    """The module's manager; what has a name stays in it."""
    return shared_manager


# By name


def test_the_same_name_is_the_same_object(either: Any) -> None:
    other = connected(either.address)
    counter = either.Counter(3, name="c")
    assert [counter.incr(), other.Counter(100, name="c").incr(), counter.get()] == [4, 5, 5]
    counters = either.Counters(["a", "b"], name="cs")
    counters.incr("b")
    assert other.Counters(["b", "a"], name="cs").as_dict() == {"a": 0, "b": 1}
    either.Value("i", 2.5, name="v").set(True)
    assert other.Value("i", 0, name="v").get() is True
    either.Array("h", [1, 2], name="a")[1] = 7
    assert other.Array("h", [0, 0], name="a")[:] == array.array("h", [1, 7])
    # Without a name each is its own.
    assert either.Counter(3).get() == 3


def test_what_has_a_name_stays(either: Any) -> None:
    for _ in range(5):
        counter = either.Counter(name="kept")
        last = counter.incr()
        del counter
    assert last == 5


def test_a_name_has_one_kind(either: Any) -> None:
    either.Counter(name="n").incr()
    for make in (
        lambda: either.Counters(2, name="n"), lambda: either.Value("i", 1, name="n"),
        lambda: either.Array("i", [1], name="n"),
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"in use: Counter is kept .*manager.forget\('n'\)"):
            make()
    assert either.Counter(name="n").get() == 1


@pytest.mark.parametrize("name", [1, b"n", ("n",), 1.5, True])
def test_a_name_is_a_string(either: Any, name: Any) -> None:
    with pytest.raises(TypeError, match="a name is a string"):
        either.Counter(name=name)


@pytest.mark.parametrize("name", ["", " ", "\0", "a/b", "N" * 100_000, "\u20ac\U0001f600"])
def test_names_of_all_sorts(either: Any, name: str) -> None:
    assert either.Counter(name=name).incr() == 1
    assert either.Counter(name=name).incr() == 2


def test_an_object_that_cannot_be_made_leaves_its_name_free(either: Any) -> None:
    for make in (
        lambda: either.Counter("a", name="n"), lambda: either.Counters(["a", "a"], name="n"),
        lambda: either.Array("?", [], name="n"), lambda: either.Counter(2**63, name="n"),
    ):  # fmt: skip
        with pytest.raises((TypeError, ValueError, OverflowError)):
            make()
    assert either.Counter(4, name="n").get() == 4


def test_an_empty_path_is_not_the_current_folder() -> None:
    with pytest.raises(ValueError, match="arena=''"):
        started("")


def test_only_a_server_keeps_names() -> None:
    with pytest.raises(ValueError, match="only a manager's server"):
        makers.Counter(name="n")


# A definition that has changed


def test_counters_begin_with_the_values_of_a_mapping(either: Any) -> None:
    assert either.Counters({"a": 3, "b": -1}).as_dict() == {"a": 3, "b": -1}
    assert either.Counters(collections.Counter("abca")).as_dict() == {"a": 2, "b": 1, "c": 1}
    either.Counters({"a": 3}, name="cs").incr("a")
    more = either.Counters({"a": 0, "b": 7}, name="cs")  # what is kept stays as it is
    assert more.as_dict() == {"a": 4, "b": 7}
    with pytest.raises(TypeError):
        either.Counters({"a": "x"})


def test_counters_are_added_to_those_of_a_name(either: Any) -> None:
    old = either.Counters(["ok", "err"], name="http")
    old.incr("ok", 5)
    new = connected(either.address).Counters(["timeout", "ok", "err", "late"], name="http")
    assert new.as_dict() == old.as_dict() == {"ok": 5, "err": 0, "timeout": 0, "late": 0}
    assert [new.incr("timeout"), old.incr("timeout"), old.incr("ok"), new["ok"]] == [1, 2, 6, 6]
    assert list(reversed(old)) == ["late", "timeout", "err", "ok"] and len(old) == 4
    row = either.Counters(3, name="row")
    row[2] = 7
    longer = connected(either.address).Counters(5, name="row")
    assert longer.incr(-1, 4) == row[-1] == row[4] == 4
    assert row.snapshot() == longer.snapshot() == [0, 0, 7, 0, 4]
    assert either.Counters(8, name="row").incr(7) == longer.incr(7) - 1 == 1
    with pytest.raises(IndexError):
        longer.incr(8)
    with pytest.raises(KeyError):
        old["none"]


def test_counters_that_were_added_need_no_server(either: Any) -> None:
    old = either.Counters(["a"], name="cs")
    assert old.incr("a") == 1
    either.Counters(["a", "b"], name="cs")
    assert len(old) == 2
    with stopped(either._process.pid):
        assert [old.incr("b"), old.incr("a"), old.snapshot()] == [1, 2, [2, 1]]


def test_counters_that_were_added_are_kept(path: str) -> None:
    with started(path) as manager:
        manager.Counters(["a"], name="cs").incr("a")
        manager.Counters(["b", "a"], name="cs").incr("b", 2)
        manager.Counters(2, name="row")[1] = 1
        manager.Counters(200_000, name="row")[199_999] = 2
        manager.Counters(["a", "b", "c"], name="cs").incr("c", 3)
    for _ in range(2):
        with started(path) as manager:
            found = manager.Counters(["c", "b", "a"], name="cs")
            assert found.as_dict() == {"a": 1, "b": 2, "c": 3}
            row = manager.Counters(200_000, name="row")
            assert (row[1], row[199_999], sum(row.snapshot())) == (1, 2, 3)


def count_for_long(address: Any, name: str, rounds: int) -> int:
    counters = connected(address).Counters(["a"], name=name)
    say("ready")
    for _ in range(rounds):
        counters.incr("a")
    return len(counters)


def test_nothing_is_lost_while_counters_are_added(either: Any) -> None:
    counters = either.Counters(["a"], name="busy")
    with Script(count_for_long, either.address, "busy", 30_000) as script:
        assert script.line() == "ready"
        names = ["a"]
        for number in range(50):
            names.append(f"n{number}")
            either.Counters(names, name="busy").incr(names[-1], number)
        assert script.line() in range(1, 52)
    assert counters["a"] == 30_000
    assert counters.snapshot()[1:] == list(range(50))


@pytest.mark.parametrize(
    ("kept", "wanted", "error", "said"),
    [
        (("Counters", ["a", "b"]), ("Counters", ["a", "c"]), ValueError, r"\['a', 'b'\]"),
        (("Counters", ["a", "b"]), ("Counters", 2), ValueError, r"\['a', 'b'\]"),
        (("Counters", 3), ("Counters", ["a"]), ValueError, r"Counters\(3\)"),
        (("Array", "i", [1, 2]), ("Array", "d", [1, 2]), TypeError, r"Array\('i', ...\) of 2"),
        (("Array", "i", [1, 2]), ("Array", "i", [1]), ValueError, r"Array\('i', ...\) of 2"),
        (("Array", "i", [1, 2]), ("Array", "i", [1, 2, 3]), ValueError, r"of 2 items"),
        (("Value", "i", 1), ("Value", "d", 1), TypeError, r"Value\('i'"),
        (("Value", "i", 1), ("Counter",), TypeError, r"Value\('i'"),
    ],
)
def test_another_definition_is_refused(
    either: Any, kept: Any, wanted: Any, error: Any, said: str
) -> None:
    kind, *args = kept
    first = getattr(either, kind)(*args, name="n")
    with pytest.raises(error, match=said + r".*manager.forget\('n'\)"):
        getattr(either, wanted[0])(*wanted[1:], name="n")
    assert str(getattr(either, kind)(*args, name="n")) == str(first)
    assert either.names() == ["n"]
    assert either.forget("n") and not either.forget("n") and either.names() == []
    assert str(getattr(either, wanted[0])(*wanted[1:], name="n"))
    assert str(first)  # who holds it keeps it


def test_an_older_program_finds_its_counters(either: Any) -> None:
    """A newer one has added some meanwhile; it was told to drop them all."""
    either.Counters(["ok", "err", "late"], name="cs").incr("err", 2)
    old = connected(either.address).Counters(["err", "ok"], name="cs")
    assert (old["err"], old.incr("ok"), old.keys()) == (2, 1, ["ok", "err", "late"])
    either.Counters(3, name="row")[1] = 5
    assert either.Counters(2, name="row").snapshot() == [0, 5, 0]


def test_who_asks_for_none_gets_what_is_kept(either: Any) -> None:
    either.Counters(["a", "b"], name="cs").incr("b")
    either.Array("i", [1, 2], name="a")
    assert either.Counters(0, name="cs").as_dict() == {"a": 0, "b": 1}
    assert either.Counters([], name="cs").keys() == ["a", "b"]
    assert either.Array("i", (), name="a")[:].tolist() == [1, 2]
    with pytest.raises(TypeError, match=r"Array\('i'"):
        either.Array("d", (), name="a")


def test_what_was_forgotten_stays_forgotten(path: str) -> None:
    with started(path) as manager:
        counters = manager.Counters(["a"], name="cs")
        manager.Counters(["a", "b"], name="cs").incr("b")
        manager.Counter(5, name="other")
        assert manager.forget("cs")
        manager.Counters(["x"], name="cs").incr("x", 3)
        assert counters.incr("b") == 2
    with started(path) as manager:
        assert manager.names() == ["cs", "other"]
        assert manager.Counters(["x"], name="cs").as_dict() == {"x": 3}
        assert manager.Counter(name="other").get() == 5


def test_a_file_of_the_format_before_is_read(path: str) -> None:
    write(
        path, (1, b"c", b"null", struct.pack("<q", 5)),
        (2, b"cs", b'["a"]', struct.pack("<q", 7)), magic=b"fmarena1",
    )  # fmt: skip
    for names in (["a", "b"], ["a", "b", "c"]):
        with started(path) as manager:
            counters = manager.Counters(names, name="cs")
            assert counters["a"] == 7 and counters.incr(names[-1]) == 1
            assert manager.Counter(name="c").get() == 5
    assert Path(path).read_bytes().startswith(b"fmarena2")
    write(path, magic=b"fmarena7")
    with pytest.raises(ValueError, match="format '7', which another version"):
        started(path).start()
