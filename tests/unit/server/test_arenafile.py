"""A file of named objects: what it keeps, who may have it, and files that fail."""

from __future__ import annotations

import array
import errno
import math
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from support import DEADLINE, KEY, poll
from support.names import closed, names_in, started
from support.servers import SeenServer, hooked

from fastmgr import managers
from fastmgr.client.sessions import retire_sessions
from fastmgr.kinds.arrays import Array
from fastmgr.kinds.counters import Counter
from fastmgr.kinds.values import Value
from fastmgr.server.arenafile import EXTENT
from fastmgr.server.names import named_handle

pytestmark = pytest.mark.timeout(90)


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


def test_another_server_of_the_process_that_ends_leaves_the_file_locked(path: str) -> None:
    """A client in this process maps the file; it may close no descriptor of it."""
    with hooked(SeenServer, path) as manager:
        server = SeenServer.last
        server.names.get("c", Counter, (5,))
        with hooked(SeenServer):
            pass
        token = managers.Token("Counter", manager.address, f"{named_handle('Counter', 'c'):x}")
        counter = managers.CounterProxy(token, "pickle", authkey=KEY)
        assert [counter.incr() for _ in range(3)] == [6, 7, 8]
        assert lock_is_held(path)


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
