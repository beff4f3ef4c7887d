"""A program as one writes it for the stdlib's managers: the yardstick.

Each line that a type checker passes here it also passes when the imports are fastmgr's.
`make types` checks it as it is and with the imports replaced.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, MutableMapping, MutableSequence, Sequence
from multiprocessing import Manager
from multiprocessing.managers import (
    BaseManager,
    BaseProxy,
    DictProxy,
    ListProxy,
    Namespace,
    Server,
    SharedMemoryManager,
    SharedMemoryServer,
    SyncManager,
    Token,
    ValueProxy,
)
from multiprocessing.pool import Pool
from multiprocessing.shared_memory import ShareableList, SharedMemory
from typing import Any


class Journal:
    def note(self, text: str) -> int:
        return len(text)


class Remote(BaseManager):
    pass


class JournalProxy(BaseProxy):
    _exposed_ = ["note"]
    _method_to_typeid_ = {"note": "int"}

    def note(self, text: str) -> object:
        return self._getvalue()


class OtherProxy(BaseProxy):
    _exposed_: tuple[str, ...] = ("note",)


class Counts(DictProxy[str, int]):
    def total(self) -> int:
        return sum(self.values())


class CountingServer(Server):
    public = [*Server.public, "count"]

    def create(
        self, c: Any, typeid: str, /, *args: Any, **kwds: Any
    ) -> tuple[str, tuple[str, ...]]:
        return super().create(c, typeid, *args, **kwds)

    def count(self, c: Any) -> int:
        return len(self.id_to_obj)


class Counting(SyncManager):
    _Server = CountingServer


Remote.register("Journal", Journal, exposed=["note"], method_to_typeid={"note": "int"})
Counting.register("Counts", dict, proxytype=Counts)


def primitives(manager: SyncManager) -> None:
    lock: threading.Lock = manager.Lock()
    rlock: threading.RLock = manager.RLock()
    semaphore: threading.Semaphore = manager.Semaphore(2)
    bounded: threading.BoundedSemaphore = manager.BoundedSemaphore()
    condition: threading.Condition = manager.Condition(manager.Lock())
    event: threading.Event = manager.Event()
    barrier: threading.Barrier = manager.Barrier(2, lambda: None, 1.0)
    tasks: queue.Queue[int] = manager.Queue()
    joinable: queue.Queue[str] = manager.JoinableQueue(3)
    workers: Pool = manager.Pool(2)
    with lock, rlock, semaphore, bounded, condition:
        condition.wait_for(lambda: True, 1.0)
        condition.notify_all()
    semaphore.acquire(timeout=1.0)
    event.set()
    number: int = barrier.wait() + tasks.get() + len(joinable.get())
    workers.map(abs, [number])


def values(manager: SyncManager) -> None:
    count: ValueProxy[int] = manager.Value("i", 0)
    count.value += 1
    share: ValueProxy[float] = manager.Value("d", 0)
    share.set(share.get() / 2)
    sizes: Sequence[int] = manager.Array("i", [1, 2])
    first: int = sizes[0]
    print(first, [size + 1 for size in sizes], 3 in sizes, list(reversed(sizes)))
    namespace: Namespace = manager.Namespace()
    namespace.x = 1
    print(namespace.x)


def containers(manager: SyncManager) -> None:
    counts: DictProxy[str, int] = manager.dict()
    counts["a"] = counts.get("b", 0) + counts.pop("c")
    counts.update({"d": 1}, e=2)
    counts.setdefault("f", 3)
    keys: list[str] = counts.keys()
    pairs: list[tuple[str, int]] = counts.items()
    plain: dict[str, int] = counts.copy()
    keyed: DictProxy[str, int] = manager.dict(a=1)
    copied: DictProxy[int, str] = manager.dict({1: "a"})
    paired: DictProxy[int, str] = manager.dict([(1, "a")])
    mapping: MutableMapping[str, int] = counts
    nested: DictProxy[str, DictProxy[str, int]] = manager.dict()
    nested["a"] = manager.dict(b=1)
    nested["a"]["b"] += 1
    print(keys, pairs, plain, keyed, copied, paired, list(mapping))

    items: ListProxy[int] = manager.list()
    items += [1]
    items *= 2
    items.sort(key=lambda item: -item, reverse=True)
    items.sort()
    other: ListProxy[str] = manager.list("abc")
    sequence: MutableSequence[str] = other
    part: list[str] = other[1:]
    sequence[0] = part[0]
    del other[0]
    part_of = items[1:]
    print(items + part_of, 3 in items, [item + 1 for item in items], reversed(other))


def managers() -> Iterator[SyncManager]:
    with Manager() as manager:
        yield manager
    with SyncManager(("localhost", 0), b"key", ctx=None) as manager:
        yield manager
    manager = SyncManager(authkey=b"key")
    manager.start(print, ["started"])
    manager.shutdown()
    manager.join(1.0)
    server: Server = manager.get_server()
    server.serve_forever()


def remote(token: Token) -> None:
    manager = Remote(address="/tmp/socket", authkey=b"key", serializer="pickle")
    manager.connect()
    proxy = BaseProxy(token, "pickle", manager=manager, authkey=b"key", exposed=("note",))
    proxy._callmethod("note", ("text",))
    print(proxy._getvalue(), manager.address)


def memory() -> None:
    with SharedMemoryManager() as manager:
        block: SharedMemory = manager.SharedMemory(10)
        items: ShareableList[int] = manager.ShareableList([1, 2])
        print(block.name, items[0])
    server: SharedMemoryServer = SharedMemoryManager().get_server()
    print(server.address)
