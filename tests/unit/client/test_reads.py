"""What a client keeps of what it has read, and when it asks again."""

from __future__ import annotations

import contextlib
import gc
import mmap
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from multiprocessing import managers as stock
from typing import Any

import pytest
from support import DEADLINE, KEY, Script, in_thread, poll, say

import fastmgr
from fastmgr import managers
from fastmgr.client import fastchannel
from fastmgr.memory.segments import map_segment

MANY = 40


class Stats:
    """A user's object that counts how often it was read."""

    def __init__(self) -> None:
        self.value = self.reads = 0
        self.held = threading.Event()
        self.released = threading.Event()

    def get(self) -> int:
        self.reads += 1
        return self.value

    def size(self, unit: str) -> str:
        return f"{self.value} {unit}"

    def has(self, key: str) -> bool:
        self.reads += 1
        return key == ""

    def put(self, value: int) -> None:
        self.value = value

    def put_late(self, value: int, forks: bool = False) -> None:
        if forks and (pid := os.fork()):
            os.waitpid(pid, 0)
        elif forks:
            return  # the call ends in the child, too
        self.held.set()
        self.released.wait(DEADLINE)
        self.value = value

    def await_held(self) -> None:
        self.held.wait(DEADLINE)

    def let_go(self) -> None:
        self.released.set()

    def seen(self) -> int:
        return self.reads


class Items(dict[str, int]):
    """A user's dict."""


class Loose(Items):
    """A user's dict that says more than whether a key is there."""

    def __contains__(self, key: object) -> Any:
        return [self[str(key)]] if key in list(self) else []


class OwnServer(managers.Server):
    def take(self, conn: Any, ident: str, obj: Any) -> None:
        obj["taken"] = 1

    fallback_mapping = {**managers.Server.fallback_mapping, "take": take}  # noqa: RUF012


class OwnManager(managers.SyncManager):
    _Server = OwnServer


OwnManager.register("Stats", Stats, readers=["get", "size", "has"])
OwnManager.register("Plain", Stats)
OwnManager.register("Items", Items, managers.DictProxy, readers=["get"])
OwnManager.register("OtherItems", Items, managers.DictProxy, readers=["__getitem__"])
OwnManager.register("Loose", Loose, managers.DictProxy, readers=["__contains__"])
OwnManager.register("inner", None, managers.ListProxy)
OwnManager.register("outer", dict, managers.DictProxy, method_to_typeid={"get": "inner"})


@pytest.fixture(scope="module")
def manager() -> Iterator[Any]:
    made = OwnManager(authkey=KEY)
    with made:
        yield made


@contextlib.contextmanager
def stopped_server(manager: Any) -> Iterator[None]:
    """Nobody serves a call meanwhile: what returns has made none."""
    pid = manager._process.pid
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(autouse=True)
def keeping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(managers.BaseProxy, "_keeps", True)


def again(read: Callable[[], Any]) -> Any:
    """What is read often enough to be kept."""
    for _ in range(MANY):
        found = read()
    return found


READS: dict[str, tuple[str, Any, Callable[[Any], Any], Any]] = {
    "d[k]": ("dict", {"a": 1}, lambda d: d["a"], 1),
    "d[k], a list": ("dict", {"a": [1, {"b": 2}]}, lambda d: d["a"], [1, {"b": 2}]),
    "d.get": ("dict", {"a": "x"}, lambda d: d.get("a"), "x"),
    "d.get, no such key": ("dict", {}, lambda d: d.get("a"), None),
    "d.get, a default": ("dict", {}, lambda d: d.get("a", True), True),
    "k in d": ("dict", {"a": 1}, lambda d: "a" in d, True),
    "k not in d": ("dict", {"a": 1}, lambda d: "b" in d, False),
    "len(d)": ("dict", {"a": 1}, len, 1),
    "d.keys": ("dict", {"a": 1}, lambda d: list(d.keys()), ["a"]),
    "d.items": ("dict", {"a": 1}, lambda d: list(d.items()), [("a", 1)]),
    "d.copy": ("dict", {"a": 1}, lambda d: d.copy(), {"a": 1}),
    "d._getvalue": ("dict", {"a": 1}, lambda d: d._getvalue(), {"a": 1}),
    "str(d)": ("dict", {"a": 1}, str, "{'a': 1}"),
    "l[i]": ("list", [5, 6], lambda one: one[1], 6),
    "l[-i]": ("list", [5, 6], lambda one: one[-1], 6),
    "len(l)": ("list", [5, 6], len, 2),
    "x in l": ("list", [5, 6], lambda one: 5 in one, True),
    "l.index": ("list", [5, 6], lambda one: one.index(6), 1),
    "x in s": ("set", {5, 6}, lambda one: 5 in one, True),
    "len(s)": ("set", {5, 6}, len, 2),
    "ns.x": ("Namespace", {"x": (1, "y")}, lambda one: one.x, (1, "y")),
    "v.value": ("Value", "a text", lambda one: one.value, "a text"),
}


