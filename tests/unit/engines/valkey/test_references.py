"""Who holds what in a Valkey server: processes, and values in containers."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, poll, valkeys

from fastmgr import AutoProxy, DictProxy, NotHosted, RemoteError, SyncManager
from fastmgr.engines.valkey import references
from fastmgr.engines.valkey.errors import ConnectionLost

#: Of a process that has a thread, as that which shows a server that the process lives.
pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


@pytest.fixture(scope="module", params=valkeys.KINDS)
def shared_manager(request: pytest.FixtureRequest) -> Iterator[SyncManager]:
    with valkeys.manager(request.param, ns="refs") as manager:
        yield manager


@pytest.fixture
def manager(shared_manager: SyncManager) -> Iterator[SyncManager]:
    """The module's manager; each test leaves nothing behind, no key and no name."""
    yield shared_manager
    gc.collect()
    assert shared_manager._number_of_objects() == 0
    assert keys(shared_manager) - {b"{refs}:sessions", b"{refs}:swept", b"{refs}:version"} == set()


def keys(manager: Any) -> set[bytes]:
    return set(manager._session.run([b"KEYS", b"*"]))


def count(manager: SyncManager) -> int:
    gc.collect()
    return manager._number_of_objects()


def test_an_object_goes_with_its_last_proxy(manager: SyncManager) -> None:
    first = manager.dict(a=1)
    second = manager._session.references.take(first._id)
    assert second is manager._session.references.take(first._id)
    assert count(manager) == 1
    del first
    assert count(manager) == 1
    del second
    assert count(manager) == 0


Holder = Callable[[Any, Any], Callable[[], Any]]


def in_dict(manager: Any, item: Any) -> Callable[[], Any]:
    made = manager.dict(key=item)
    return lambda: made.pop("key")


def in_list(manager: Any, item: Any) -> Callable[[], Any]:
    made = manager.list()
    made.append(item)
    return lambda: made.pop()


def in_value(manager: Any, item: Any) -> Callable[[], Any]:
    made = manager.Value("i", 0)
    made.value = item
    return lambda: made.exchange(None)


def in_namespace(manager: Any, item: Any) -> Callable[[], Any]:
    made = manager.Namespace(x=0)
    made.x = item
    return lambda: (made.x, delattr(made, "x"))[0]


def in_queue(manager: Any, item: Any) -> Callable[[], Any]:
    made = manager.Queue()
    made.put(item)
    return lambda: made.get()


HOLDERS: list[Holder] = [in_dict, in_list, in_value, in_namespace, in_queue]


@pytest.mark.parametrize("hold", HOLDERS)
@pytest.mark.parametrize("wrap", [lambda item: item, lambda item: (1, [{"deep": (item, item)}])])
def test_a_container_holds_what_is_in_it(manager: SyncManager, hold: Holder, wrap: Any) -> None:
    item = manager.list([7])
    take = hold(manager, wrap(item))
    del item
    assert count(manager) == 2
    found = take()
    if isinstance(found, tuple):
        found = found[1][0]["deep"][1]
    assert found[:] == [7]
    assert count(manager) == 2
    del found
    assert count(manager) == 1


@pytest.mark.parametrize("hold", HOLDERS)
def test_a_container_that_goes_lets_go(manager: SyncManager, hold: Holder) -> None:
    inner = manager.dict()
    inner["self"] = manager.list([manager.dict()])
    take = hold(manager, [inner])
    del inner
    assert count(manager) == 4
    del take
    assert count(manager) == 0


def test_what_is_replaced_is_let_go(manager: SyncManager) -> None:
    def new() -> Any:
        return manager.dict()

    made, other = manager.dict(a=new(), b=new(), c=new()), manager.list([new() for _ in range(8)])
    assert count(manager) == 13
    made["a"] = 1
    made.update(b=2)
    assert made.compare_exchange("c", 5, 6) is False
    del made["c"]
    assert count(manager) == 10
    other[0] = new()
    other[1:3] = [new()]
    other[::3] = [1, 2, 3]
    del other[-1]
    assert count(manager) == 2 + sum(item not in (1, 2, 3) for item in other[:])
    other *= 3
    other.clear()
    made.setdefault("x", new())
    assert made.setdefault("x", new()) is not None
    made |= {"x": 0}
    assert count(manager) == 2


def test_what_is_not_stored_is_not_held(manager: SyncManager) -> None:
    made, item = manager.dict(a=1), manager.list()
    with pytest.raises(KeyError):
        made.exchange("none", item)
    with pytest.raises(IndexError):
        manager.list()[3] = item
    assert made.compare_exchange("a", 2, item) is False
    assert made.setdefault("a", item) == 1
    del item
    assert count(manager) == 1


