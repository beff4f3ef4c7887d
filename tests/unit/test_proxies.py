"""Every method of the proxy of every type."""

from __future__ import annotations

import array
import operator
import pickle
import queue
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import DEADLINE, ProbeManager, in_thread, poll, valkeys

from fastmgr.managers import (
    AcquirerProxy,
    ArrayProxy,
    BarrierProxy,
    ConditionProxy,
    DictProxy,
    EventProxy,
    ListProxy,
    PoolProxy,
    SetProxy,
)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "manager" in metafunc.fixturenames:
        own = "own_server" in metafunc.fixturenames
        engines = ["ours"] if own else ["ours", *valkeys.PLACES]
        metafunc.parametrize("shared_manager", engines, indirect=True, scope="module")


@pytest.fixture(scope="module")
def shared_manager(request: pytest.FixtureRequest) -> Iterator[Any]:
    """A manager of our server, or of what an engine uses."""
    with ProbeManager() if request.param == "ours" else valkeys.manager(request.param) as manager:
        yield manager


@pytest.fixture
def own_server() -> None:
    """For a test of what only our server has."""


# Containers


def test_list(manager: ProbeManager) -> None:
    shared = manager.list(range(5))
    assert list(shared) == [0, 1, 2, 3, 4]
    assert not hasattr(type(shared), "__iter__")
    shared.append(5)
    shared.extend((6, 7))
    shared.insert(0, -1)
    assert shared[:] == [-1, 0, 1, 2, 3, 4, 5, 6, 7]
    assert shared[1] == 0
    assert shared[-2:] == [6, 7]
    assert shared[::4] == [-1, 3, 7]
    shared[0] = "x"
    shared[1:3] = ["y"]
    del shared[3:]
    assert shared[:] == ["x", "y", 2]
    del shared[-1]
    assert "y" in shared
    assert 2 not in shared
    assert len(shared) == 2
    assert shared.pop() == "y"
    assert shared.pop(0) == "x"
    shared += [3, 1, 2]
    assert type(shared) is ListProxy
    shared.sort()
    assert shared[:] == [1, 2, 3]
    shared.sort(reverse=True)
    shared.reverse()
    assert shared + [4] == [1, 2, 3, 4]  # noqa: RUF005
    assert shared * 2 == 2 * shared == [1, 2, 3, 1, 2, 3]
    shared *= 2
    assert type(shared) is ListProxy
    assert (shared.count(1), shared.index(2), shared.index(2, 2)) == (2, 1, 4)
    shared.remove(1)
    assert shared.copy() == [2, 3, 1, 2, 3]
    assert list(reversed(shared)) == [3, 2, 1, 3, 2]
    shared.clear()
    assert len(shared) == 0
    with pytest.raises(ValueError, match="not in list"):
        shared.remove(1)
    with pytest.raises(IndexError):
        shared.pop()
    with pytest.raises(TypeError):
        shared["x"]


def test_list_sees_changes_while_it_is_iterated(manager: ProbeManager) -> None:
    shared = manager.list([1, 2])
    seen = []
    for value in shared:
        seen.append(value)
        if value == 2:
            shared.append(3)
    assert seen == [1, 2, 3]


def test_dict(manager: ProbeManager) -> None:
    shared = manager.dict({"a": 1}, b=2)
    assert list(shared) == ["a", "b"]
    assert list(reversed(shared)) == ["b", "a"]
    assert shared["a"] == 1
    shared["c"] = [3]
    del shared["a"]
    assert ("c" in shared, "a" in shared, len(shared)) == (True, False, 2)
    assert (shared.get("b"), shared.get("a"), shared.get("a", 0)) == (2, None, 0)
    assert shared.items() == [("b", 2), ("c", [3])]
    assert shared.keys() == ["b", "c"]
    assert shared.values() == [2, [3]]
    assert shared.copy() == dict(shared) == {"b": 2, "c": [3]}
    assert shared.pop("b") == 2
    assert shared.pop("b", "default") == "default"
    assert shared.setdefault("d", 4) == 4
    shared.update({"e": 5}, f=6)
    assert shared.popitem() == ("f", 6)
    assert shared | {"x": 0} == {"c": [3], "d": 4, "e": 5, "x": 0}
    assert {"x": 0, "d": 0} | shared == {"x": 0, "d": 4, "c": [3], "e": 5}
    shared |= {"y": 1}
    assert type(shared) is DictProxy
    assert shared["y"] == 1
    assert shared.fromkeys([1, 2], "v") == {1: "v", 2: "v"}
    shared.clear()
    assert shared.copy() == {}
    with pytest.raises(KeyError, match="nothing"):
        shared["nothing"]
    with pytest.raises(TypeError):
        shared[[]] = 1


