"""What is measured: each case prepares shared objects and one operation on them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from legs import Leg

MEGABYTE = bytes(range(256)) * 4096
MESSAGE = 64
"""Bytes of a small call's request or reply in C: somewhat more than ours have."""
BATCH = 1000


@dataclass(frozen=True)
class Operation:
    """One operation, ready to run any number of times.

    `read` tells what the operation did, where its own result does not.
    """

    run: Callable[[], object]
    expected: object
    proxies: tuple[object, ...]
    read: Callable[[], object] | None = None

    def check(self, leg: Leg) -> None:
        """Make sure that the operation does what its case says, on this leg's proxies."""
        leg.assert_own(*self.proxies)
        result = self.run()
        if self.read is not None:
            result = self.read()
        assert result == self.expected


@dataclass(frozen=True)
class Case:
    """A name for files and command lines, a label for tables, and how to prepare.

    An operation takes this many calls; what C does instead has replies of this many bytes, or
    there is no such thing. Where operations are made in batches, running the case makes one batch.
    """

    name: str
    label: str
    prepare: Callable[[Any], Operation]
    calls: int = 1
    reply: int | None = MESSAGE
    batch: int = 1


CASES: dict[str, Case] = {}
"""Cases that can be timed and counted."""
TIMED: dict[str, Case] = {}
"""These, and batches, whose calls are too many to be counted one by one."""


def case(
    label: str, calls: int = 1, reply: int | None = MESSAGE, batch: int = 1
) -> Callable[[Callable[[Any], Operation]], Callable[[Any], Operation]]:
    """Add a case."""

    def add(prepare: Callable[[Any], Operation]) -> Callable[[Any], Operation]:
        added = Case(prepare.__name__, label, prepare, calls, reply, batch)
        TIMED[added.name] = added
        if batch == 1:
            CASES[added.name] = added
        return prepare

    return add


def calling(proxy: Any) -> Any:
    """Return a proxy that makes every call, where others return what they have read before."""
    proxy._keeps = False
    return proxy


@case("`d[k]`")
def dict_get(manager: Any) -> Operation:
    """Read an item of a shared dict."""
    shared = calling(manager.dict({"key": 1}))
    return Operation(lambda: shared["key"], 1, (shared,))


@case("`d[k]`, unchanged since the last time", reply=None)
def dict_kept(manager: Any) -> Operation:
    """Read an item of a shared dict that nobody has changed."""
    shared = manager.dict({"key": 1})
    return Operation(lambda: shared["key"], 1, (shared,))


@case("`d[k] = v`")
def dict_set(manager: Any) -> Operation:
    """Write an item of a shared dict."""
    shared = manager.dict({"key": 1})

    def run() -> None:
        shared["key"] = 2

    return Operation(run, 2, (shared,), read=lambda: shared["key"])


@case("`l[i]`")
def list_get(manager: Any) -> Operation:
    """Read an item of a shared list."""
    shared = manager.list(range(100))
    return Operation(lambda: shared[50], 50, (shared,))


@case("`v.get()`")
def value_get(manager: Any) -> Operation:
    """Read a shared value."""
    shared = manager.Value("i", 3)
    return Operation(shared.get, 3, (shared,))


@case("`v.set(x)`")
def value_set(manager: Any) -> Operation:
    """Write a shared value."""
    shared = manager.Value("i", 3)
    return Operation(lambda: shared.set(4), 4, (shared,), read=shared.get)


@case("`ns.x`")
def namespace_get(manager: Any) -> Operation:
    """Read an attribute of a shared namespace."""
    shared = calling(manager.Namespace(x=5))
    return Operation(lambda: shared.x, 5, (shared,))


@case("user's class, `AutoProxy`")
def user_auto(manager: Any) -> Operation:
    """Call a method of a user's object through the proxy class that the manager makes."""
    account = manager.AutoAccount()
    return Operation(lambda: account.deposit(6), 6, (account,))


@case("user's class, own proxy")
def user_own(manager: Any) -> Operation:
    """Call a method of a user's object through the user's own proxy class."""
    account = manager.Account()
    return Operation(lambda: account.deposit(7), 7, (account,))


@case("`lock.acquire(); lock.release()`", calls=2)
def lock(manager: Any) -> Operation:
    """Take a shared lock that nobody else wants, and give it back."""
    shared = manager.Lock()

    def run() -> Any:
        held = shared.acquire()
        shared.release()
        return held

    return Operation(run, True, (shared,))


@case("`q.put(x); q.get()`", calls=2)
def queue(manager: Any) -> Operation:
    """Put one object into a shared queue and take it out."""
    shared = manager.Queue()

    def run() -> Any:
        shared.put(8)
        return shared.get()

    return Operation(run, 8, (shared,))


@case("`event.is_set()`")
def event(manager: Any) -> Operation:
    """Ask whether a shared event is set."""
    shared = manager.Event()
    shared.set()
    return Operation(shared.is_set, True, (shared,))


@case("`d[k]`, 1 MB of bytes", reply=len(MEGABYTE))
def bytes_1mb(manager: Any) -> Operation:
    """Read a large value of a shared dict."""
    shared = manager.dict({"key": MEGABYTE})
    return Operation(lambda: shared["key"], MEGABYTE, (shared,))


@case("`d[a][b]`, nested dicts", calls=2)
def nested(manager: Any) -> Operation:
    """Read an item of a shared dict that is itself an item of a shared dict."""
    inner = manager.dict({"key": 9})
    outer = manager.dict({"inner": inner})
    return Operation(lambda: outer["inner"]["key"], 9, (outer, inner, outer["inner"]))


@case("`manager.dict()`, create and drop", calls=2)
def create(manager: Any) -> Operation:
    """Create a shared dict, ask for its length and drop it; nobody waits for the last."""
    return Operation(lambda: len(manager.dict()), 0, (manager, manager.dict()))


@case("`d.incr(k)`, pipelined", reply=None, batch=BATCH)
def pipeline(manager: Any) -> Operation:
    """Count in a shared dict, in one pipeline.

    Stock has no pipeline, and no call that reads, adds and writes: there the client, who is alone,
    knows the sum and writes it. That is one call for each step, where `d[k] += 1` would be two.
    """
    shared = manager.dict()

    def together() -> None:
        with manager.pipeline() as pipe:
            calls = pipe(shared)
            calls["key"] = 0
            for _ in range(BATCH):
                calls.incr("key")

    def one_by_one() -> None:
        shared["key"] = 0
        for number in range(BATCH):
            shared["key"] = number + 1

    run = together if hasattr(manager, "pipeline") else one_by_one
    return Operation(run, BATCH, (shared,), read=lambda: shared["key"])


CALLS = tuple(name for name in TIMED if name != "create")
CLIENTS = ("dict_get", "dict_set", "user_auto", "lock", "queue", "create")
