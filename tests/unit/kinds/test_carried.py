"""Values that need pickle are kept unread where they are only kept, and nobody can tell."""

from __future__ import annotations

import copy
import multiprocessing
import operator
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from typing import Any

import pytest
from fastmgr.kinds.queues import Queue
from support import DEADLINE, in_thread, poll
from support.carried import GHOSTS, CarriedManager, Client

import fastmgr
from fastmgr.kinds import rows
from fastmgr.kinds.containers import Namespace
from fastmgr.kinds.values import Value
from fastmgr.managers import RemoteError

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def shared_manager() -> Iterator[CarriedManager]:
    """Its server is a fresh interpreter: it has nothing that was made here."""
    with CarriedManager(ctx=multiprocessing.get_context("spawn")) as manager:
        yield manager


@pytest.fixture
def insight(manager: CarriedManager) -> Any:
    return manager.Insight()


# What is kept


def keep_default(method: str) -> Callable[[Any, Any], Any]:
    """`d.get(k, value)` and `d.pop(k, value)` keep nothing, and give the value back."""

    def put(proxy: Any, value: Any) -> None:
        result = getattr(proxy, method)("missing", value)
        assert result == value and type(result) is type(value)
        proxy["k"] = value

    return put


def put_in_place(proxy: Any, value: Any) -> None:
    proxy.append(0)
    proxy[-1] = value


def exchange_key(proxy: Any, value: Any) -> None:
    proxy["k"] = 0
    assert proxy.exchange("k", value) == 0


PUTS: dict[tuple[type, str], Callable[[Any, Any], Any]] = {
    (dict, "__setitem__"): lambda d, value: d.__setitem__("k", value),
    (dict, "exchange"): exchange_key,
    (dict, "get"): keep_default("get"),
    (dict, "pop"): keep_default("pop"),
    (dict, "setdefault"): lambda d, value: d.setdefault("k", value),
    (list, "__setitem__"): put_in_place,
    (list, "append"): lambda items, value: items.append(value),
    (list, "insert"): lambda items, value: items.insert(0, value),
    (Namespace, "__setattr__"): lambda ns, value: setattr(ns, "k", value),
    (Value, "exchange"): lambda v, value: v.exchange(value),
    (Value, "set"): lambda v, value: v.set(value),
    (Queue, "put"): lambda q, value: q.put(value, timeout=1),
    (Queue, "put_nowait"): lambda q, value: q.put_nowait(value),
    (Queue, "put_many"): lambda q, value: q.put_many([value]),
}


def waiting_getter(q: Any) -> Any:
    """Put what is taken out behind the back of one who waits for it."""
    with ThreadPoolExecutor(1) as waiter:
        value = q.get()
        future = waiter.submit(q.get)
        poll(lambda: q.qsize() == 0, "it is empty")
        q.put(value)
        return future.result(DEADLINE)


GETS: dict[type, dict[str, Callable[[Any], Any]]] = {
    dict: {
        "d[k]": lambda d: d["k"],
        "get": lambda d: d.get("k"),
        "setdefault": lambda d: d.setdefault("k", 0),
        "pop": lambda d: d.pop("k"),
        "popitem": lambda d: d.popitem()[1],
        "values": lambda d: d.values()[0],
        "items": lambda d: d.items()[0][1],
        "copy": lambda d: d.copy()["k"],
        "exchange": lambda d: d.exchange("k", 0),
        "_getvalue": lambda d: d._getvalue()["k"],
        "iteration": lambda d: next(d[k] for k in d),
        "dict": lambda d: dict(d)["k"],
        "deepcopy": lambda d: copy.deepcopy(d)["k"],
        "update": lambda d: (d.update(other=1), d["k"])[1],
        "del": lambda d: (d.__setitem__("l", d["k"]), d.__delitem__("k"), d["l"])[2],
    },
    list: {
        "l[i]": lambda items: items[0],
        "l[-1]": lambda items: items[-1],
        "l[i:j]": lambda items: items[0:1][0],
        "l[:]": lambda items: items[:][0],
        "l[::-1]": lambda items: items[::-1][0],
        "pop": lambda items: items.pop(),
        "pop(0)": lambda items: items.pop(0),
        "copy": lambda items: items.copy()[0],
        "_getvalue": lambda items: items._getvalue()[0],
        "iteration": lambda items: next(iter(items)),
        "list": lambda items: list(items).pop(),
        "deepcopy": lambda items: copy.deepcopy(items)[0],
        "reverse": lambda items: (items.extend([1, 2]), items.reverse(), items[-1])[2],
    },
    Namespace: {
        "ns.k": lambda ns: ns.k,
        "_getvalue": lambda ns: ns._getvalue().k,
        "__dict__": lambda ns: ns._callmethod("__getattribute__", ("__dict__",))["k"],
    },
    Value: {
        "get": lambda v: v.get(),
        "value": lambda v: v.value,
        "exchange": lambda v: v.exchange(0),
        "_getvalue": lambda v: v._getvalue().value,
    },
    Queue: {
        "get": lambda q: q.get(),
        "get_nowait": lambda q: q.get_nowait(),
        "get_many": lambda q: q.get_many(5)[0],
        "get(timeout)": lambda q: q.get(True, 5),
        "waiting": waiting_getter,
    },
}