@pytest.mark.parametrize("kind", [DictProxy, ListProxy, SetProxy])
def test_help_of_a_method_has_a_text(kind: Any) -> None:
    """Of the container's own methods the interpreter's; of ours the verb's, without a signature."""
    methods = [name for name in kind._exposed_ if not name.startswith("_")]
    assert [name for name in methods if not getattr(kind, name).__doc__] == []
    assert kind.pop.__doc__ == {DictProxy: dict, ListProxy: list, SetProxy: set}[kind].pop.__doc__
    if kind is not SetProxy:
        assert kind.incr.__doc__.startswith("Add to ")


def test_iterators_that_are_sent_and_not_shared(manager: ProbeManager) -> None:
    """As in CPython 3.14, which has no iterators over there of sets and of reversed dicts."""
    assert type(reversed(manager.dict(a=1, b=2))) is type(iter([]))
    assert type(iter(manager.set([1, 2]))) is type(iter([]))
    shared = manager.set([1, 2])
    for value in shared:
        shared.discard(value)
    assert len(shared) == 0
    assert "__class_getitem__" in SetProxy._exposed_


def test_dict_that_changes_while_it_is_iterated(manager: ProbeManager) -> None:
    shared = manager.dict(a=1)
    iterator = iter(shared)
    shared["b"] = 2
    with pytest.raises(RuntimeError, match="changed size"):
        next(iterator)


OPERATORS: list[tuple[str, Callable[[Any, Any], Any]]] = [
    (name, getattr(operator, name))
    for name in ("and_", "or_", "sub", "xor", "le", "lt", "ge", "gt")
]
IN_PLACE: list[tuple[str, Callable[[Any, Any], Any]]] = [
    (name, getattr(operator, name)) for name in ("iand", "ior", "isub", "ixor")
]


def test_set(manager: ProbeManager) -> None:
    shared = manager.set([1, 2])
    assert sorted(shared) == [1, 2]
    shared.add(3)
    shared.discard(1)
    shared.discard(1)
    shared.remove(2)
    assert (3 in shared, 2 in shared, len(shared)) == (True, False, 1)
    shared.update([4], (5,))
    assert shared.copy() == {3, 4, 5}
    assert shared.union([6]) == {3, 4, 5, 6}
    assert shared.intersection([3, 9]) == {3}
    assert shared.difference([3]) == {4, 5}
    assert shared.symmetric_difference([5, 6]) == {3, 4, 6}
    assert shared.isdisjoint([1])
    assert shared.issubset([3, 4, 5, 6])
    assert shared.issuperset([3])
    shared.intersection_update([3, 4])
    shared.difference_update([4])
    shared.symmetric_difference_update([3, 7])
    assert shared.pop() == 7
    with pytest.raises(KeyError):
        shared.pop()
    with pytest.raises(KeyError):
        shared.remove("x")
    shared.add(1)
    shared.clear()
    assert len(shared) == 0


@pytest.mark.parametrize(("name", "function"), OPERATORS)
def test_operators_of_sets(
    manager: ProbeManager, name: str, function: Callable[[Any, Any], Any]
) -> None:
    left, right = {1, 2}, {2, 3}
    shared = manager.set(left)
    for other in (right, left, set(), {1, 2, 3}):
        assert function(shared, other) == function(left, other)
        assert function(other, shared) == function(other, left)
    assert shared.copy() == left


@pytest.mark.parametrize(("name", "function"), IN_PLACE)
def test_in_place_operators_of_sets(
    manager: ProbeManager, name: str, function: Callable[[Any, Any], Any]
) -> None:
    shared = same = manager.set([1, 2])
    shared = function(shared, {2, 3})
    assert shared is same
    assert shared.copy() == function({1, 2}, {2, 3})


