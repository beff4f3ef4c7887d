"""Objects by name, in memory and in a file that outlives its server."""

from __future__ import annotations

import array
import collections
import errno
import json
import math
import os
import random
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings, strategies as st
from support import DEADLINE, KEY, ProbeManager, Script, connected, poll, say, stopped

from fastmgr.kinds import makers
from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter, Counters, grow
from fastmgr.kinds.rows import codec_of
from fastmgr.kinds.values import Value
from fastmgr.managers import retire_sessions
from fastmgr.memory.arena import Arena
from fastmgr.server import named
from fastmgr.server.arenafile import EXTENT, ArenaFile
from fastmgr.server.named import Finder, named_handle
from fastmgr.server.names import Names
from fastmgr.server.records import HEADER, LINE, MAGIC, RECORD

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def manager(shared_manager: Any) -> Any:
    """The module's manager; what has a name stays in it."""
    return shared_manager


@pytest.fixture
def path(tmp_path: Path) -> Iterator[str]:
    mask = os.umask(0o022)  # what others could write to is refused
    yield str(tmp_path / "arena")
    os.umask(mask)


@pytest.fixture(params=["memory", "file"])
def either(request: pytest.FixtureRequest, path: str) -> Iterator[Any]:
    with started(path if request.param == "file" else True) as manager:
        yield manager


def started(arena: Any) -> Any:
    return ProbeManager(authkey=KEY, arena=arena)


def names_in(path: str) -> Names:
    return Names(ArenaFile(path, Arena()))


def closed(names: Names) -> None:
    assert names.file is not None
    names.file.close()


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


def test_counters_of_a_restarted_server_are_found_by_its_names(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    first = ProbeManager(address, KEY)
    first.start()
    other = connected(address)
    old = other.Counters(["a", "b"], name="cs")
    assert old.incr("b") == 1
    first._process.kill()
    first._process.join(DEADLINE)
    with ProbeManager(address, KEY) as again:
        new = again.Counters(["b", "c", "a"], name="cs")
        assert [old.incr("b", 5), old.incr("b"), new["b"]] == [5, 6, 6]
        assert old.as_dict() == {"b": 6, "c": 0, "a": 0}
    first.shutdown()


# In a file


def fill(manager: Any) -> list[Any]:
    """One of each, and what they are."""
    counter, counters = manager.Counter(5, name="c"), manager.Counters(["a", "\u20ac"], name="cs")
    counter.incr(), counters.incr("\u20ac", -3)
    plain = manager.Counters(3, name="plain")
    plain[2] = 2**63 - 1
    none = manager.Counters(0, name="none")
    values = []
    for number, item in enumerate([None, True, 2**47 - 1, -(2**47), -0.0, float("inf"), 1.5]):
        value = manager.Value("d", 0, name=f"v{number}")
        value.set(item)
        values.append(value)
    arrays = []
    for code in "bBhHiIlLqQfd":
        items = manager.Array(code, [1, 2, 3], name=code)
        items[1] = 77
        arrays.append(items)
    return [
        counter.get(), counters.as_dict(), plain.snapshot(), none.snapshot(),
        [repr(value.get()) for value in values], [items[:].tobytes() for items in arrays],
    ]  # fmt: skip


def found_in(manager: Any) -> list[Any]:
    return [
        manager.Counter(name="c").get(), manager.Counters(["a", "\u20ac"], name="cs").as_dict(),
        manager.Counters(3, name="plain").snapshot(), manager.Counters(0, name="none").snapshot(),
        [repr(manager.Value("d", 9, name=f"v{number}").get()) for number in range(7)],
        [manager.Array(code, [0, 0, 0], name=code)[:].tobytes() for code in "bBhHiIlLqQfd"],
    ]  # fmt: skip


@pytest.mark.parametrize("how", ["shutdown", "kill"])
def test_a_file_outlives_its_server(path: str, how: str) -> None:
    manager = started(path)
    manager.start()
    expected = fill(manager)
    if how == "kill":
        manager._process.kill()
        manager._process.join(DEADLINE)
        retire_sessions(manager.address)
    manager.shutdown()
    for _ in range(2):
        with started(path) as manager:
            assert found_in(manager) == expected
            assert os.stat(path).st_mode & 0o777 == 0o600


def test_what_clients_count_is_in_the_file(path: str) -> None:
    """Also what no server ever heard of, when it is killed."""
    for total in (100, 200, 300):
        manager = started(path)
        manager.start()
        counter, items = manager.Counter(name="c"), manager.Array("q", [0], name="a")
        assert [counter.incr() for _ in range(100)][-1] == total
        assert [items.incr(0) for _ in range(100)][-1] == total
        manager._process.kill()
        manager._process.join(DEADLINE)
        retire_sessions(manager.address)
        manager.shutdown()


def test_a_dead_servers_objects_are_no_longer_counted_on(path: str) -> None:
    """A client that goes on would change what the next server has."""
    manager = started(path)
    manager.start()
    counter = manager.Counter(name="c")
    assert counter.incr() == 1
    manager._process.kill()
    manager._process.join(DEADLINE)
    with started(path) as again:
        with pytest.raises((OSError, EOFError)):
            counter.incr()
        assert again.Counter(name="c").get() == 1
    retire_sessions(manager.address)
    manager.shutdown()


def test_a_file_grows(path: str) -> None:
    with started(path) as manager:
        assert os.path.getsize(path) == EXTENT
        small = [manager.Counter(number, name=f"c{number}") for number in range(5)]
        large = manager.Array("d", [1.5] * 300_000, name="large")
        more = [manager.Counters(20_000, name=f"row{number}") for number in range(15)]
        for number, row in enumerate(more):
            row[number] = number
            row[-1] = -number
        large[-1] = 2.5
        assert [counter.incr() for counter in small] == [1, 2, 3, 4, 5]
        size = os.path.getsize(path)
        assert size % EXTENT == 0 and size >= 5 * EXTENT
    with started(path) as manager:
        large = manager.Array("d", [0.0] * 300_000, name="large")
        assert (len(large), large[0], large[-1]) == (300_000, 1.5, 2.5)
        for number in range(15):
            row = manager.Counters(20_000, name=f"row{number}")
            assert (len(row), row[number], row[-1]) == (20_000, number, -number)
        assert [manager.Counter(name=f"c{number}").get() for number in range(5)] == [1, 2, 3, 4, 5]
        assert manager.Counter(6, name="late").get() == 6
        assert os.path.getsize(path) == size


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from([1, 8, 100, 5000, 130_000, 131_072, 262_144, 400_000]), max_size=8))
def test_every_record_is_found_again(path: str, sizes: list[int]) -> None:
    Path(path).unlink(missing_ok=True)
    names = names_in(path)
    for number, size in enumerate(sizes):
        items = names.get(f"n{number}", Array, ("q", [number] * size))
        items[-1] = -1
    closed(names)
    names = names_in(path)
    assert set(names.objects) == {f"n{number}" for number in range(len(sizes))}
    for number, size in enumerate(sizes):
        items = names.objects[f"n{number}"]
        assert len(items) == size and items[-1] == -1
        assert size == 1 or (items[0] == items[-2] == number)
    closed(names)