def test_a_cycle_stays_as_in_the_stdlib(manager: SyncManager) -> None:
    made = manager.list()
    made.append(made)
    assert made[0][0][0]._id == made._id
    made.clear()
    assert count(manager) == 1


def test_an_object_that_is_gone(manager: SyncManager) -> None:
    made = manager.dict(a=1)
    made._close()
    assert count(manager) == 0
    for call in (
        lambda: made["a"], lambda: made.get("a"), lambda: len(made), lambda: made.update(b=1),
        lambda: list(made), lambda: "a" in made, lambda: made.incr("a"), lambda: made.clear(),
    ):  # fmt: skip
        with pytest.raises(RemoteError, match="is gone"):
            call()


def test_what_cannot_be_hosted(manager: SyncManager) -> None:
    with pytest.raises(NotHosted, match="cannot host a Pool: "):
        manager.Pool(1)


def test_names(manager: Any) -> None:
    first = manager.Counter(5, name="a name/{with}:ü*")
    assert manager.Counter(name="a name/{with}:ü*").incr() == 6
    del first
    assert count(manager) == 1 and manager.names() == ["a name/{with}:ü*"]
    with pytest.raises(
        TypeError, match=r"is in use: Counter is kept there, and Value\('i', \.\.\.\)"
    ):
        manager.Value("i", 0, name="a name/{with}:ü*")
    again = manager.Counter(name="a name/{with}:ü*")
    assert manager.forget("a name/{with}:ü*") is True and manager.forget("none") is False
    assert again.get() == 6  # who holds it keeps it
    other = manager.Value("i", 0, name="a name/{with}:ü*")
    assert manager.forget("a name/{with}:ü*") is True
    del again, other


def test_rows_of_counters_grow(manager: Any) -> None:
    row = manager.Counters({"a": 3}, name="row")
    assert manager.Counters({"a": 9, "b": 4}, name="row").as_dict() == {"a": 3, "b": 4}
    assert row.keys() == ["a", "b"]
    with pytest.raises(ValueError, match="is in use"):
        manager.Counters(["b", "c"], name="row")
    more = manager.Counters(2, name="more")
    more[1] = 5
    assert manager.Counters(4, name="more").snapshot() == [0, 5, 0, 0]
    assert [manager.forget(name) for name in manager.names()] == [True, True]
    del row, more


def hold_and_wait(address: str, queue: Any, ready: Any) -> None:
    there = SyncManager(address=address)
    there.connect()
    kept = there.dict(a=there.list([1]))
    queue.put(kept)
    queue.put([there.dict()])
    there.Counter(name="unfinished")
    ready.set()
    signal.pause()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_what_a_killed_process_held_is_let_go(manager: Any, method: str) -> None:
    queue, ready = manager.Queue(), manager.Event()
    context = multiprocessing.get_context(method)
    process = context.Process(target=hold_and_wait, args=(manager.address, queue, ready))
    process.start()
    assert ready.wait(DEADLINE)
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join(DEADLINE)
    poll(lambda: count(manager) == 6, "the references of the dead process are gone")
    assert queue.get()["a"][:] == [1]
    assert manager.forget("unfinished") is True
    assert queue.get()[0].copy() == {}
    assert count(manager) == 2


def put_back(shared: Any, queue: Any) -> None:
    shared["seen"] = True
    queue.put(shared)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children_hold_what_they_are_given(manager: Any, method: str) -> None:
    queue, shared = manager.Queue(), manager.dict()
    process = multiprocessing.get_context(method).Process(target=put_back, args=(shared, queue))
    process.start()
    process.join(DEADLINE)
    del shared, process
    gc.collect()
    assert queue.get().copy() == {"seen": True}
    assert count(manager) == 1


def test_references_of_a_container_that_never_was(manager: Any) -> None:
    """A client that was killed has taken references for a container that it has not made."""
    item = manager.list()
    session = manager._session
    session.function(b"take", session.key_of(item._id), b"c:dict-0000000000000000", 1)
    del item
    assert count(manager) == 0


def test_object_that_holds_itself_goes_with_its_last_proxy(manager: Any) -> None:
    own = manager.list()
    own.append(own)
    assert count(manager) == 1
    del own
    assert count(manager) == 0


def test_cycle_goes_and_what_it_held_with_it(manager: Any) -> None:
    first, second, leaf = manager.dict(), manager.list(), manager.Lock()
    first["second"] = second
    second.extend([first, leaf, manager.Namespace(leaf=leaf)])
    del first, leaf
    assert count(manager) == 4
    assert second[0]["second"][1].acquire() is True  # any of them keeps all
    del second
    assert count(manager) == 0