def test_array(manager: ProbeManager) -> None:
    shared = manager.Array("i", range(5))
    assert type(shared) is ArrayProxy
    assert len(shared) == 5
    assert shared[1] == 1
    assert shared[1:3] == array.array("i", [1, 2])
    assert shared[::-2] == array.array("i", [4, 2, 0])
    shared[0] = 9
    shared[3:] = array.array("i", [7, 8])
    assert list(shared) == [9, 1, 2, 7, 8]
    assert str(shared) == "array('i', [9, 1, 2, 7, 8])"
    with pytest.raises(OverflowError):
        shared[0] = 2**40
    with pytest.raises(TypeError):
        shared[0] = "x"
    with pytest.raises(IndexError):
        shared[99]


def test_an_array_changes_its_length_until_it_is_mapped(
    manager: ProbeManager, own_server: None
) -> None:
    shared = manager.Array("i", range(5))
    shared[3:] = array.array("i", [7, 8, 9])
    assert len(shared) == 6
    with pytest.raises(BufferError, match=r"3 items for 2: .* cannot change its length"):
        shared[4:] = array.array("i", [1, 2, 3])
    assert shared[:] == array.array("i", [0, 1, 2, 7, 8, 9])


def test_value(manager: ProbeManager) -> None:
    shared = manager.Value("i", 5)
    assert (shared.value, shared.get()) == (5, 5)
    shared.value = [1]
    assert shared.get() == [1]
    shared.set("x")
    assert shared.value == "x"
    assert str(shared) == "Value('i', 'x')"


def test_namespace(manager: ProbeManager) -> None:
    shared = manager.Namespace(x=1, y="two")
    assert (shared.x, shared.y) == (1, "two")
    shared.z = [3]
    del shared.y
    assert shared.z == [3]
    assert str(shared) == "Namespace(x=1, z=[3])"
    with pytest.raises(AttributeError):
        shared.y  # noqa: B018
    with pytest.raises(AttributeError):
        del shared.y


def test_namespace_keeps_what_begins_with_an_underscore(manager: ProbeManager) -> None:
    shared = manager.Namespace(_there=1)
    shared._here = 2
    assert shared._here == 2
    assert str(shared) == "Namespace()"
    other = pickle.loads(pickle.dumps(shared))
    for name in ("_here", "_there", "__dunder__"):
        with pytest.raises(AttributeError):
            getattr(other, name)
    del shared._here
    with pytest.raises(AttributeError):
        shared._here  # noqa: B018
    assert shared._callmethod("__getattribute__", ("_there",)) == 1


# Synchronisation

LOCKS = ["Lock", "RLock", "Semaphore", "BoundedSemaphore", "Condition"]


@pytest.mark.parametrize("typeid", LOCKS)
def test_locks(manager: ProbeManager, typeid: str) -> None:
    lock = getattr(manager, typeid)()
    assert isinstance(lock, AcquirerProxy)
    assert lock.acquire() is True
    assert in_thread(lock.acquire, False) is False
    assert in_thread(lock.acquire, True, 0.01) is False
    lock.release()
    with lock as entered:
        assert entered is True
        assert in_thread(lock.acquire, False) is False
    assert lock.acquire(timeout=DEADLINE) is True
    lock.release()
    if typeid != "Semaphore":
        with pytest.raises((RuntimeError, ValueError)):
            lock.release()


@pytest.mark.parametrize("typeid", LOCKS)
def test_locked(manager: ProbeManager, typeid: str) -> None:
    """With every Python: those of the threading module have it in some versions only."""
    lock = getattr(manager, typeid)()
    assert lock.locked() is False
    with lock:
        assert lock.locked() is True
        assert in_thread(lock.locked) is True
    assert lock.locked() is False


def test_locked_semaphore_is_one_that_would_wait(manager: ProbeManager) -> None:
    semaphore = manager.Semaphore(2)
    semaphore.acquire()
    assert semaphore.locked() is False
    semaphore.acquire()
    assert semaphore.locked() is True


def test_rlock_is_its_threads(manager: ProbeManager) -> None:
    lock = manager.RLock()
    assert lock.acquire()
    assert lock.acquire()
    lock.release()
    assert in_thread(lock.acquire, False) is False
    with pytest.raises(RuntimeError):
        in_thread(lock.release)
    lock.release()
    assert in_thread(lock.acquire, False) is True


def test_event(manager: ProbeManager) -> None:
    event = manager.Event()
    assert type(event) is EventProxy
    assert event.is_set() is False
    assert event.wait(0.01) is False
    waiter = threading.Thread(target=event.wait)
    waiter.start()
    event.set()
    waiter.join(DEADLINE)
    assert not waiter.is_alive()
    assert event.wait() is True
    event.clear()
    assert event.is_set() is False