MAKES: dict[type, Callable[[CarriedManager], Any]] = {
    dict: lambda manager: manager.dict(),
    list: lambda manager: manager.list(),
    Namespace: lambda manager: manager.Namespace(),
    Value: lambda manager: manager.Value("O", None),
    Queue: lambda manager: manager.Queue(),
}


def test_every_method_that_keeps_is_tested() -> None:
    assert PUTS.keys() == rows.KEPT_ARGUMENT.keys()
    assert {kind for kind, _ in PUTS} == GETS.keys() == MAKES.keys()


@pytest.mark.parametrize(
    ("kind", "method"), PUTS, ids=[f"{kind.__name__}.{method}" for kind, method in PUTS]
)
def test_what_is_kept_comes_back(
    kind: type,
    method: str,
    ghosts: Any,
    manager: CarriedManager,
    clients: Callable[[str], Client],
    insight: Any,
) -> None:
    """By every way of reading it, from where its class is unknown."""

    def play() -> None:
        for way, get in GETS[kind].items():
            proxy = MAKES[kind](manager)
            value = ghosts.Ghost(way, [(), {"a": b"b"}])
            PUTS[kind, method](proxy, value)
            found = get(proxy)
            assert type(found) is ghosts.Ghost and found == value, way

    clients("carrier")(play)
    assert not in_thread(insight.modules)


def test_the_loop_serves_it_all(
    ghosts: Any, manager: CarriedManager, clients: Callable[[str], Client], insight: Any
) -> None:
    """No connection gets a thread: its name would be that of the client's thread."""
    calm, reader = clients("calm"), clients("reader")
    names = in_thread(insight.threads)

    def play() -> list[Any]:
        kept = []
        for (kind, _), put in PUTS.items():
            proxy = MAKES[kind](manager)
            put(proxy, ghosts.Ghost("x"))
            kept.append((kind, proxy))
        return kept

    # Ways that lead to a pickle around the values, which is not made on the loop.
    elsewhere = {"_getvalue", "deepcopy", "dict"}

    def read(kept: list[Any]) -> None:
        for kind, proxy in kept:
            for way, get in GETS[kind].items():
                if way not in elsewhere and "pop" not in way and kind is not Queue:
                    get(proxy)
            if kind is Queue:
                assert proxy.get() == ghosts.Ghost("x")

    kept = calm(play)
    reader(read, kept)
    new = set(in_thread(insight.threads)) - set(names)
    assert not [name for name in new if "calm" in name or "reader" in name]
    # And this is how it would show.
    with pytest.raises(RemoteError):
        calm(kept[5][1].count, 1)
    assert [name for name in in_thread(insight.threads) if "calm" in name]


def test_many_clients_that_carry_need_no_threads(ghost: Any, manager: CarriedManager) -> None:
    probe, d = manager.Probe(), manager.dict()
    before = in_thread(probe.threads)
    start, done = threading.Barrier(41), threading.Barrier(41)

    def client(number: int) -> None:
        d[number] = ghost
        assert d[number] == ghost
        start.wait(DEADLINE)
        done.wait(DEADLINE)

    threads = [threading.Thread(target=client, args=(i,), daemon=True) for i in range(40)]
    for thread in threads:
        thread.start()
    start.wait(DEADLINE)
    assert in_thread(probe.threads) <= before + 2
    done.wait(DEADLINE)
    for thread in threads:
        thread.join(DEADLINE)
    assert d.copy() == dict.fromkeys(range(40), ghost)


