"""A client that writes anything into the memory it shares spoils numbers, and nothing else.

``FASTMGR_SCRIBBLES=200`` has it write in 200 rounds instead of a few.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import pickle
import queue
import random
import select
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    ProbeManager,
    RawPeer,
    Script,
    connected,
    in_thread,
    poll,
    rss_bytes,
    say,
)
from support.places import with_ring

from fastmgr import managers
from fastmgr.managers import Token

pytestmark = [
    pytest.mark.timeout(90),
    pytest.mark.skipif(sys.platform != "linux", reason="finds the memory in /proc"),
]

ROUNDS = int(os.environ.get("FASTMGR_SCRIBBLES", "3"))
MOST_GROWTH = 48 << 20
#: What others may meet: numbers that are wrong, and locks that nobody or somebody else has.
SPOILT = (OverflowError, RuntimeError, ValueError, TypeError, queue.Empty, queue.Full)

OBJECTS: list[tuple[str, tuple[Any, ...]]] = [
    ("Lock", ()), ("RLock", ()), ("Semaphore", (3,)), ("Semaphore", (70,)),
    ("BoundedSemaphore", (2,)), ("Event", ()), ("Counter", (5,)), ("Counters", (["a", "b"],)),
    ("Counters", (9,)), ("Value", ("i", 7)), ("Value", ("i", {"a": 1})),
    ("Queue", ()), ("Queue", (5,)), ("Array", ("q", [1, 2, 3])), ("Array", ("B", bytes(300_000))),
]  # fmt: skip
CONTENDED, OWNER_DIED, LOCAL = 1 << 63, 1 << 62, 1 << 55
NASTY = [
    0, 1, 2, 2**64 - 1, 2**63 - 1, CONTENDED, OWNER_DIED, CONTENDED | OWNER_DIED, LOCAL, LOCAL | 1,
    CONTENDED | LOCAL | 1, 2**56 - 1,
    *((tag << 48) + rest for tag in range(0xFFF0, 0x10000) for rest in (0, 1, 2, 3, 2**48 - 1)),
    # Owners: threads of the first sessions, with and without somebody who waits.
    *((flag | session << 24 | thread)
      for flag in (0, CONTENDED, OWNER_DIED) for session in range(1, 6) for thread in (0, 1, 2)),
]  # fmt: skip


@pytest.fixture
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


def proxy_of(address: Any, typeid: str, ident: str) -> Any:
    proxytype = managers.SyncManager._registry[typeid][3]
    return proxytype(Token(typeid, address, ident), "pickle", authkey=KEY)


def touch(proxy: Any, typeid: str) -> None:
    """Have the object's cell mapped."""
    look: Callable[[], Any] = {
        "Event": lambda: proxy.is_set(), "Counter": lambda: proxy.get(),
        "Counters": lambda: proxy.snapshot(), "Value": lambda: proxy.get(),
        "Array": lambda: proxy[0], "Queue": lambda: with_ring(proxy),
    }.get(typeid, lambda: proxy.owner_died)  # fmt: skip
    look()


def arena_ranges() -> list[tuple[int, int]]:
    """Where this process has memory that it shares: from, bytes."""
    found = []
    for line in Path("/proc/self/maps").read_text().splitlines():
        if "memfd:fastmgr" in line:
            start, end = (int(part, 16) for part in line.split()[0].split("-"))
            found.append((start, end - start))
    return found