@pytest.mark.parametrize("item", ["text", {"a": 1}, 2**47, -(2**47) - 1, (), b""])
def test_a_file_holds_no_objects(path: str, item: Any) -> None:
    with started(path) as manager:
        value = manager.Value("i", 1, name="v")
        for call in (
            lambda: value.set(item), lambda: value.exchange(item),
            lambda: value.compare_exchange(1, item), lambda: value.__setattr__("value", item),
        ):  # fmt: skip
            with pytest.raises(TypeError, match="'v' is kept in a file"):
                call()
            assert value.get() == 1
        value.set(2**47 - 1)
        with pytest.raises(TypeError):
            value.incr()
        assert (value.get(), value.incr(-1)) == (2**47 - 1, 2**47 - 2)
        with pytest.raises(TypeError):
            manager.Value("i", item, name="other")
        assert manager.Value("i", 3, name="other").get() == 3
        free = manager.Value("i", item)
        assert repr(free.get()) == repr(item)


def test_a_file_holds_no_text_and_no_odd_names(path: str) -> None:
    with started(path) as manager:
        code = "w" if "w" in array.typecodes else "u"
        for make in (
            lambda: manager.Array(code, "abc", name="n"),
            lambda: manager.Counters([1, 2], name="n"),
            lambda: manager.Counters([("a",)], name="n"),
        ):
            with pytest.raises(TypeError):
                make()
        assert manager.Counter(name="n").incr() == 1