def test_pipelines_and_one_way_calls_carry(
    ghost: Any, manager: CarriedManager, clients: Callable[[str], Client], insight: Any
) -> None:
    d, items, q = manager.dict(), manager.list(), manager.Queue()

    def play() -> None:
        with manager.pipeline() as pipe:
            for i in range(200):
                pipe(d)[i] = ghost
                pipe(items).append(ghost)
                pipe(q).put(ghost)
                pipe(d)[i]
                pipe(q).get()
            pipe(items)[:]
        assert pipe.results[3:-1:5] == pipe.results[4:-1:5] == pipe.results[-1] == [ghost] * 200
        fastmgr.oneway(d)["one way"] = ghost
        fastmgr.oneway(q).put(ghost)
        assert d["one way"] == ghost == q.get()

    clients("piping")(play)
    assert not [name for name in in_thread(insight.threads) if "piping" in name]
    assert not in_thread(insight.modules)


def test_what_is_kept_in_a_large_dict_comes_back(ghosts: Any, manager: CarriedManager) -> None:
    """Too large a reply for the compact encoding: pickle has to take them with the rest."""
    d = manager.dict()
    floats = [0.5] * 70_000  # two of these are too large, one is not
    for i in range(10):
        d[i] = ghosts.Ghost(i, bytes(70_000))
    d["one"] = d["two"] = floats
    found = d.copy()
    assert found["one"] == found["two"] == floats
    assert [found[i] for i in range(10)] == [ghosts.Ghost(i, bytes(70_000)) for i in range(10)]
    same = [1]
    d["same"] = [same, same]
    first, second = d.copy()["same"]
    assert first is second


# Methods that look


LOOKS: dict[type, dict[str, Callable[[Any], Any]]] = {
    dict: {
        "compare_exchange": lambda d: d.compare_exchange("k", 1, 2),
        "incr": lambda d: d.incr("k"),
        "incr another": lambda d: d.incr("plain"),
        "|": lambda d: d._callmethod("__or__", ({},)),
        "|=": lambda d: d._callmethod("__ior__", ({},)),
        "fromkeys": lambda d: d.fromkeys([1]),
    },
    list: {
        "index": lambda items: items.index(1),
        "count": lambda items: items.count(1),
        "in": lambda items: operator.contains(items, 1),
        "remove": lambda items: items.remove(1),
        "sort": lambda items: items.sort(),
        "+": lambda items: operator.add(items, []),
        "*": lambda items: items * 2,
        "*=": lambda items: items.__imul__(2),
        "reversed": lambda items: reversed(items),
        "incr": lambda items: items.incr(0),
    },
    Namespace: {"incr": lambda ns: ns.incr("k")},
    Value: {
        "incr": lambda v: v.incr(),
        "compare_exchange": lambda v: v.compare_exchange(1, 2),
    },
}
FILLS: dict[type, Callable[[Any, Any], Any]] = {
    dict: lambda d, value: (d.__setitem__("plain", 1), d.__setitem__("k", value)),
    list: lambda items, value: (items.append(value), items.append(1), items.append(value)),
    Namespace: lambda ns, value: setattr(ns, "k", value),
    Value: lambda v, value: v.set(value),
}
# Ways of reading that leave what they read.
STAY = {dict: "d[k]", list: "l[:]", Namespace: "ns.k", Value: "get"}
LOOKING = [(kind, way) for kind, ways in LOOKS.items() for way in ways]
EACH_LOOK = pytest.mark.parametrize(
    ("kind", "way"), LOOKING, ids=[f"{kind.__name__} {way}" for kind, way in LOOKING]
)


@EACH_LOOK
def test_a_method_that_looks_says_what_is_missing(
    kind: type, way: str, ghost: Any, manager: CarriedManager
) -> None:
    """And nothing is lost."""
    proxy = MAKES[kind](manager)
    FILLS[kind](proxy, ghost)
    before = GETS[kind][STAY[kind]](proxy)
    for _ in range(2):
        with pytest.raises(RemoteError, match=f"ModuleNotFoundError.*{GHOSTS}"):
            LOOKS[kind][way](proxy)
        assert GETS[kind][STAY[kind]](proxy) == before
        if kind is dict:
            assert proxy.items() == [("plain", 1), ("k", ghost)]
            proxy["plain"] = 1  # other values can still be put
        if kind is list:
            items_len = len(proxy)
            proxy.append(Fraction(1, 2))
            assert proxy.pop() == Fraction(1, 2) and len(proxy) == items_len