def scribble(address: Any, objects: list[tuple[str, str]], seed: int) -> None:
    """Map all, and write: a round for each line that is read."""
    rng = random.Random(seed)
    kept = [proxy_of(address, typeid, ident) for typeid, ident in objects]
    for proxy, (typeid, _) in zip(kept, objects, strict=True):
        touch(proxy, typeid)
    ranges = arena_ranges()
    say(len(ranges))

    def write_some() -> None:
        for start, size in ranges:
            # What is in use is at the beginning.
            words = min(size, rng.choice([64, 4096, 65536])) // 8
            for _ in range(200):
                word = rng.choice(NASTY) if rng.random() < 0.7 else rng.getrandbits(64)
                ctypes.c_uint64.from_address(start + 8 * rng.randrange(words)).value = word
        if rng.random() < 0.3:
            start, size = rng.choice(ranges)
            size = min(size, 8192)
            pattern = struct.pack("<Q", rng.choice(NASTY)) * (size // 8)
            ctypes.memmove(start, pattern, size)

    while sys.stdin.readline():
        said = threading.Event()
        timer = threading.Timer(0.25, said.set)
        timer.start()
        while not said.is_set():
            write_some()
        say("written")


def calls_of(proxy: Any, typeid: str) -> list[Callable[[], Any]]:
    """All that can be asked of an object without waiting for long."""
    call = proxy._callmethod
    if typeid == "Event":
        return [proxy.is_set, proxy.set, lambda: proxy.wait(0.001), proxy.clear,
                lambda: call("is_set")]  # fmt: skip
    if typeid == "Counter":
        return [proxy.incr, lambda: proxy.decr(3), proxy.get, lambda: proxy.set(1),
                lambda: proxy.compare_exchange(1, 2), lambda: call("incr", (1,)),
                lambda: call("get"), lambda: str(proxy), proxy._getvalue]  # fmt: skip
    if typeid == "Counters":
        first = proxy.keys()[0]
        return [lambda: proxy.incr(first), lambda: proxy[first], proxy.snapshot, proxy.as_dict,
                lambda: call("snapshot"), lambda: call("exchange", (first, 4)),
                lambda: str(proxy)]  # fmt: skip
    if typeid == "Value":
        return [proxy.get, lambda: proxy.set({"b": 2}), lambda: proxy.set(5), proxy.incr,
                lambda: proxy.exchange([1]), lambda: proxy.exchange(None),
                lambda: proxy.compare_exchange(None, 3), lambda: call("get"),
                lambda: call("exchange", (6,)), lambda: call("incr", (1,)),
                lambda: str(proxy), proxy._getvalue]  # fmt: skip
    if typeid == "Array":
        return [lambda: proxy[0], lambda: len(proxy), lambda: proxy.incr(1), lambda: proxy[:3],
                lambda: proxy.__setitem__(0, 9), lambda: call("__getitem__", (0,)),
                lambda: call("incr", (1, 1)), lambda: call("__len__")]  # fmt: skip
    if typeid == "Queue":
        return [lambda: proxy.put_nowait((1, "two")), lambda: proxy.get_nowait(), proxy.qsize,
                lambda: proxy.put(3, True, 0.001), lambda: proxy.get(True, 0.001), proxy.full,
                lambda: call("put", (4, False)), lambda: call("get", (False,)), proxy.task_done,
                lambda: call("qsize"), lambda: str(proxy)]  # fmt: skip
    return [lambda: proxy.acquire(False), lambda: proxy.acquire(True, 0.001), proxy.release,
            proxy.locked, lambda: proxy.owner_died, proxy.consistent,
            lambda: call("acquire", (False,)), lambda: call("acquire", (True, 0.001)),
            lambda: call("release"), lambda: call("locked")]  # fmt: skip


def use(address: Any, objects: list[tuple[str, str]], off: bool) -> None:
    """Call everything, over and over, a pass for each line that is read."""
    if off:
        os.environ["FASTMGR_ARENA"] = "off"
    rng = random.Random(1)
    every = [
        call
        for typeid, ident in objects
        for call in calls_of(proxy_of(address, typeid, ident), typeid)
    ]
    say("ready")
    while sys.stdin.readline():
        count = 0
        while not select.select([sys.stdin], [], [], 0)[0]:
            for call in rng.sample(every, len(every)):
                with contextlib.suppress(*SPOILT):
                    call()
                count += 1
            if count > 2000:
                break
        say(count)


def stock_pass(raw: RawPeer, objects: list[tuple[str, str]]) -> None:
    """A stock client's calls: each is answered."""
    methods = {
        "Event": [("is_set",), ("set",), ("clear",)], "Counter": [("incr", 1), ("get",)],
        "Counters": [("snapshot",)], "Value": [("get",), ("set", "x"), ("incr",), ("set", 3)],
        "Array": [("__getitem__", 0), ("incr", 1)],
        "Queue": [("put", 1, False), ("get", False), ("qsize",), ("task_done",)],
    }  # fmt: skip
    for typeid, ident in objects:
        for name, *args in methods.get(typeid, [("acquire", False), ("release",), ("locked",)]):
            kind, _ = raw.call(ident, name, *args)
            assert kind in ("#RETURN", "#ERROR"), kind


def tell(script: Script) -> None:
    script.tell()


def test_a_scribbler_hurts_numbers_alone(manager: ProbeManager) -> None:
    kept = [getattr(manager, typeid)(*args) for typeid, args in OBJECTS]
    objects = [(typeid, proxy._token.id) for (typeid, _), proxy in zip(OBJECTS, kept, strict=True)]
    safe = manager.dict(a=1)
    with contextlib.ExitStack() as stack:
        scribbler = stack.enter_context(Script(scribble, manager.address, objects, 3))
        assert scribbler.line() >= 3
        users = [
            stack.enter_context(Script(use, manager.address, objects, off)) for off in (True, False)
        ]
        raw = stack.enter_context(RawPeer(manager.address))
        raw.login(KEY)
        raw.call(None, "accept_connection", "by hand")
        for user in users:
            assert user.line() == "ready"
        server = manager._process.pid
        grown: list[int] = []
        for number in range(ROUNDS):
            tell(scribbler)
            for user in users:
                tell(user)
            stock_pass(raw, objects)
            assert safe.incr("a") == number + 2
            assert scribbler.line() == "written"
            for user in users:
                assert user.line() > 0
            grown.append(rss_bytes(server))
        assert grown[-1] - grown[0] < MOST_GROWTH
        # Whoever comes now is served as if nothing had been.
        fresh = connected(manager.address)
        lock, value = fresh.Lock(), fresh.Value("i", "text")
        assert (lock.acquire(), lock.acquire(False), value.get()) == (True, False, "text")
        assert raw.call(lock._token.id, "release") == ("#RETURN", None)
        counter = fresh.Counter(1)
        assert (counter._callmethod("incr"), counter._callmethod("get")) == (2, 2)
        for user in users:
            user.finish()
        scribbler.finish()
    del kept, lock, value, counter
    process = manager._process
    manager.shutdown()
    assert process.exitcode == 0


def test_a_lock_that_was_spoilt_hangs_nobody_who_sets_a_limit(manager: ProbeManager) -> None:
    """Every word that there is, in every slot, and each call comes back."""
    proxies = [
        (typeid, getattr(manager, typeid)(*args))
        for typeid, args in OBJECTS
        if typeid not in ("Array", "Event")
    ]
    for typeid, proxy in proxies:
        touch(proxy, typeid)
    ranges = [(start, size) for start, size in arena_ranges() if size == 1 << 20]
    for word in NASTY:
        for start, _ in ranges:
            ctypes.memmove(start, struct.pack("<Q", word) * 512, 4096)
        for typeid, proxy in proxies:
            for call in calls_of(proxy, typeid):
                with contextlib.suppress(*SPOILT):
                    call()
    assert manager.list([1])[0] == 1


def occupy(address: Any, ident: str) -> None:
    """Take every permit again and again, faster than anybody can give them back."""
    semaphore = proxy_of(address, "Semaphore", ident)
    assert semaphore.acquire(False)
    words = 0x7F << 24
    (start,) = [start for start, size in arena_ranges() if size == 1 << 20]
    pattern = struct.pack("<Q", words) * 64
    say("ready")
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    while not stop.is_set():
        for _ in range(1000):
            ctypes.memmove(start, pattern, 512)
    say("ended")


def test_many_permits_are_given_back_in_few_steps(manager: ProbeManager) -> None:
    """However many a client says, and whatever is written meanwhile, others are served."""
    semaphore, values = manager.Semaphore(64), manager.list([0])
    with Script(occupy, manager.address, semaphore._token.id) as script:
        assert script.line() == "ready"
        in_thread(lambda: semaphore._callmethod("release", (2**61,)))
        assert in_thread(lambda: values[0]) == 0
        tell(script)
        assert script.line() == "ended"


# What is to be seen


def everything_mapped() -> bytes:
    return b"".join(ctypes.string_at(start, size) for start, size in arena_ranges())


def look(address: Any, objects: list[tuple[str, str]]) -> None:
    """For each line that is read: which of the words in it are anywhere in the memory."""
    kept = [proxy_of(address, typeid, ident) for typeid, ident in objects]
    for proxy, (typeid, _) in zip(kept, objects, strict=True):
        touch(proxy, typeid)
    say("ready")
    while line := sys.stdin.readline():
        seen = everything_mapped()
        say([word for word in line.split() if bytes.fromhex(word) in seen])


def test_only_what_is_in_cells_is_in_memory(manager: ProbeManager) -> None:
    number, other = 0x5EC2E7_0DDBA11, 0x5EC2E7_CAFE
    counter, value = manager.Counter(number), manager.Value("i", 1)
    holders = [manager.Value("i", "a secret text"), manager.dict(k="a secret item")]
    holders += [manager.Namespace(x=["secret list"]), manager.Queue(), manager.Lock()]
    holders[3].put(("secret in a queue", 5))
    secrets = [
        KEY, b"a secret", b"secret list", b"secret in a queue", b"another secret",
        pickle.dumps({"secret": 1}), b"fastmgr", manager.address.encode(),
        struct.pack("<q", other),
    ]  # fmt: skip
    objects = [("Counter", counter._token.id), ("Value", value._token.id)]
    objects += [("Value", holders[0]._token.id), ("Lock", holders[4]._token.id)]
    public = struct.pack("<q", number)
    with Script(look, manager.address, objects) as script:
        assert script.line() == "ready"

        def seen(*words: bytes) -> list[bytes]:
            script.tell(" ".join(word.hex() for word in words))
            return [bytes.fromhex(word) for word in script.line()]

        assert seen(public, *secrets) == [public]
        value.set({"secret": 1})
        holders[0].set("another secret")
        assert value.get() == {"secret": 1}
        hidden = manager.Counter(other)  # nobody on the host has asked for it
        assert seen(public, *secrets) == [public]
        assert hidden._callmethod("get") == other
        # What was in a cell is gone with it.
        passing = manager.Counter(other)
        passing.incr()
        assert seen(struct.pack("<q", other + 1)) == [struct.pack("<q", other + 1)]
        passing.set(other)
        assert seen(*secrets) == [struct.pack("<q", other)]
        del passing
        poll(lambda: not seen(struct.pack("<q", other)), "the cell is wiped")
        rows = [manager.Counters([f"n{i}" for i in range(100)]) for _ in range(20)]
        for row in rows:
            row["n99"] = other
        assert seen(struct.pack("<q", other))
        del rows, row
        poll(lambda: not seen(struct.pack("<q", other)), "the cells are wiped")
        array = manager.Array("B", b"in an array" * 1000)
        assert array[0] == ord("i")
        assert seen(b"in an array", b"n99") == [b"in an array"]
        del array
        poll(lambda: not seen(b"in an array"), "the array is wiped")
        script.finish(DEADLINE)
