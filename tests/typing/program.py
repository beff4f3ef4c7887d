"""A program of a user's: what a type checker says of it, and where it objects."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Any, ClassVar

from typing_extensions import assert_type

import fastmgr
from fastmgr import (
    AcquirerProxy,
    ArrayProxy,
    BaseProxy,
    ConditionProxy,
    CounterProxy,
    CountersProxy,
    DictProxy,
    EventProxy,
    ListProxy,
    NamespaceProxy,
    Pipeline,
    QueueProxy,
    SetProxy,
    SyncManager,
    ValueProxy,
)


class Journal:
    def __init__(self, title: str) -> None:
        self.title = title

    def note(self, text: str, *, urgent: bool = False) -> int:
        return len(text)


class JournalProxy(BaseProxy):
    def note(self, text: str) -> int:
        return int(self._callmethod("note", (text,)))


class Manager(SyncManager):
    Journal: ClassVar[type[Journal]]

    if TYPE_CHECKING:

        def Own(self, title: str) -> JournalProxy: ...


Manager.register("Journal", Journal)
Manager.register("Own", Journal, JournalProxy, engine="local")
Manager.register("Pool", engine="local")
Manager.register("Own", Journal, engine="remote")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Ages(DictProxy[str, int]):
    """A proxy type of a user's."""


def factories(m: Manager) -> None:
    assert_type(m.dict({"a": 1}), DictProxy[str, int])
    assert_type(m.dict(a=1.5), DictProxy[str, float])
    pairs: list[tuple[int, str]] = [(1, "a")]
    assert_type(m.dict(pairs), DictProxy[int, str])
    assert_type(m.dict(), DictProxy[Any, Any])
    assert_type(m.list([1]), ListProxy[int])
    assert_type(m.list("ab"), ListProxy[str])
    assert_type(m.set({1}), SetProxy[int])
    assert_type(m.Value("i", 0), ValueProxy[int])
    assert_type(m.Value("O", None), ValueProxy[None])
    assert_type(m.Array("d", range(3)), ArrayProxy[float])
    assert_type(m.Array("q", [1]), ArrayProxy[int])
    assert_type(m.Counter(), CounterProxy)
    assert_type(m.Counter(name="hits"), CounterProxy)
    assert_type(m.Counters(["ok", "err"]), CountersProxy[str])
    assert_type(m.Counters(3), CountersProxy[int])
    assert_type(m.Queue(), QueueProxy[Any])
    assert_type(m.Event(), EventProxy)
    assert_type(m.Condition(), ConditionProxy)
    assert_type(m.Namespace(x=1), NamespaceProxy)
    locks: list[AcquirerProxy] = [m.Lock(), m.RLock(), m.Semaphore(2), m.BoundedSemaphore()]
    assert_type(locks[0].acquire(timeout=None), bool)
    assert_type(m.Lock().owner_died, bool)
    m.Counters(["ok"], nmae="http")  # type: ignore[call-overload]  # pyright: ignore[reportCallIssue]


def containers(m: Manager) -> None:
    d = m.dict({"a": 1})
    assert_type(d["a"], int)
    assert_type(d.get("a"), int | None)
    assert_type(d.incr("a"), int)
    assert_type(d.exchange("a", 2), int)
    assert_type(d.compare_exchange("a", 2, 3), bool)
    assert_type(d | {"b": 2}, dict[str, int])
    assert_type(d.keys(), list[str])
    assert_type(list(d), list[str])
    d |= {"c": 3}
    assert_type(d, DictProxy[str, int])
    d[1] = 1  # type: ignore[index]  # pyright: ignore[reportArgumentType]
    d.incr(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    items = m.list([1])
    assert_type(items[0], int)
    assert_type(items[:], list[int])
    assert_type(items.incr(0, 2), int)
    assert_type(items.copy(), list[int])
    items.append("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]

    members = m.set({1})
    assert_type(members | {"a"}, set[int | str])
    assert_type(members.pop(), int)
    members |= {2}
    assert_type(members, SetProxy[int])

    tasks: QueueProxy[tuple[str, int]] = m.Queue(10)
    tasks.put(("a", 1))
    assert_type(tasks.get(timeout=1.0), tuple[str, int])
    tasks.put("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def numbers(m: Manager) -> None:
    value = m.Value("i", 0)
    value.value += 1
    assert_type(value.incr(), int)
    assert_type(value.exchange(1), int)
    value.set("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    samples = m.Array("d", [0, 1])
    samples[0] = 0.5
    assert_type(samples[0], float)
    assert_type(list(samples), list[float])
    assert_type(samples[:], array[float])
    samples[:1] = samples[1:]
    samples[:1] = [0.5]  # type: ignore[call-overload]  # pyright: ignore[reportArgumentType, reportCallIssue]
    counter = m.Counter()
    counter += 1
    assert_type(counter, CounterProxy)
    assert_type(counter.incr(), int)
    counts = m.Counters(["ok", "err"])
    assert_type(counts["ok"], int)
    assert_type(counts.as_dict(), dict[str, int])
    counts.incr(0)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def recorders(m: Manager) -> None:
    with m.pipeline() as pipe:
        assert_type(pipe, Pipeline)
        calls = pipe(m.dict({"a": 1}))
        calls["a"] = 1
        calls["a"]
        calls.incr("a", 2)
        calls.incr(2)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        calls.no_such_method()  # type: ignore[attr-defined]  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]
        _ = "a" in calls  # type: ignore[operator]  # pyright: ignore[reportOperatorIssue]
        pipe(m.Counter()).value = 9
        pipe(m.Value("d", 0.5)).value = 1.5
        pipe(m.list([1])).append("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        pipe(m.Namespace()).x = 1
        pipe(m.Lock()).acquire()
        pipe(m.Condition()).notify()
        assert_type(pipe.execute(), list[Any])
        pipe(m.Journal("title")).note("text")
        pipe(m.Own("title")).note(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    fastmgr.oneway(m.Queue()).put(1)
    fastmgr.oneway(m.Event()).set()
    fastmgr.oneway(m.Counters(["ok"])).incr("ok")
    fastmgr.oneway(m.set({1})).add("a")  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def registered(m: Manager) -> None:
    assert_type(m.Journal("title"), Journal)
    assert_type(m.Journal("title").note("text", urgent=True), int)
    assert_type(m.Own("title"), JournalProxy)
    assert_type(m.Own("title").note("text"), int)
    m.Journal(1)  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


with Manager() as manager:
    assert_type(manager, Manager)
assert_type(Manager.from_address("/tmp/socket"), Manager)
assert_type(fastmgr.Manager(), SyncManager)