def test_condition(manager: ProbeManager) -> None:
    condition = manager.Condition()
    assert type(condition) is ConditionProxy
    assert isinstance(condition, AcquirerProxy)
    waiting = manager.Value("i", 0)
    woken: list[bool] = []

    def wait() -> None:
        with condition:
            waiting.value += 1
            woken.append(condition.wait(DEADLINE))

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    poll(lambda: waiting.value == 3, "all wait")
    with condition:
        condition.notify()
    poll(lambda: len(woken) == 1, "one is woken")
    with condition:
        condition.notify(n=1)
    poll(lambda: len(woken) == 2, "another is woken")
    with condition:
        condition.notify_all()
    for thread in threads:
        thread.join(DEADLINE)
    assert woken == [True] * 3
    with condition:
        assert condition.wait(0.01) is False
    with pytest.raises(RuntimeError):
        condition.notify()


def test_condition_wait_for(manager: ProbeManager) -> None:
    condition = manager.Condition()
    shared = manager.list()
    results: list[Any] = []

    def wait() -> None:
        with condition:
            results.append(condition.wait_for(lambda: shared[:], DEADLINE))

    thread = threading.Thread(target=wait)
    thread.start()
    with condition:
        shared.append("there")
        condition.notify_all()
    thread.join(DEADLINE)
    assert results == [["there"]]
    with condition:
        assert condition.wait_for(lambda: 0, timeout=0.02) == 0
        assert condition.wait_for(lambda: "at once") == "at once"


def test_barrier(manager: ProbeManager) -> None:
    barrier = manager.Barrier(2)
    assert type(barrier) is BarrierProxy
    assert (barrier.parties, barrier.n_waiting, barrier.broken) == (2, 0, False)
    places: list[int] = []
    thread = threading.Thread(target=lambda: places.append(barrier.wait()))
    thread.start()
    poll(lambda: barrier.n_waiting == 1, "one waits")
    places.append(barrier.wait(DEADLINE))
    thread.join(DEADLINE)
    assert sorted(places) == [0, 1]
    barrier.abort()
    assert barrier.broken is True
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait()
    barrier.reset()
    assert barrier.broken is False
    with pytest.raises(threading.BrokenBarrierError):
        barrier.wait(0.01)


def test_queue(manager: ProbeManager) -> None:
    shared = manager.Queue(2)
    shared.put(1)
    shared.put([2], timeout=1)
    assert (shared.full(), shared.qsize(), shared.empty()) == (True, 2, False)
    with pytest.raises(queue.Full):
        shared.put_nowait(3)
    with pytest.raises(queue.Full):
        shared.put(3, True, 0.01)
    assert [shared.get(), shared.get_nowait()] == [1, [2]]
    with pytest.raises(queue.Empty):
        shared.get(timeout=0.01)
    joiner = threading.Thread(target=shared.join)
    joiner.start()
    shared.task_done()
    shared.task_done()
    joiner.join(DEADLINE)
    assert not joiner.is_alive()


def test_get_waits_for_a_put(manager: ProbeManager) -> None:
    shared = manager.JoinableQueue()
    results: list[Any] = []
    getters = [threading.Thread(target=lambda: results.append(shared.get())) for _ in range(5)]
    for getter in getters:
        getter.start()
    for i in range(5):
        shared.put(i)
    for getter in getters:
        getter.join(DEADLINE)
    assert sorted(results) == [0, 1, 2, 3, 4]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_pool(manager: ProbeManager, own_server: None) -> None:
    with manager.Pool(1) as pool:
        assert type(pool) is PoolProxy
        assert pool.apply(abs, (-1,)) == 1
        assert pool.map(abs, [-1, 2]) == [1, 2]
        assert pool.starmap(pow, [(2, 3)]) == [8]
        result = pool.apply_async(abs, (-3,))
        assert result.get(DEADLINE) == 3
        assert (result.ready(), result.successful()) == (True, True)
        assert pool.map_async(abs, [-4]).get() == [4]
        assert pool.starmap_async(pow, [(2, 2)]).get() == [4]
        assert list(pool.imap(abs, [-5])) == [5]
        assert list(pool.imap_unordered(abs, [-6])) == [6]
        with pytest.raises(ZeroDivisionError):
            pool.apply(divmod, (1, 0))
        del result
    pool.join()