@EACH_LOOK
@pytest.mark.parametrize("dialect", ["fast", "stock"])
def test_a_failed_look_changes_nothing(
    kind: type, way: str, dialect: str, ghosts: Any, manager: CarriedManager
) -> None:
    """What was kept before is kept after, also beside values that the server can read."""
    proxy = MAKES[kind](manager)
    FILLS[kind](proxy, Fraction(1, 2))
    FILLS[kind](proxy, ghosts.Ghost(1))
    conn = manager._Client(manager.address, authkey=manager._authkey)
    fastmgr.dispatch(conn, None, "accept_connection", ("stock",))
    for i in range(3):
        with pytest.raises(RemoteError, match=GHOSTS):
            if dialect == "fast":
                LOOKS[kind][way](proxy)
            else:
                fastmgr.dispatch(conn, proxy._id, "incr", () if kind is Value else ("k",))
        FILLS[kind](proxy, ghosts.Ghost(i))
        assert (proxy[-1] if kind is list else GETS[kind][STAY[kind]](proxy)) == ghosts.Ghost(i)
    conn.close()


def test_a_failed_look_with_an_argument_of_a_class_changes_nothing(
    ghosts: Any, manager: CarriedManager
) -> None:
    items = manager.list()
    items.append(ghosts.Ghost(1))
    for i in range(2):
        with pytest.raises(RemoteError, match=GHOSTS):
            items.index(Fraction(1, 2))
        items.append(ghosts.Ghost(i))
    assert len(items) == 3


@pytest.mark.parametrize("kind", FILLS, ids=lambda kind: kind.__name__)
def test_what_cannot_be_read_can_still_be_shown(
    kind: type, ghost: Any, manager: CarriedManager
) -> None:
    proxy = MAKES[kind](manager)
    FILLS[kind](proxy, ghost)
    for _ in range(2):
        assert "pickled object" in str(proxy)
        assert type(proxy).__name__ in repr(proxy)
        assert "pickled object" in manager._debug_info()
        assert GETS[kind][STAY[kind]](proxy) in (ghost, [ghost, 1, ghost])


def test_an_argument_that_would_be_looked_at(ghost: Any, manager: CarriedManager) -> None:
    """Not the kept one: the method has to have it, and the call fails where it cannot be had."""
    d, items, q = manager.dict(a=1), manager.list([1]), manager.Queue()
    judge, plain_set = manager.Judge(), manager.set()
    calls: list[Callable[[], Any]] = [
        lambda: d.__setitem__(ghost, 1),
        lambda: d.get(ghost),
        lambda: d.update({"x": ghost}),
        lambda: d.update(x=ghost),
        lambda: d.compare_exchange("a", 1, ghost),
        lambda: d.fromkeys([1], ghost),
        lambda: items.extend([ghost]),
        lambda: items.__setitem__(slice(0, 1), [ghost]),
        lambda: items.count(ghost),
        lambda: operator.contains(items, ghost),
        lambda: q.put(item=ghost),
        lambda: q.put(1, True, ghost),
        lambda: plain_set.add(ghost),
        lambda: judge.kinds(ghost),
        lambda: manager.list([ghost]),
        lambda: manager.Value("O", ghost),
    ]
    for call in calls:
        with pytest.raises(RemoteError, match=GHOSTS):
            call()
    assert (d.copy(), items[:], q.qsize(), len(plain_set)) == ({"a": 1}, [1], 0, 0)


@EACH_LOOK
def test_a_method_that_looks_does_what_it_does_to_values(
    kind: type, way: str, manager: CarriedManager
) -> None:
    """As it does in this process."""
    here: Any = {
        dict: lambda: {"plain": 1, "k": Fraction(1, 2)},
        list: lambda: [Fraction(1, 2), 1, Fraction(1, 2)],
        Namespace: lambda: Namespace(k=Fraction(1, 2)),
        Value: lambda: Value("O", Fraction(1, 2)),
    }[kind]()
    proxy = MAKES[kind](manager)
    FILLS[kind](proxy, Fraction(1, 2))
    assert str(proxy) == repr(here)
    proxy = MAKES[kind](manager)
    FILLS[kind](proxy, Fraction(1, 2))
    result = LOOKS[kind][way](proxy)
    if "incr" in way:
        assert result == (2 if "another" in way else Fraction(3, 2))
    elif way == "compare_exchange":
        assert result is False
    elif way == "*=":
        assert proxy[:] == [Fraction(1, 2), 1, Fraction(1, 2)] * 2
    elif way == "|":
        assert result == here
    elif kind is list:
        expected = LOOKS[list][way](here)
        assert list(result) == list(expected) if way == "reversed" else result == expected
        assert proxy[:] == here