@pytest.mark.parametrize("typecode", [("i", 1), math.nan, {1: 2}, b"i"])
def test_a_typecode_that_a_file_would_change_is_refused(path: str, typecode: Any) -> None:
    names = names_in(path)
    with pytest.raises(TypeError, match="'v': the typecode of a value in a file is text"):
        names.get("v", Value, (typecode, 3))
    assert not names.objects
    closed(names)


def test_one_server_has_a_file(path: str) -> None:
    with started(path) as manager:
        counter = manager.Counter(name="c")
        counter.incr()
        with pytest.raises(BlockingIOError, match="another server"):
            started(path).start()
        for number in range(3):  # nor does anything that goes on lift the lock
            manager.Array("d", [1.0] * 200_000, name=f"a{number}")[0] = 2
            with pytest.raises(BlockingIOError):
                started(path).start()
        assert counter.incr() == 2
    with started(path) as manager:
        assert manager.Counter(name="c").get() == 2


def test_files_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        started(tmp_path).start()
    with pytest.raises(OSError):
        started(tmp_path / "no" / "such" / "folder").start()
    with pytest.raises(ValueError, match="no arena"):
        (tmp_path / "text").write_text("hello")
        started(tmp_path / "text").start()
    assert (tmp_path / "text").read_text() == "hello"


@pytest.mark.parametrize("item", [-float("nan"), struct.unpack("<d", b"\xff" * 8)[0]])
def test_a_file_holds_a_negative_nan(path: str, item: float) -> None:
    with started(path) as manager:
        manager.Value("d", item, name="made")
        value = manager.Value("d", 1.0, name="set")
        value.set(item)
        assert math.isnan(value.get()) and math.copysign(1, value.get()) == -1
    with started(path) as manager:
        for name in ("made", "set"):
            assert math.isnan(manager.Value("d", 0, name=name).get())


# Files that fail


def lock_is_held(path: str) -> bool:
    code = "import fcntl, sys; fcntl.lockf(open(sys.argv[1], 'r+b'), fcntl.LOCK_EX | fcntl.LOCK_NB)"
    found = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert found.returncode == 0 or "BlockingIOError" in found.stderr
    return found.returncode != 0


def fails(*args: Any) -> None:
    raise OSError(errno.ENOSPC, "it fails")


@pytest.mark.parametrize(
    ("step", "instead"),
    [
        ("posix_fallocate", fails),
        ("dup", fails),
        ("posix_fallocate", lambda *args: None),  # so that it cannot be mapped
    ],
)
@pytest.mark.skipif(not hasattr(os, "posix_fallocate"), reason="the file is made longer otherwise")
def test_a_file_that_cannot_grow_goes_on_later(
    path: str, monkeypatch: pytest.MonkeyPatch, step: str, instead: Any
) -> None:
    names = names_in(path)
    names.get("c", Counter, (1,))
    for _ in range(3):
        with monkeypatch.context() as patch:
            patch.setattr(os, step, instead)
            if instead is not fails:
                patch.setattr(os, "ftruncate", instead)
            with pytest.raises(OSError):
                names.get("large", Array, ("q", [1] * 200_000))
        assert "large" not in names.objects and lock_is_held(path)
        names.get(f"c{len(names.objects)}", Counter, (1,))
    names.get("large", Array, ("q", [7] * 200_000))
    assert lock_is_held(path)
    closed(names)
    names = names_in(path)
    assert sorted(names.objects) == ["c", "c1", "c2", "c3", "large"]
    assert set(names.objects["large"].tolist()) == {7}
    closed(names)


def test_a_second_try_in_one_process_leaves_the_file_locked(path: str) -> None:
    names = names_in(path)
    with pytest.raises(BlockingIOError, match="another server"):
        names_in(path)
    assert lock_is_held(path)
    closed(names)


def test_a_file_with_holes_is_filled(path: str) -> None:
    closed(names_in(path))
    os.truncate(path, 8 * EXTENT)
    if os.stat(path).st_blocks * 512 >= 8 * EXTENT or not hasattr(os, "posix_fallocate"):
        pytest.skip("files have no holes here")
    closed(names_in(path))
    assert os.stat(path).st_blocks * 512 >= 8 * EXTENT


