"""Sessions by the scheme of an address: an engine in plain Python is all that proxies need."""

from __future__ import annotations

import gc
import pickle
import queue
import re
import sys
import threading
from collections.abc import Iterator
from multiprocessing import ProcessError
from pathlib import Path
from typing import Any

import pytest

from fastmgr import OnewayError, RemoteError, SyncManager, oneway
from fastmgr.client import sessions
from fastmgr.client.session import Session
from fastmgr.managers import BaseManager

PAGE = Path(__file__).parents[3] / "docs" / "engines.md"
ADDRESS = "memory://test"


@pytest.fixture(scope="module")
def example() -> dict[str, Any]:
    """The page's engine, which keeps objects in this process."""
    found: dict[str, Any] = {"__name__": "engines_page"}
    program = re.search(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert program is not None
    exec(program[1], found)
    return found


@pytest.fixture
def manager(example: dict[str, Any]) -> Iterator[Any]:
    sessions.engines["memory"] = example["MemoryEngine"]()
    with SyncManager(address=ADDRESS) as manager:
        yield manager
    del sessions.engines["memory"]


def test_containers(manager: Any) -> None:
    d = manager.dict(a=1)
    d["b"] = [1, 2]
    assert d.copy() == {"a": 1, "b": [1, 2]}
    assert d.pop("b") == [1, 2]
    assert [*d] == ["a"]
    items = manager.list([3, 1, 2])
    items.sort()
    assert (items[:], len(items), items.pop()) == ([1, 2, 3], 3, 3)
    assert str(items) == "[1, 2]"
    with pytest.raises(KeyError, match="none"):
        d["none"]


def test_numbers(manager: Any) -> None:
    counter = manager.Counter(5)
    counter += 2
    assert (counter.decr(), counter.value, int(counter)) == (6, 6, 6)
    value = manager.Value("i", 1)
    value.value = 3
    assert value.incr() == 4


def test_locks_and_queues_between_threads(manager: Any) -> None:
    lock, items = manager.Lock(), manager.Queue()

    def work() -> None:
        for _ in range(20):
            with lock:
                items.put(items.get() + 1)

    items.put(0)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert items.get() == 60
    assert lock.acquire(False)
    assert not lock.acquire(False)
    lock.release()
    with pytest.raises(queue.Empty):
        items.get_nowait()


def test_nested_proxies_and_references(manager: Any) -> None:
    outer, inner = manager.dict(), manager.list([1])
    outer["inner"] = inner
    del inner
    outer["inner"].append(2)
    assert outer["inner"][:] == [1, 2]
    assert manager._number_of_objects() == 2
    iterator = iter(outer)
    assert next(iterator) == "inner"
    assert manager._number_of_objects() == 3
    del iterator
    outer.clear()
    gc.collect()
    assert manager._number_of_objects() == 1
    outer._close()
    assert manager._number_of_objects() == 0
    with pytest.raises(RemoteError, match=outer._id):
        outer._take_reference()


def test_pickled_proxy(manager: Any) -> None:
    d = manager.dict(a=1)
    copy = pickle.loads(pickle.dumps(d))
    assert copy is not d
    copy["b"] = 2
    assert d["b"] == 2
    del d
    assert copy["a"] == 1


def test_pipeline(manager: Any) -> None:
    d = manager.dict(a=1)
    with manager.pipeline(errors="return") as pipe:
        recorded = pipe(d)
        recorded.get("a")
        recorded.pop("none")
        recorded.keys()
        first, error, keys = pipe.execute()
    assert (first, error.args, keys) == (1, ("none",), ["a"])


def test_oneway(manager: Any) -> None:
    d = manager.dict(a=1)
    oneway(d)["b"] = 2
    assert d["b"] == 2
    for _ in range(2):
        oneway(d).pop("none")
    with pytest.raises(OnewayError, match=r"pop.*KeyError: 'none'.*1 more.*not made") as raised:
        d.pop("a")  # which would lose what it took
    assert (raised.value.failed, raised.value.made) == (2, False)
    assert d.pop("a") == 1
    oneway(d).pop("none")
    with pytest.raises(OnewayError) as raised:
        len(d)
    assert (raised.value.failed, raised.value.result) == (1, 1)
    assert len(d) == 1


def test_life_of_a_manager(manager: Any) -> None:
    assert repr(manager) == f"<SyncManager at {ADDRESS!r}, connected>"
    with pytest.raises(ProcessError, match="Already started"):
        manager.start()
    with pytest.raises(OSError, match="in use"):
        SyncManager(ADDRESS).start()
    other = SyncManager.from_address(ADDRESS)
    shared = other.list([1])
    assert shared._session_of() is manager._session
    assert type(manager._session).__mro__[1] is Session
    manager.shutdown()
    assert manager._session_.retired
    with pytest.raises(AssertionError, match="shut down"):
        manager.dict()
    with pytest.raises(ConnectionRefusedError, match="nothing serves"):
        SyncManager.from_address(ADDRESS)


def test_what_no_engine_does(manager: Any) -> None:
    other = SyncManager("memory://other")
    with pytest.raises(ValueError, match="engine's"):
        other.get_server()
    with pytest.raises(ValueError, match="no initializer"):
        other.start(print)
    with other:
        assert other.list([1])[:] == [1]


def test_start_that_cannot_connect(
    example: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Odd(sessions.Engine):
        stopped = 0

        def start(self, *args: Any) -> Any:
            return "odd://here", self.stop

        def stop(self) -> None:
            self.stopped += 1

        def open_session(self, *args: Any) -> Session:
            raise TimeoutError("odd")

    engine = Odd()
    monkeypatch.setitem(sessions.engines, "odd", engine)
    with pytest.raises(TimeoutError, match="odd"):
        BaseManager("odd://anywhere").start()
    assert engine.stopped == 1


# -- entry points --------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package that brings engines."""
    (tmp_path / "some_engines.py").write_text(
        "from fastmgr.client.sessions import Engine\nGOOD, NONE = Engine(), object()\n"
    )
    info = tmp_path / "some_engines-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: some-engines\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "[fastmgr.engines]\ngood = some_engines:GOOD\nnone = some_engines:NONE\n"
        "broken = some_engines.missing:ENGINE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sessions, "engines", {})
    yield
    sys.modules.pop("some_engines", None)


@pytest.mark.usefixtures("installed")
def test_engine_of_another_package() -> None:
    assert "some_engines" not in sys.modules
    engine = sessions.engine_of("Good://host/?a=1")
    assert engine is sys.modules["some_engines"].GOOD
    assert sessions.engine_of("good://other") is engine


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("name", ["start", "connect", "get_server"])
def test_unknown_scheme(name: str) -> None:
    manager = SyncManager("nowhere://host")
    with pytest.raises(ValueError, match=r"no engine .* nowhere:// .*broken://, good://, none://"):
        getattr(manager, name)()


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize(
    ("scheme", "match"), [("broken", "cannot be loaded"), ("none", "is no Engine")]
)
def test_broken_entry_point(scheme: str, match: str) -> None:
    for _ in range(2):
        with pytest.raises(ImportError, match=match):
            SyncManager.from_address(f"{scheme}://host")


@pytest.mark.parametrize(
    "address", [None, "/tmp/a://b", "./a://b", "a:b", "", ("a://b", 1), b"a://"]
)
def test_addresses_of_sockets(address: Any) -> None:
    assert sessions.engine_of(address) is None


def test_path_of_a_socket_that_looks_like_an_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "valkey:").mkdir()
    monkeypatch.chdir(tmp_path)
    with SyncManager("./valkey://host") as manager:
        assert manager.list([1])[:] == [1]


def test_errors_of_a_half_written_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are read by the engine's author."""

    class Half(sessions.Engine):
        opened: Any = None

        def open_session(self, *args: Any) -> Any:
            return self.opened and self.opened(*args)

    engine = Half()
    monkeypatch.setitem(sessions.engines, "half", engine)
    manager = SyncManager(address="half://test")
    with pytest.raises(TypeError, match=r"Half\.open_session returned None, which is no Session"):
        manager.connect()
    engine.opened = Session
    manager.connect()
    with pytest.raises(NotImplementedError, match=r"Session does not define create\(\)"):
        manager.dict()