def made_by(manager: Any, typeid: str, value: Any) -> Any:
    if typeid == "Namespace":
        return manager.Namespace(**value)
    return manager.Value("O", value) if typeid == "Value" else getattr(manager, typeid)(value)


@pytest.mark.parametrize("name", READS)
def test_reads_without_a_call(manager: Any, name: str) -> None:
    typeid, value, read, expected = READS[name]
    proxy = made_by(manager, typeid, value)
    assert again(lambda: read(proxy)) == expected
    with stopped_server(manager):
        found = in_thread(read, proxy)
    assert found == expected and type(found) is type(expected)


def test_each_caller_has_a_value_of_its_own(manager: Any) -> None:
    shared = manager.dict({"a": [1], "t": ([1],)})
    for _ in range(MANY):
        shared["a"].append(2)
        shared["t"][0].append(2)
    assert shared["a"] == [1] and shared["t"] == ([1],)


CHANGES: dict[str, Callable[[Any], Any]] = {
    "setitem": lambda d: d.__setitem__("a", 2),
    "update": lambda d: d.update(a=2),
    "verb": lambda d: d.incr("a"),
    "in place": lambda d: d.__ior__({"a": 2}),
    "one-way": lambda d: fastmgr.oneway(d).update(a=2),
    "other thread": lambda d: in_thread(d.update, {"a": 2}),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(manager: Any, change: str) -> None:
    shared = manager.dict({"a": 1})
    assert again(lambda: (shared["a"], shared.get("a"))) == (1, 1)
    CHANGES[change](shared)
    assert (shared["a"], shared.get("a")) == (2, 2)


def test_a_pipeline_is_seen(manager: Any) -> None:
    shared = manager.dict({"a": 1})
    assert again(lambda: shared["a"]) == 1
    with manager.pipeline() as pipe:
        pipe(shared)["a"] = 2
    assert shared["a"] == 2


def test_values_that_equal_each_other_are_told_apart(manager: Any) -> None:
    shared = manager.dict({1: "one"})
    assert again(lambda: (shared[1], shared.get(2, 0), shared.get(2, False))) == ("one", 0, False)
    assert type(shared.get(2, 0)) is int and type(shared.get(2, False)) is bool
    assert shared[1.0] == shared[True] == "one"


def test_errors_are_raised_each_time(manager: Any) -> None:
    shared = manager.dict({"a": 1})
    for _ in range(MANY):
        with pytest.raises(KeyError):
            shared["b"]
    with pytest.raises(AttributeError):
        again(lambda: manager.Namespace().x)


def test_an_attribute_of_the_proxy_stays_its_own(manager: Any) -> None:
    shared = manager.Namespace(x=1, incr=5)
    assert again(lambda: shared._callmethod("__getattribute__", ("incr",))) == 5
    assert again(lambda: shared.x) == 1
    assert callable(shared.incr)


def test_a_value_that_is_replaced(manager: Any) -> None:
    shared = manager.Value("O", "one")
    other = manager.list([shared])[0]
    assert again(lambda: shared.value) == "one"
    other.value = "two"
    assert shared.value == "two"
    other.value = 3
    assert shared.value == 3


# Who else may change an object


def change_it(kind: str, address: Any, typeid: str, ident: str) -> None:
    multiprocessing.current_process().authkey = KEY
    module: Any = stock if kind == "stock" else managers
    if kind == "off":
        os.environ["FASTMGR_ARENA"] = "off"
    shared = module.DictProxy(module.Token(typeid, address, ident), "pickle", authkey=KEY)
    for number in range(2, 50):
        shared["a"] = number
        say(number)
        sys.stdin.readline()


@pytest.mark.parametrize("kind", ["local", "off", "stock"])
def test_another_process_changes_it(manager: Any, kind: str) -> None:
    shared = manager.dict({"a": 1})
    assert again(lambda: shared["a"]) == 1
    with Script(change_it, kind, manager.address, "dict", shared._token.id) as script:
        for number in range(2, 50):
            assert script.line() == number
            assert again(lambda: shared["a"]) == number
            script.tell("go on")
    again(lambda: shared["a"])
    with stopped_server(manager):
        assert in_thread(lambda: shared["a"]) == 49


def test_code_in_the_server_may_change_it(manager: Any) -> None:
    """A server of a user's gets hold of the object: nothing is kept from then on."""
    shared = manager.dict({"a": 1})
    assert again(lambda: (shared["a"], "taken" in shared)) == (1, False)
    shared._callmethod("take")
    assert "taken" in shared
    in_server = fastmgr.SyncManager(authkey=KEY).get_server()
    with contextlib.closing(in_server.listener):
        ident, _ = in_server.create(None, "dict", {"a": 1})
        assert in_server.id_to_obj[ident][0] == {"a": 1}


def test_what_a_method_shares_may_change_unseen(manager: Any) -> None:
    outer = manager.outer({"a": [1]})
    inner = outer.get("a")
    assert again(lambda: outer["a"]) == [1]
    inner.append(2)
    assert outer["a"] == [1, 2]


def test_pickled_values_end_it(manager: Any) -> None:
    shared = manager.dict({"a": 1})
    assert again(lambda: shared["a"]) == 1
    shared.update(b=Stats)
    shared["a"] = 2
    assert again(lambda: shared["a"]) == 2


# Users' types


def test_readers_of_a_users_type(manager: Any) -> None:
    shared = manager.Stats()
    assert again(shared.get) == 0
    assert again(lambda: shared.size("m")) == "0 m"
    reads = shared.seen()
    assert reads < MANY
    shared.put(7)
    assert (shared.get(), shared.size("m")) == (7, "7 m")


def test_other_users_types_get_every_call(manager: Any) -> None:
    shared = manager.Plain()
    again(shared.get)
    assert shared.seen() == MANY


def test_readers_must_be_names() -> None:
    with pytest.raises(TypeError, match="names in a list"):
        OwnManager.register("Wrong", Stats, readers="get")


def test_a_users_type_may_name_some_readers(manager: Any) -> None:
    for shared in manager.Items(a=1), manager.OtherItems(a=1):
        again(lambda shared=shared: (shared["a"], shared.get("a")))
        found = shared["a"], shared.get("a"), "a" in shared, len(shared), shared.get("b", 2)
        assert found == (1, 1, True, 1, 2)
        shared["a"] = 3
        assert (shared["a"], shared.get("a")) == (3, 3)


def test_whether_a_key_is_there_may_be_said_by_any_value(manager: Any) -> None:
    shared = manager.Loose(a=0)
    assert [("a" in shared, "b" in shared) for _ in range(MANY)] == [(True, False)] * MANY


@pytest.mark.parametrize("forks", [False, True])
def test_a_call_that_takes_long(manager: Any, forks: bool) -> None:
    """What is read while a call changes the object is not kept; it is kept afterwards.

    In the child of a fork of the server the same call ends, which is no news to clients.
    """
    shared = manager.Stats()
    writer = threading.Thread(target=shared.put_late, args=(7, forks))
    if forks:
        assert again(shared.get) == 0
    writer.start()
    shared.await_held()
    seen = shared.seen()
    assert again(shared.get) == 0
    assert shared.seen() == seen + MANY
    shared.let_go()
    writer.join(DEADLINE)
    assert shared.get() == 7
    for _ in range(20):
        assert again(shared.get) == 7
    assert shared.seen() < seen + 10 * MANY


def let_kill(address: Any, ident: str) -> None:
    multiprocessing.current_process().authkey = KEY
    shared = managers.MakeProxyType("StatsProxy", ("put_late",))(
        managers.Token("Stats", address, ident), "pickle", authkey=KEY
    )
    shared.put_late(7)


def test_a_writer_is_killed(manager: Any) -> None:
    """Its call goes on: who has read what was before then asks again."""
    shared = manager.Stats()
    assert again(shared.get) == 0
    with Script(let_kill, manager.address, shared._token.id) as script:
        shared.await_held()
        script.process.kill()
        script.process.wait(DEADLINE)
    assert again(shared.get) == 0
    shared.let_go()
    poll(lambda: shared.get() == 7, "the killed writer's call has ended")
    assert again(shared.get) == 7


class Counting(managers.DictProxy[str, int]):
    calls = 0

    def _callmethod(self, *args: Any, **kwds: Any) -> Any:
        self.calls += 1
        return super()._callmethod(*args, **kwds)


def test_a_proxy_type_that_wants_every_call(manager: Any) -> None:
    shared = manager.dict({"a": 1})
    mine = Counting(shared._token, "pickle", manager=manager, authkey=KEY)
    assert again(lambda: mine["a"]) == 1
    assert mine.calls == MANY


# Who may write to the words


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux can seal memory")
def test_no_client_can_write_to_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not with the descriptor that it was passed, nor by opening anew what that is of."""
    passed: dict[int, int] = {}

    def map_and_note(number: int, fd: int, *others: Any) -> Any:
        passed[number] = os.dup(fd)
        return map_segment(number, fd, *others)

    monkeypatch.setattr(fastchannel, "map_segment", map_and_note)
    with OwnManager(authkey=KEY) as manager:
        shared = manager.dict({"a": 1})
        assert again(lambda: shared["a"]) == 1
        words = passed[max(passed)]
        passed[-1] = os.open(f"/proc/self/fd/{words}", os.O_RDWR)
        for fd in (words, passed[-1]):
            with mmap.mmap(fd, 4096, prot=mmap.PROT_READ) as held:
                assert held[:8] != bytes(8)
            with pytest.raises(PermissionError):
                mmap.mmap(fd, 4096)
            with pytest.raises(PermissionError):
                os.pwrite(fd, bytes(8), 0)
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)
        # The others are for writing: the test would notice if nobody could.
        mmap.mmap(passed[0], 4096).close()
        for fd in passed.values():
            os.close(fd)


# When it ends


def test_the_object_goes(manager: Any) -> None:
    shared = manager.dict({"a": 1})
    loose = managers.DictProxy(shared._token, "pickle", authkey=KEY, incref=False)
    assert again(lambda: loose["a"]) == 1
    del shared
    gc.collect()
    manager.dict()  # the server has served the release before
    with pytest.raises(managers.RemoteError):
        loose["a"]
    others = [manager.dict({"a": 2}) for _ in range(3)]  # one of them gets the word
    assert [again(lambda one=one: one["a"]) for one in others] == [2] * 3
    with pytest.raises(managers.RemoteError):
        loose["a"]


@pytest.mark.parametrize("how", [signal.SIGKILL, None])
def test_the_server_goes(how: int | None) -> None:
    manager = fastmgr.SyncManager(authkey=KEY)
    manager.start()
    shared = manager.dict({"a": 1})
    assert again(lambda: shared["a"]) == 1
    if how is None:
        manager.shutdown()
    else:
        os.kill(manager._process.pid, how)
        manager._process.join(DEADLINE)
    with pytest.raises((OSError, EOFError)):
        shared["a"]


def test_a_fork_reads_on(manager: Any) -> None:
    shared = manager.dict({"a": 1})
    assert again(lambda: shared["a"]) == 1
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe()

    def child() -> None:
        theirs.send(shared["a"])
        theirs.recv()
        theirs.send((shared["a"], again(lambda: shared["a"])))

    process = context.Process(target=child)
    process.start()
    assert ours.recv() == 1
    shared["a"] = 2
    ours.send(None)
    assert ours.recv() == (2, 2)
    process.join(DEADLINE)
    assert process.exitcode == 0


def test_arena_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMGR_ARENA", "off")
    with OwnManager(authkey=KEY) as manager:
        shared = manager.Stats()
        again(shared.get)
        assert shared.seen() == MANY


def test_it_does_not_pay(manager: Any) -> None:
    """Who writes between two reads asks for nothing that is kept."""
    shared = manager.Stats()
    for number in range(400):
        shared.put(number)
        assert shared.get() == number
    assert shared.seen() == 400
    seen = []
    for _ in range(4):
        again(shared.get)
        again(shared.get)
        seen.append(shared.seen())
    assert again(shared.get) == 399


def test_much_is_read(manager: Any) -> None:
    """What is kept has a limit."""
    large = "x" * 200_000
    shared = manager.dict({str(i): large for i in range(20)})
    for _ in range(3):
        for i in range(20):
            assert again(lambda i=i: len(shared[str(i)])) == len(large)


def test_long_keys_count(manager: Any) -> None:
    shared = manager.Stats()
    again(lambda: shared.has(""))
    keys = [str(i) * 100_000 for i in range(40)]
    for _ in range(3):
        seen = shared.seen()
        assert not any(map(shared.has, keys))
    assert shared.seen() > seen + 20


def test_two_managers_of_one_process(manager: Any) -> None:
    with OwnManager(authkey=KEY) as other:
        one, two = manager.dict(a=0), other.dict(a=0)
        for number in range(1, 20):
            assert again(lambda: (one["a"], two["a"])) == (number - 1, number - 1)
            one["a"] = number
            assert (one["a"], two["a"]) == (number, number - 1)
            two["a"] = number
    with pytest.raises((OSError, EOFError)):
        two["a"]
    assert one["a"] == 19


def test_threads_read_and_write(manager: Any) -> None:
    shared = manager.dict({"a": 0})
    faults: list[Any] = []
    stop = threading.Event()

    def read() -> None:
        last = 0
        while not stop.is_set():
            found = shared["a"]
            if found < last:
                faults.append((last, found))
            last = found

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 300):
        shared["a"] = number
        if shared["a"] != number:
            faults.append(number)
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)
    assert faults == []