def test_a_file_that_is_cut_is_an_error_and_no_signal(path: str) -> None:
    with started(path) as manager:
        counter, value = manager.Counter(name="c"), manager.Value("i", 1, name="v")
        items, row = manager.Array("q", [1, 2], name="a"), manager.Counters(2, name="r")
        free = manager.Counter()
        assert counter.incr() == row.incr(1) == free.incr() == 1
        os.truncate(path, 0)
        for proxy, name, args in (
            (counter, "get", ()), (value, "get", ()), (value, "set", (1,)), (row, "snapshot", ()),
            (items, "__getitem__", (0,)), (items, "__setitem__", (0, 1)), (items, "incr", (0,)),
        ):  # fmt: skip
            with pytest.raises(OSError, match="cut"):
                proxy._callmethod(name, args)
        with pytest.raises(OSError, match="cut"):
            manager.Counter(name="new")
        poll(lambda: os.path.getsize(path) > 0, "the server has seen it")
        for look in (counter.get, value.get, row.snapshot, lambda: items[0]):
            with pytest.raises(OSError, match="cut"):
                look()
        assert free.incr() == 2
        assert manager.Counter(3).incr() == 4
    with pytest.raises(ValueError, match="cut while a server used it"):
        started(path).start()


def test_a_file_that_others_may_change_is_refused(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed(names_in(path))
    for mode in (0o620, 0o602):
        os.chmod(path, mode)
        with pytest.raises(PermissionError, match=f"mode {mode:o}.*chmod go-w"):
            started(path).start()
    os.chmod(path, 0o600)
    os.symlink(path, path + "-link")
    with pytest.raises(OSError, match="symbolic link"):
        started(path + "-link").start()
    with monkeypatch.context() as patch:
        me = os.geteuid()
        patch.setattr(os, "geteuid", lambda: me + 1)
        with pytest.raises(PermissionError, match=f"belongs to user {me}"):
            names_in(path)
    os.mkfifo(path + "-pipe")
    with pytest.raises(PermissionError, match="regular file"):
        names_in(path + "-pipe")
    closed(names_in(path))


# Damaged files


def write(
    path: str,
    *records: tuple[int, bytes, bytes, bytes],
    end: int | None = None,
    magic: bytes = MAGIC,
) -> None:
    """A file with these records."""
    body = bytearray()
    for kind, *parts in records:
        body += RECORD.pack(kind, *map(len, parts)) + bytes(LINE - RECORD.size)
        for part in parts:
            body += part + bytes(-len(part) % LINE)
    head = HEADER.pack(magic, LINE + len(body) if end is None else end)
    data = head + bytes(LINE - len(head)) + body
    Path(path).write_bytes(data + bytes(-len(data) % EXTENT))


def look_at(names: Names) -> None:
    """Use all that a file is said to hold."""
    for obj in list(names.objects.values()):
        if isinstance(obj, Counters):
            keys = obj.keys()
            assert len(obj.snapshot()) == len(keys)
            for key in keys[:3]:
                obj[key] = 5
        elif isinstance(obj, Array):
            assert len(obj.tolist()) == len(obj)
            if len(obj):
                obj[-1] = 1
        elif isinstance(obj, Counter):
            obj.set(5)
        else:
            assert isinstance(obj, Value)
            obj.get()
            obj.set(5)
    names.get("a new one", Counter, ()).incr()


def survives(path: str) -> None:
    """It is refused, or can be used."""
    names = None
    try:
        names = names_in(path)
    except ValueError as error:
        assert path in str(error)
    else:
        look_at(names)
        closed(names)


def test_a_file_that_is_read_as_written(path: str) -> None:
    write(
        path, (1, b"c", b"null", struct.pack("<q", -5)), (0, b"", b"", bytes(100)),
        (2, b"cs", b'["a"]', struct.pack("<q", 7)), (4, b"a", b'"h"', bytes([1, 0, 2, 0])),
    )  # fmt: skip
    names = names_in(path)
    assert names.objects["c"].get() == -5
    assert names.objects["cs"].as_dict() == {"a": 7}
    assert names.objects["a"].tolist() == [1, 2]
    closed(names)


WORD = struct.pack("<q", 1)
NONSENSE = {
    "kind": (9, b"n", b"null", WORD),
    "huge kind": (2**63, b"n", b"null", WORD),
    "size": (1, b"n", b"null", WORD * 2),
    "no size": (1, b"n", b"null", b""),
    "name": (1, b"\xff\xfe", b"null", WORD),
    "not json": (2, b"n", b"{", WORD),
    "json bytes": (2, b"n", b"\xff\xff\xff", WORD),
    "names twice": (2, b"n", b'["a", "a"]', WORD * 2),
    "names that are lists": (2, b"n", b"[[]]", WORD),
    "names in a text": (2, b"n", b'"ab"', WORD * 2),
    "names with values": (2, b"n", b'{"a": 1}', WORD),
    "names that are numbers": (2, b"n", b"[1, 2.5]", WORD * 2),
    "length that is a truth": (2, b"n", b"true", WORD),
    "no length": (2, b"n", b"null", WORD),
    "another length": (2, b"n", b"3", WORD),
    "negative length": (2, b"n", b"-1", WORD),
    "float length": (2, b"n", b"1.0", WORD),
    "long length": (2, b"n", b"99999999999999999999", WORD),
    "larger than memory": (2, b"n", b"1000000000000000", WORD),
    "length that wraps": (2, b"n", b"2305843009213693952", b""),
    "length that wraps to one": (2, b"n", b"2305843009213693953", WORD),
    "deep json": (2, b"n", b"[" * 100_000, WORD),
    "no typecode": (4, b"n", b"null", WORD),
    "unknown typecode": (4, b"n", b'"x"', WORD),
    "text": (4, b"n", b'"u"', WORD),
    "long typecode": (4, b"n", b'"ii"', WORD),
    "number for a typecode": (4, b"n", b"5", WORD),
    "odd size": (4, b"n", b'"i"', WORD[:7]),
    "more of nothing": (5, b"n", b"3", WORD * 3),
}


@pytest.mark.filterwarnings("ignore:The 'u' type code:DeprecationWarning")
@pytest.mark.parametrize("what", NONSENSE)
def test_nonsense_is_refused(path: str, what: str) -> None:
    write(path, NONSENSE[what])
    with pytest.raises(ValueError, match="no arena of fastmgr's, or it is damaged"):
        closed(names_in(path))


@pytest.mark.parametrize(
    ("kind", "about", "more"),
    [
        (2, b'["a"]', b"1"), (2, b"1", b'["a"]'), (2, b'["a"]', b'["a"]'), (1, b"null", b"1"),
        (4, b'"q"', b"1"),
    ],
)  # fmt: skip
def test_a_row_that_cannot_have_grown_is_refused(
    path: str, kind: int, about: bytes, more: bytes
) -> None:
    write(path, (kind, b"n", about, WORD), (5, b"n", more, WORD))
    with pytest.raises(ValueError, match="nonsense"):
        closed(names_in(path))


def test_a_row_that_has_grown_often_is_put_together_once(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time would cost as much as the row is long then."""
    rows = [(5, b"n", b'["k%d"]' % i, struct.pack("<q", i)) for i in range(1, 500)]
    write(path, (2, b"n", b'["k0"]', WORD), *rows)
    calls: list[int] = []

    def noted(*args: Any) -> None:
        calls.append(len(args))
        grow(*args)

    codec = codec_of(Counters)._replace(grow=noted)
    monkeypatch.setattr("fastmgr.server.arenafile.codec_of", lambda kind: codec)
    kept = names_in(path)
    assert calls == [500]
    assert kept.objects["n"].as_dict() == {"k0": 1} | {f"k{i}": i for i in range(1, 500)}
    closed(kept)


@pytest.mark.parametrize("end", [0, 1, 63, 65, 128, EXTENT + 64, 2**63, 2**64 - 64])
def test_an_end_that_is_none(path: str, end: int) -> None:
    write(path, (1, b"n", b"null", WORD), end=end)
    with pytest.raises(ValueError, match="damaged"):
        closed(names_in(path))


@pytest.mark.parametrize(("at", "data"), [(8, b"\xc0"), (16, b"x"), (3 * EXTENT, b"last")])
def test_a_file_that_begins_with_zeros_is_not_overwritten(path: str, at: int, data: bytes) -> None:
    before = bytes(at) + data
    Path(path).write_bytes(before)
    with pytest.raises(ValueError, match="its first bytes are others"):
        closed(names_in(path))
    assert Path(path).read_bytes() == before


@pytest.mark.parametrize("size", [1, 63, 64, 128])
def test_a_file_cut_off(path: str, size: int) -> None:
    write(path, (1, b"n", b"null", WORD))
    data = Path(path).read_bytes()
    Path(path).write_bytes((data + data)[:size])
    with pytest.raises(ValueError, match="damaged"):
        closed(names_in(path))


@pytest.mark.parametrize("size", [0, 1, 64, EXTENT, EXTENT + 1, 3 * EXTENT])
def test_a_server_killed_before_the_first_record_leaves_a_new_file(path: str, size: int) -> None:
    for end in (0, LINE):
        head = bytes(8) + struct.pack("<Q", end)
        Path(path).write_bytes(head[:size] + bytes(max(0, size - len(head))))
        names = names_in(path)
        look_at(names)
        closed(names)


def test_a_damaged_file_does_not_keep_the_manager(path: str) -> None:
    write(path, NONSENSE["kind"])
    manager = started(path)
    with pytest.raises(ValueError, match="damaged"):
        manager.start()
    assert manager._process.exitcode is not None


def test_words_that_mean_nothing_are_read_as_none(path: str) -> None:
    """Clients may have written anything into a value."""
    for word in (0xFFFC << 48, 0xFFFF << 48, 2**64 - 1, (0xFFFB << 48) + 3):
        write(path, (3, b"v", b'"i"', struct.pack("<Q", word)))
        names = names_in(path)
        assert names.objects["v"].get() is None
        assert names.objects["v"].exchange(3) is None
        assert names.objects["v"].get() == 3
        closed(names)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with one of each kind, up to the end of its records."""
    path = str(tmp_path_factory.mktemp("arena") / "sound")
    names = names_in(path)
    names.get("counter", Counter, (5,))
    names.get("by name", Counters, (["a", "b"],))
    names.get("by index", Counters, (12,))
    names.get("value", Value, ("d", 2.5))
    names.get("array", Array, ("i", range(30)))
    assert names.file is not None
    end = names.file.end
    closed(names)
    return Path(path).read_bytes()[:end]


nasty = st.sampled_from([0, 1, 2**63, 2**64 - 1, 2**64 - 64, 2**32, LINE, EXTENT, 2**61])


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.lists(
        st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=9))
        | st.tuples(st.integers(0, 2**13).map(lambda n: n * 8), nasty),
        min_size=1,
        max_size=5,
    )
)
@example([(64, 2**64 - 1)])
@example([(8, 2**64 - 64)])
def test_any_change_of_a_file_is_survived(path: str, sound: bytes, changes: list[Any]) -> None:
    data = bytearray(sound)
    for at, change in changes:
        new = change if isinstance(change, bytes) else struct.pack("<Q", change)
        at %= len(data) - len(new)
        data[at : at + len(new)] = new
    Path(path).write_bytes(bytes(data) + bytes(-len(data) % EXTENT))
    survives(path)