def test_cycle_stays_while_another_object_holds_it(manager: Any) -> None:
    outer, first, second = manager.dict(), manager.dict(), manager.dict()
    outer["first"] = first
    first["second"] = second
    second["first"] = first
    del first, second
    assert count(manager) == 3
    del outer["first"]
    assert count(manager) == 1


def test_shutdown_ends_a_session_that_holds_nothing(manager: Any) -> None:
    before = set(threading.enumerate())
    with SyncManager(address=f"{manager.address}2") as other:  # another namespace
        own = other.list()
        own.append(own)
        del own
        assert manager._session.run([b"KEYS", b"{refs2:*"])
    assert not set(threading.enumerate()) - before
    assert manager._session.run([b"KEYS", b"{refs2:*"]) == []
    manager._session.run([b"DEL", b"{refs2}:sessions", b"{refs2}:swept", b"{refs2}:version"])


def test_shutdown_of_one_manager_leaves_to_another_what_it_has(manager: Any) -> None:
    mine = manager.dict(a=1)
    with SyncManager(address=manager.address) as other:
        assert other.list([mine])[0].copy() == {"a": 1}
    assert mine.copy() == {"a": 1}


def test_what_a_manager_tells(manager: Any) -> None:
    shared, row = manager.dict(a=1), manager.Counters(["x"])
    row.incr("x")
    copies = [shared, manager.list([shared])]
    lines = manager._debug_info().split("\n")
    assert f"  {shared._id}:       refcount=2" in lines and "    {'a': 1}" in lines
    assert f"  {row._id}:       refcount=1" in lines and "    Counters({'x': 1})" in lines
    proxy = AutoProxy(shared._token, "pickle", authkey=manager._authkey)
    assert type(proxy).__name__ == "AutoProxy[dict]" and proxy.copy() == {"a": 1}
    assert set(type(proxy)._exposed_) == set(type(shared)._exposed_)
    del copies


def test_references_that_a_program_counts(manager: Any) -> None:
    token, exposed = manager._create("dict", {"a": 1})
    assert "setdefault" in exposed and count(manager) == 1
    proxy = DictProxy(token, "pickle", manager=manager)
    assert proxy["a"] == 1
    del proxy
    assert count(manager) == 1
    manager._session.control("incref", (token.id,))
    for left in (1, 0):
        manager._session.control("decref", (token.id,))
        assert count(manager) == left


def test_creating_tells_errors_as_our_server_does(manager: Any) -> None:
    for make in (
        lambda: manager.dict(5),
        lambda: manager.list(5),
        lambda: manager.set([[]]),
        lambda: manager.Array("i"),
        lambda: manager.dict({object(): 1}),
    ):
        with pytest.raises(RemoteError, match="TypeError"):
            make()
    with pytest.raises(TypeError):
        manager.Counter("x")
    with pytest.raises(ValueError, match="occurs twice"):
        manager.Counters(["a", "a"])


class Refusing:
    """A session of which no request gets through."""

    ns, id = b"ns", b"0" * 16
    error: BaseException

    def key_of(self, ident: str) -> bytes:
        return ident.encode()

    def function(self, *words: Any) -> Any:
        raise self.error


@pytest.mark.parametrize(
    ("error", "left"),
    [
        (ConnectionLost("refused", False), 4),
        (RemoteError("READONLY"), 4),
        (ConnectionLost("cut"), 3),  # the server may have served the one
        (KeyboardInterrupt(), 3),
    ],
)
def test_what_cannot_be_returned_is_returned_later(error: BaseException, left: int) -> None:
    session = Refusing()
    session.error = error
    mine = references.References(session)
    mine.pending.extend((f"dict-{i}", b"s:1") for i in range(4))
    interrupts = isinstance(error, KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt) if interrupts else contextlib.nullcontext():
        mine.flush()
    assert len(set(mine.pending)) == len(mine.pending) == left and not mine.flushing


def test_waiting_for_replicas(manager: Any) -> None:
    manager.dict(a=1)
    assert manager.wait_for_replicas(timeout=0.01) == 0  # there is none
    with valkeys.server("redis") as other:
        port = valkeys.free_port()
        with valkeys.server("redis", port=port, repl_diskless_sync_delay=0) as primary:
            other.ask("REPLICAOF", "127.0.0.1", port)
            poll(lambda: b"state=online" in primary.ask("INFO", "replication"), "it follows")
            with SyncManager(address=primary.url()) as one:
                held = one.dict(a=1)
                assert one.wait_for_replicas(timeout=DEADLINE) == 1
                assert held.copy() == {"a": 1}
    with pytest.raises(NotHosted, match="has no replicas"):
        SyncManager().wait_for_replicas()
