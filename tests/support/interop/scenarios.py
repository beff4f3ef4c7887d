"""What a client does with a server, in one text for all ends.

A scenario takes a manager that is connected to a server at the other end, and asserts. The test
process plays it as a fastmgr client of a stock server, a peer as a stock client of a fastmgr
server. Nothing here knows which end it is on.
"""

from __future__ import annotations

import copy
import gc
import math
import multiprocessing
import operator
import pickle
import queue
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from interop_types import (
    InteropError,
    managers,
    refuse,
    square,
    wait_and_square,
)

PATIENCE = 30.0


def raises(expected: type[BaseException], function: Callable[..., Any], *args: Any) -> Any:
    """The exception that `function(*args)` raises: exactly of the type expected."""
    try:
        result = function(*args)
    except expected as error:
        assert type(error) is expected, repr(error)
        error.__traceback__ = None  # its frames would keep proxies alive
        return error
    raise AssertionError(f"{function} returned {result!r} and did not raise {expected}")


class Background:
    """A call in another thread, that is: on another connection."""

    def __init__(self, function: Callable[..., Any], *args: Any):
        self._outcome: list[Any] = []
        self._thread = threading.Thread(target=self._run, args=(function, args), daemon=True)
        self._thread.start()

    def _run(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            self._outcome.append((True, function(*args)))
        except BaseException as error:
            self._outcome.append((False, error))

    def result(self) -> Any:
        self._thread.join(PATIENCE)
        assert self._outcome, "still blocked"
        good, value = self._outcome.pop()
        if not good:
            raise value
        return value


def elsewhere(function: Callable[..., Any], *args: Any) -> Any:
    """The result of a call in another thread."""
    return Background(function, *args).result()


# The types of SyncManager


def queues(m: Any) -> None:
    q = m.Queue(2)
    assert q.empty() and not q.full() and q.qsize() == 0
    q.put("one")
    q.put((2, [3.0, None], {"four": b"5"}))
    assert q.full() and not q.empty() and q.qsize() == 2
    raises(queue.Full, q.put_nowait, 3)
    raises(queue.Full, q.put, 3, True, 0.01)
    assert q.get() == "one"
    assert q.get_nowait() == (2, [3.0, None], {"four": b"5"})
    raises(queue.Empty, q.get_nowait)
    raises(queue.Empty, q.get, True, 0.01)
    blocked = Background(q.get)
    q.put("for the one that waits")
    assert blocked.result() == "for the one that waits"
    q.put(1)
    q.put(2)
    blocked = Background(q.put, 3)  # there is no room until something is taken out
    assert [q.get(timeout=PATIENCE) for _ in range(3)] == [1, 2, 3]
    assert blocked.result() is None
    if "put_many" in q._exposed_:  # a server of ours
        raises(queue.Full, q.put_many, [1, 2, 3], False)
        assert q.get_many(3) == [1, 2]
        raises(queue.Empty, q.get_many, 3, True, 0.01)


def joinable_queues(m: Any) -> None:
    q = m.JoinableQueue()
    for i in range(3):
        q.put(i)
    joining = Background(q.join)
    for i in range(3):
        assert q.get() == i
        q.task_done()
    joining.result()
    q.join()
    raises(ValueError, q.task_done)


def events(m: Any) -> None:
    e = m.Event()
    assert e.is_set() is False
    assert e.wait(0.01) is False
    waiting = Background(e.wait)
    e.set()
    assert waiting.result() is True
    assert e.is_set() is True and e.wait() is True
    e.clear()
    assert e.is_set() is False


def locks(m: Any) -> None:
    lock = m.Lock()
    assert lock.acquire() is True
    assert elsewhere(lock.acquire, False) is False
    assert elsewhere(lock.acquire, True, 0.01) is False
    waiting = Background(lock.acquire)
    elsewhere(lock.release)  # a Lock has no owner
    assert waiting.result() is True
    lock.release()
    raises(RuntimeError, lock.release)
    with lock:
        assert lock.acquire(False) is False
    assert lock.acquire(timeout=PATIENCE) is True
    lock.release()


def rlocks(m: Any) -> None:
    lock = m.RLock()
    assert lock.acquire() is True and lock.acquire(False) is True
    assert elsewhere(lock.acquire, False) is False
    raises(RuntimeError, elsewhere, lock.release)  # an RLock is its connection's
    lock.release()
    assert elsewhere(lock.acquire, False) is False
    lock.release()

    def take_and_give_back() -> bool:
        with lock, lock:
            return True

    assert elsewhere(take_and_give_back) is True
    raises(RuntimeError, lock.release)


def semaphores(m: Any) -> None:
    s = m.Semaphore(2)
    assert s.acquire() and s.acquire(False)
    assert s.acquire(False) is False
    assert s.acquire(True, 0.01) is False
    waiting = Background(s.acquire)
    s.release()
    assert waiting.result() is True
    for _ in range(3):
        s.release()  # beyond where it started
    with s:
        pass
    assert [s.acquire(False) for _ in range(4)] == [True, True, True, False]


def bounded_semaphores(m: Any) -> None:
    s = m.BoundedSemaphore(1)
    assert s.acquire() is True
    assert s.acquire(False) is False
    s.release()
    raises(ValueError, s.release)
    with s:
        assert elsewhere(s.acquire, False) is False


def conditions(m: Any) -> None:
    c = m.Condition()
    ready = m.list()
    raises(RuntimeError, c.notify)
    raises(RuntimeError, c.wait, 0.01)

    def wait_for_items() -> bool:
        with c:
            return bool(c.wait_for(lambda: len(ready) == 2, PATIENCE))

    waiting = [Background(wait_for_items) for _ in range(2)]
    for item in "ab":
        with c:
            ready.append(item)
            c.notify_all()
    assert [w.result() for w in waiting] == [True, True]
    with c:
        assert c.wait(0.01) is False
        assert c.wait_for(lambda: False, 0.01) is False
        c.notify()
        c.notify(2)
    entered = m.Semaphore(0)

    def wait_once() -> bool:
        with c:
            entered.release()
            return bool(c.wait(PATIENCE))

    waiting = [Background(wait_once) for _ in range(2)]
    for _ in range(2):
        entered.acquire()
    with c:  # both are in wait(): they hold the condition until they are
        c.notify(2)
    assert [w.result() for w in waiting] == [True, True]


def barriers(m: Any) -> None:
    b = m.Barrier(2)
    assert (b.parties, b.n_waiting, b.broken) == (2, 0, False)
    other = Background(b.wait)
    assert sorted([b.wait(PATIENCE), other.result()]) == [0, 1]
    other = Background(b.wait)
    while b.n_waiting == 0:
        time.sleep(0.001)
    b.abort()
    raises(threading.BrokenBarrierError, other.result)
    assert b.broken is True
    raises(threading.BrokenBarrierError, b.wait)
    b.reset()
    assert b.broken is False
    raises(threading.BrokenBarrierError, b.wait, 0.01)


def pools(m: Any) -> None:
    with m.Pool(2) as p:
        assert p.apply(square, (7,)) == 49
        assert p.map(square, range(5)) == [0, 1, 4, 9, 16]
        assert p.starmap(operator.mul, [(2, 3), (4, 5)]) == [6, 20]
        assert list(p.imap(square, range(4))) == [0, 1, 4, 9]
        assert sorted(p.imap_unordered(square, range(4))) == [0, 1, 4, 9]
        assert raises(InteropError, p.apply, refuse, (3,)).args == ("refused", 3)


def async_results(m: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, m.Pool(2) as p:
        gate = Path(folder, "gate")
        result = p.apply_async(wait_and_square, (5, str(gate)))
        raises(multiprocessing.TimeoutError, result.get, 0.01)
        assert result.ready() is False
        raises(ValueError, result.successful)
        waiting = Background(result.wait, PATIENCE)
        gate.touch()
        waiting.result()
        assert result.ready() is True and result.successful() is True
        assert result.get(PATIENCE) == 25
        assert p.map_async(square, [1, 2]).get(PATIENCE) == [1, 4]
        assert p.starmap_async(pow, [(2, 5), (3, 2)]).get(PATIENCE) == [32, 9]
        failed = p.apply_async(refuse, (4,))
        assert raises(InteropError, failed.get, PATIENCE).args == ("refused", 4)
        assert failed.successful() is False
        p.close()
        p.join()


def lists(m: Any) -> None:
    values = m.list(range(5))
    assert len(values) == 5 and 3 in values and 9 not in values
    assert values[1] == 1 and values[-1] == 4 and values[1:3] == [1, 2]
    values[0] = "zero"
    values[1:3] = ["one", "two"]
    del values[-1]
    assert values[:] == ["zero", "one", "two", 3] == list(values) == values._getvalue()
    values.append(None)
    values.extend((1.5, b"six"))
    values.insert(0, True)
    assert values.pop() == b"six" and values.pop(0) is True
    assert values.index(3) == 3 and values.count(None) == 1
    values.remove(None)
    values.reverse()
    assert values[:] == [1.5, 3, "two", "one", "zero"]
    assert operator.add(values, ["x"]) == [1.5, 3, "two", "one", "zero", "x"]
    assert values * 2 == 2 * values == values[:] * 2
    same = values
    same += [7]
    same *= 2
    assert same is values and len(values) == 12
    assert list(reversed(m.list([1, 2, 3]))) == [3, 2, 1]
    numbers = m.list([3, 1, 2])
    numbers.sort(key=operator.neg)
    assert numbers[:] == [3, 2, 1]
    numbers.sort(reverse=False)
    assert numbers[:] == [1, 2, 3]
    assert str(numbers) == "[1, 2, 3]"
    assert repr(numbers).startswith("<ListProxy object, typeid 'list' at 0x")
    assert copy.deepcopy(numbers) == [1, 2, 3]
    assert type(copy.deepcopy(numbers)) is list
    raises(IndexError, operator.getitem, numbers, 3)
    raises(ValueError, numbers.index, 9)
    raises(IndexError, m.list().pop)


def dicts(m: Any) -> None:
    d = m.dict({"a": 1}, b=2)
    d["c"] = [3]
    assert d["a"] == 1 and len(d) == 3 and "b" in d and "z" not in d
    assert raises(KeyError, operator.getitem, d, "z").args == ("z",)
    assert d.get("z") is None and d.get("z", 0) == 0 and d.setdefault("d", 4) == 4
    assert list(d) == ["a", "b", "c", "d"]
    assert sorted(d.keys()) == ["a", "b", "c", "d"] and type(d.keys()) is list
    assert (4 in d.values()) is True
    assert dict(d.items()) == d.copy() == d._getvalue() == {"a": 1, "b": 2, "c": [3], "d": 4}
    d.update({(1, 2): None}, e=5)
    assert d.pop("a") == 1 and d.pop("a", "gone") == "gone"
    assert d.popitem() == ("e", 5)
    del d["b"]
    raises(KeyError, operator.delitem, d, "b")
    assert str(m.dict(x=1)) == "{'x': 1}"
    iterator = iter(d)
    assert next(iterator) == "c"
    d["new"] = 1
    raises(RuntimeError, next, iterator)  # it changed size during iteration
    d.clear()
    assert list(d) == [] and len(d) == 0


def values(m: Any) -> None:
    v = m.Value("i", 7)
    assert v.value == 7 == v.get()
    v.value += 1
    assert v.get() == 8
    v.set(2**80)
    assert v.value == 2**80
    v.value = {"any": "thing"}
    assert v.value == {"any": "thing"}
    v.value = 1.25
    assert str(v) == "Value('i', 1.25)"


def arrays(m: Any) -> None:
    a = m.Array("i", [1, 2, 3])
    a[0] = -5
    assert len(a) == 3 and a[0] == -5 and a[-1] == 3
    assert list(a[1:]) == [2, 3] and a[1:].typecode == "i"
    assert list(a) == [-5, 2, 3]
    raises(TypeError, operator.setitem, a, 0, "text")
    raises(OverflowError, operator.setitem, a, 0, 2**40)
    raises(IndexError, operator.getitem, a, 3)
    d = m.Array("d", [0.5])
    d[0] *= 3
    assert d._getvalue().tolist() == [1.5]


def namespaces(m: Any) -> None:
    n = m.Namespace(x=1)
    n.y = "two"
    n._local = "not shared"
    assert (n.x, n.y, n._local) == (1, "two", "not shared")
    del n.x
    raises(AttributeError, getattr, n, "x")
    assert str(n) == "Namespace(y='two')"
    value = n._getvalue()
    assert value.y == "two" and not hasattr(value, "_local")
    assert type(value) is managers.Namespace


def iterators(m: Any) -> None:
    it = m.countdown(3)
    assert next(it) == 3
    assert it.send(9) == 9
    assert next(it) == 8
    assert raises(KeyError, it.throw, KeyError("thrown")).args == ("thrown",)
    raises(StopIteration, next, it)
    assert list(m.countdown(4)) == [4, 3, 2, 1]
    it = m.countdown(2)
    it.close()
    assert list(it) == []


def sets(m: Any) -> None:
    s = m.set({1, 2})
    s.add(3)
    assert len(s) == 3 and 3 in s and sorted(s) == [1, 2, 3]
    assert s | {4} == {1, 2, 3, 4} and s & {1, 9} == {1} and s - {1} == {2, 3} and s ^ {1} == {2, 3}
    s |= {5}
    s.discard(1)
    raises(KeyError, s.remove, 1)
    assert s.issuperset({2, 5}) and s._getvalue() == {2, 3, 5}
    s.clear()
    assert len(s) == 0


# Failures


def exceptions(m: Any) -> None:
    j = m.Journal(5)
    error = raises(InteropError, j.fail, "on purpose")
    assert error.args == ("on purpose", 42)
    error = raises(managers.RemoteError, j.unserializable)
    assert "Unserializable message" in str(error)
    assert j.total() == 5  # and the connection is still in step
    error = raises(managers.RemoteError, j._callmethod, "_private")
    assert "'_private'" in str(error) and "AttributeError" in str(error)
    error = raises(managers.RemoteError, j._callmethod, "no_such_method")
    assert "no_such_method" in str(error)
    raises(TypeError, j.add, 1, 2, 3)
    guarded = m.Guarded(1)
    assert guarded.add() == 2 and not hasattr(guarded, "total")
    assert "'total'" in str(raises(managers.RemoteError, guarded._callmethod, "total"))
    raises(managers.RemoteError, m.list, 1, 2, 3)  # a constructor that fails
    raises(managers.RemoteError, m._create, "no such type")
    assert j.add(1) == 6


def unknown_ident(m: Any) -> None:
    with m._Client(m.address, authkey=m._authkey) as conn:
        raises(managers.RemoteError, managers.dispatch, conn, None, "decref", ("feed",))
    with m._Client(m.address, authkey=m._authkey) as conn:
        managers.dispatch(conn, None, "accept_connection", ("somebody",))
        error = raises(managers.RemoteError, managers.dispatch, conn, "feed", "append", (1,))
        assert "KeyError" in str(error) and "feed" in str(error)


# Proxies


def custom_classes(m: Any) -> None:
    j = m.Journal()
    assert (j.add(), j.add(4), j.add(1, times=5), j.total()) == (1, 5, 10, 10)
    payload = (1, "two", b"three", [4.0, None], {"five": {6}}, square, InteropError)
    assert j.echo(*payload, key=payload) == [list(payload), {"key": payload}]
    assert type(j).__name__ == "AutoProxy[Journal]"
    book = m.new_book("A title", 321)
    assert type(book).__name__ == "BookProxy" and book.local_only == "from the proxy class"
    book.rename("Another")
    assert book.title() == "Another" and len(book) == 321
    # A callable that returns the same object twice: one object, one ident.
    first, second = m.the_journal(), m.the_journal()
    assert first._token.id == second._token.id
    before = first.total()
    second.add(3)
    assert first.total() == before + 3
    del first
    assert second.total() == before + 3


def typed_results(m: Any) -> None:
    shelf = m.Shelf("Alpha", "Beta")
    beta = shelf.book(1)
    assert type(beta).__name__ == "BookProxy" and len(beta) == 101
    beta.rename("Gamma")
    assert list(shelf.titles()) == ["Alpha", "Gamma"]
    again = shelf.book(1)
    assert again._token.id == beta._token.id and again.title() == "Gamma"
    del beta
    gc.collect()
    assert again.title() == "Gamma"
    assert shelf.count() == 2
    del shelf
    gc.collect()
    assert again.title() == "Gamma"


def nested_proxies(m: Any) -> None:
    d = m.dict()
    d["inner"] = m.list([1])  # its own proxy is gone after this line
    gc.collect()
    d["inner"].append(2)
    inner = d["inner"]
    assert type(inner).__name__ == "ListProxy"
    inner.append(3)
    assert d["inner"][:] == [1, 2, 3]
    outer = m.list([d, inner, "plain"])
    outer[0]["inner"].append(4)
    outer[1].append(5)
    assert inner[:] == [1, 2, 3, 4, 5] and outer[2] == "plain"
    del d
    gc.collect()
    outer[0]["more"] = {"deep": [inner]}  # within a plain value
    assert outer[0]["more"]["deep"][0][:] == [1, 2, 3, 4, 5]
    n = m.Namespace()
    n.journal = m.Journal(1)
    assert n.journal.add() == 2 and n.journal.total() == 2
    q = m.Queue()
    q.put(inner)
    q.get().append(6)
    assert inner[-1] == 6
    v = m.Value("i", 0)
    v.value = inner
    assert v.value[0] == 1
    assert [sorted(x.keys()) for x in outer[:1]] == [["inner", "more"]]


def contains_itself(m: Any) -> None:
    a = m.list([1])
    a.append(a)
    assert a[1][1][1][0] == 1 and len(a) == 2
    a[1].append("end")
    assert a[2] == "end"
    a.pop(1)
    assert a[:] == [1, "end"]


def pickled_proxies(m: Any) -> None:
    made = [
        m.list([1]),
        m.dict(a=1),
        m.Value("i", 1),
        m.Array("i", [1]),
        m.Namespace(a=1),
        m.Journal(1),
        m.new_book("t", 1),
        m.Lock(),
        m.Event(),
        m.Queue(),
    ]
    for proxy in made:
        twin = pickle.loads(pickle.dumps(proxy))
        assert twin is not proxy and twin._token.id == proxy._token.id
        assert type(twin).__name__ == type(proxy).__name__
    twin = pickle.loads(pickle.dumps(made[0]))
    made.clear()
    gc.collect()
    twin.append(2)  # it holds a reference of its own
    assert twin[:] == [1, 2]


def management(m: Any) -> None:
    before = m._number_of_objects()
    proxies = [m.list([123, 456]), m.dict()]
    assert m._number_of_objects() == before + 2
    ident = proxies[0]._token.id
    info = m._debug_info()
    assert f"  {ident}:       refcount=1" in info and "[123, 456]" in info
    twin = pickle.loads(pickle.dumps(proxies[0]))
    # The stdlib counts proxies, fastmgr the processes that hold any.
    count = 1 if type(m).__mro__[-2].__module__.startswith("fastmgr") else 2
    assert f"  {ident}:       refcount={count}" in m._debug_info()
    assert m._number_of_objects() == before + 2
    token, exposed = m._create("list", [1])
    assert token.typeid == "list" and token.address == m.address and "append" in exposed
    with m._Client(m.address, authkey=m._authkey) as conn:
        methods = managers.dispatch(conn, None, "get_methods", (token,))
    assert set(methods) == set(exposed)
    with m._Client(m.address, authkey=m._authkey) as conn:
        managers.dispatch(conn, None, "decref", (token.id,))
    del proxies, twin
    gc.collect()
    end = time.monotonic() + PATIENCE
    while m._number_of_objects() != before:
        assert time.monotonic() < end, m._debug_info()
        time.sleep(0.01)


def big_payloads(m: Any) -> None:
    q = m.Queue()
    # Either side of the size from which a frame's header is sent on its own, and well above.
    for size in (0, 16383, 16384, 16385, 70000, 3_000_000):
        q.put(b"x" * size)
        assert q.get() == b"x" * size
    numbers = [math.sqrt(i) for i in range(50_000)]
    shared = m.list(numbers)
    assert shared[:] == numbers
    text = m.dict({"text": "\N{SNOWMAN}" * 100_000})
    assert text["text"] == "\N{SNOWMAN}" * 100_000


def many_threads(m: Any) -> None:
    q, out, lock, total = m.Queue(), m.Queue(), m.Lock(), m.Value("i", 0)

    def work() -> int:
        done = 0
        while (item := q.get()) is not None:
            out.put(item * 2)
            with lock:
                total.value += 1
            done += 1
        return done

    workers = [Background(work) for _ in range(6)]
    for i in range(60):
        q.put(i)
    for _ in workers:
        q.put(None)
    assert sum(w.result() for w in workers) == 60 == total.value
    assert sorted(out.get() for _ in range(60)) == [2 * i for i in range(60)]


TYPES = [
    queues,
    joinable_queues,
    events,
    locks,
    rlocks,
    semaphores,
    bounded_semaphores,
    conditions,
    barriers,
    pools,
    async_results,
    lists,
    dicts,
    values,
    arrays,
    namespaces,
    iterators,
]
PROXIES = [
    exceptions,
    unknown_ident,
    custom_classes,
    typed_results,
    nested_proxies,
    contains_itself,
    pickled_proxies,
    management,
    big_payloads,
    many_threads,
]


# What both serializers carry


def plain_values(m: Any) -> None:
    """Strings, numbers, lists: all that a lossy serializer leaves as it was."""
    d = m.dict()
    d["a"] = 1
    d.update({"b": "two", "c": [3.5, None, True]})
    assert d["a"] == 1 and d["c"] == [3.5, None, True] and len(d) == 3
    assert sorted(d.copy()) == ["a", "b", "c"] and d.get("z", "default") == "default"
    values = m.list([3, 1, 2])
    values.sort()
    values.append("text")
    assert values[0] == 1 and len(values) == 4 and values.pop() == "text"
    q = m.Queue()
    q.put(["a", 1])
    assert q.qsize() == 1 and q.get() == ["a", 1] and q.empty() is True
    j = m.Journal(10)
    assert j.add(5) == 15 and j.echo(1, "x", k="v") == [[1, "x"], {"k": "v"}]
    lock = m.Lock()
    with lock:
        assert elsewhere(lock.acquire, False) is False
    e = m.Event()
    waiting = Background(e.wait)
    e.set()
    assert waiting.result() is True
    assert m._number_of_objects() >= 6
    raises(managers.RemoteError, d._callmethod, "no_such_method")
    assert d["b"] == "two"


# Several processes


def _count(lock: Any, total: Any, table: Any, key: str, times: int) -> None:
    for _ in range(times):
        with lock:
            total.value += 1
            table[key] = table.get(key, 0) + 1


def _count_in_threads(lock: Any, total: Any, table: Any, key: str, times: int) -> None:
    threads = [Background(_count, lock, total, table, key, times) for _ in range(3)]
    for thread in threads:
        thread.result()


def hammer(m: Any) -> list[Any]:
    """Two processes of three threads each and this one, all on one counter."""
    lock, total, table = m.Lock(), m.Value("i", 0), m.dict()
    processes = [
        multiprocessing.Process(target=_count_in_threads, args=(lock, total, table, name, 40))
        for name in ("one", "two")
    ]
    for process in processes:
        process.start()
    _count(lock, total, table, "here", 40)
    for process in processes:
        process.join(PATIENCE)
        assert process.exitcode == 0
    return [total.value, table.copy()]


# Several servers, and clients that follow one another


def leave_proxies(m: Any) -> None:
    """Leave proxies in the one box of the server, for a client of another kind."""
    box = m.the_box()
    box["list"] = m.list(["left"])
    box["journal"] = m.Journal(10)
    box["book"] = m.new_book("Left", 10)
    box["lock"] = m.Lock()
    box["nested"] = m.dict(inner=m.list([1]))


def find_proxies(m: Any) -> None:
    """Use what `leave_proxies` left, and add to it."""
    box = m.the_box()
    box["list"].append("found")
    assert box["list"][:] == ["left", "found"]
    assert box["journal"].add(1) == 11
    book = box["book"]
    assert book.title() == "Left" and book.local_only == "from the proxy class"
    book.rename("Found")
    with box["lock"]:
        assert elsewhere(box["lock"].acquire, False) is False
    box["nested"]["inner"].append(2)
    box["mine"] = m.list(["from the finder"])


def check_proxies(m: Any) -> None:
    """What `find_proxies` did is seen by the one who left them; then clear up."""
    box = m.the_box()
    assert box["list"][:] == ["left", "found"]
    assert box["journal"].total() == 11 and box["book"].title() == "Found"
    assert box["nested"]["inner"][:] == [1, 2]
    assert box["mine"][:] == ["from the finder"]
    box.clear()


def put_across(home: Any, away: Any) -> None:
    """Proxies of one server in a container of the other."""
    box = away.the_box()
    box["list"] = home.list(["home"])
    box["journal"] = home.Journal(100)
    box["dict"] = home.dict(a=away.list([1]))
    gc.collect()  # from here on, the containers alone hold them
    assert box["list"]._token.address == home.address
    box["list"].append("away")


def use_across(home: Any, away: Any) -> None:
    box = away.the_box()
    assert box["list"][:] == ["home", "away"]
    box["list"].append("used")
    assert box["journal"].add(11) == 111
    box["dict"]["a"].append(2)
    assert box["dict"]["a"][:] == [1, 2]
    assert box["dict"]["a"]._token.address == away.address


def end_across(home: Any, away: Any) -> None:
    box = away.the_box()
    assert box["list"][:] == ["home", "away", "used"] and box["journal"].total() == 111
    box.clear()