def test_any_digit_of_a_file_is_survived(path: str, sound: bytes) -> None:
    """Where the text says how much there is, other digits make it more."""
    rng = random.Random(5)
    places = [i for i, byte in enumerate(sound) if chr(byte) in '0123456789"[]{},null']
    for _ in range(300):
        data = bytearray(sound)
        for at in rng.sample(places, 2):
            data[at] = ord(rng.choice('0123456789-.e"[]{} '))
        Path(path).write_bytes(bytes(data) + bytes(-len(data) % EXTENT))
        survives(path)


def test_records_are_plain(sound: bytes) -> None:
    """Format 2 stays what it is: files are older than the code that reads them."""
    assert sound.startswith(b"fmarena2")
    assert (LINE, EXTENT, HEADER.format, RECORD.format) == (64, 1 << 20, "<8sQ", "<QQQQ")
    assert RECORD.unpack_from(sound, 64) == (1, 7, 4, 8)
    assert sound[128:135] == b"counter"
    assert json.loads(sound[192:196]) is None
    assert struct.unpack_from("<q", sound, 256) == (5,)


def test_neither_unknown_handles_nor_new_names_cost_a_look_at_all_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = []

    def compute(typeid: str, name: str) -> int:
        computed.append(name)
        return named_handle(typeid, name)

    monkeypatch.setattr(named, "named_handle", compute)
    names, finder, registry = Names(), Finder(), {"Counter": (makers.Counter,)}
    for number in range(100):
        handle = named_handle("Counter", name := f"name {number}")
        assert finder.find(handle, names, registry) is None
        counter = names.get(name, Counter, ())
        assert finder.find(handle, names, registry) == ("Counter", counter)
    assert len(computed) == 100
    for number in range(100):
        assert names.forget(f"name {number}")
        assert finder.find(named_handle("Counter", f"name {number}"), names, registry) is None
    names.get("name 5", Counters, (1,))
    again = names.get("again", Counter, ())
    assert finder.find(named_handle("Counter", "again"), names, registry) == ("Counter", again)
    assert finder.find(named_handle("Counter", "name 5"), names, registry) is None
    assert len(finder._found) == 1
