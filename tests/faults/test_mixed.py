"""Clients of every kind at once, on the same counters, values and locks."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import random
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import managers as stock
from pathlib import Path
from typing import Any

import pytest
from support import (
    DEADLINE,
    KEY,
    Address,
    Script,
    in_thread,
    poll,
    process_gone,
    say,
    settle,
)
from support.forwarding import forwarder

import fastmgr
from fastmgr import managers

SECONDS = float(os.environ.get("FASTMGR_MIXED_SECONDS", "3"))

pytestmark = pytest.mark.timeout(120 + 2 * SECONDS)

PERMITS = 2
NAMES = ["local", "off", "tcp", "stock"]
PROXIES = {
    "Counter": "CounterProxy",
    "Counters": "CountersProxy",
    "Value": "ValueProxy",
    "Array": "ArrayProxy",
    "Lock": "AcquirerProxy",
    "RLock": "AcquirerProxy",
    "Semaphore": "AcquirerProxy",
    "Condition": "ConditionProxy",
    "Queue": None,
}
#: What a stock client has no proxy for, or one that knows less.
EXPOSED = {
    "Counter": ("get", "incr"),
    "Counters": ("__getitem__", "incr"),
    "Value": ("get", "set", "incr"),
    "Array": ("__getitem__", "__setitem__", "__len__", "incr"),
    "Queue": ("get", "put"),
}


def proxies_of(kind: str, address: Address, idents: dict[str, list[str]]) -> Any:
    """Proxies of what is shared, made as a client of that kind makes them."""
    module: Any = stock if kind == "stock" else managers
    made = {}
    for name, (typeid, ident) in idents.items():
        token = module.Token(typeid, address, ident)
        proxytype = getattr(module, PROXIES[typeid] or "", None)
        if kind == "stock" and typeid in EXPOSED:
            proxytype = stock.MakeProxyType(f"Stock{typeid}", EXPOSED[typeid])  # type: ignore[attr-defined]
        if proxytype is None:
            proxytype = module.AutoProxy
        made[name] = proxytype(token, "pickle", authkey=KEY)
    return made


class Client:
    """Works on all that is shared, and keeps account of it."""

    def __init__(self, kind: str, number: int, seed: str, shared: dict[str, Any]):
        self.kind = kind
        self.number = number
        self.chance = random.Random(f"{seed}/{kind}/{number}")
        self.shared = shared
        self.done = {"hits": 0, "items": 0, "sum": 0, "lock": 0, "rlock": 0, "condition": 0}
        self.permits = 0
        self.faults: list[str] = []

    def count(self) -> None:
        amount = self.chance.randrange(1, 5)
        before = self.shared["hits"].get()
        if self.shared["hits"].incr(amount) < before + amount:
            self.faults.append("a counter went back")
        self.shared["by_kind"].incr(self.kind, amount)
        self.done["hits"] += amount

    def item(self) -> None:
        at = self.chance.randrange(4)
        self.shared["items"].incr(at)
        self.done["items"] += 1

    def value(self) -> None:
        # By quarters, of which every sum is exact; ints and floats take turns in one word.
        amount = self.chance.choice([1, 0.25, 2.5])
        self.shared["sum"].incr(amount)
        self.done["sum"] += int(4 * amount)

    def enter(self, name: str) -> None:
        """What only who holds the lock may do: many steps that are one together."""
        shared, mine = self.shared, [self.kind, self.number]
        noted = shared[f"{name} holder"].get()
        if noted is not None:
            self.faults.append(f"{mine} has a {name} that {noted} holds")
        shared[f"{name} holder"].set(f"{self.kind} {self.number}")
        number = shared[f"{name} number"].get()
        shared[f"{name} number"].set(number + 1)
        if shared[f"{name} holder"].get() != f"{self.kind} {self.number}":
            self.faults.append(f"{mine} was joined under a {name}")
        shared[f"{name} holder"].set(None)
        self.done[name] += 1

    def locked(self) -> None:
        lock = self.shared["lock"]
        if self.chance.random() < 0.5:
            with lock:
                self.enter("lock")
        elif lock.acquire(True, 0.01):
            self.enter("lock")
            lock.release()

    def relocked(self) -> None:
        with self.shared["rlock"], self.shared["rlock"]:
            self.enter("rlock")

    def conditioned(self) -> None:
        condition = self.shared["condition"]
        with condition:
            self.enter("condition")
            if self.chance.random() < 0.2:
                condition.notify_all()
            elif self.chance.random() < 0.2:
                condition.wait(0.01)
                self.enter("condition")

    def permitted(self) -> None:
        with self.shared["semaphore"]:
            if self.shared["inside"].incr() > PERMITS:
                self.faults.append("too many have a permit")
            self.permits += 1
            self.shared["inside"].incr(-1)

    def run(self, going_on: Callable[[], bool]) -> None:
        deeds = [
            *[self.count, self.item, self.value] * 3,
            *[self.locked, self.relocked, self.permitted] * 2,
            self.conditioned,
        ]
        while going_on():
            self.chance.choice(deeds)()


def be_client(kind: str, address: Any, idents: dict[str, list[str]], seed: str) -> None:
    """Two threads of work of a kind, from one line to the next; what they did and saw."""
    multiprocessing.current_process().authkey = KEY
    if kind == "off":
        os.environ["FASTMGR_ARENA"] = "off"
    place = tuple(address) if isinstance(address, list) else address
    shared = proxies_of(kind, place, idents)
    assert stock.__name__ == "multiprocessing.managers" and not fastmgr.installed()
    say("ready")
    sys.stdin.readline()
    clients = [Client(kind, number, seed, shared) for number in range(2)]
    errors: list[str] = []
    stop = threading.Event()

    def work(client: Client) -> None:
        try:
            client.run(lambda: not stop.is_set())
        except BaseException as error:
            errors.append(repr(error))

    workers = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    for worker in workers:
        worker.start()
    sys.stdin.readline()
    stop.set()
    for worker in workers:
        worker.join(DEADLINE)
        if worker.is_alive():
            errors.append(f"{worker.name} is stuck")
    maps = Path("/proc/self/maps")
    say(
        {
            "done": [client.done for client in clients],
            "faults": errors + [fault for client in clients for fault in client.faults],
            "mapped": maps.exists() and "memfd:fastmgr" in maps.read_text(),
        }
    )
    sys.stdin.readline()


def tell(scripts: list[Script]) -> None:
    for script in scripts:
        script.tell("go on")


def test_clients_of_every_kind_at_once() -> None:
    """What one does is seen by all, nothing is counted twice, and a lock is one lock."""
    seed = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
    print(f"FASTMGR_SEED={seed} FASTMGR_MIXED_SECONDS={SECONDS:g}")
    manager = fastmgr.SyncManager(authkey=KEY)
    with manager, contextlib.ExitStack() as stack:
        shared: dict[str, Any] = {
            "hits": manager.Counter(),
            "by_kind": manager.Counters(NAMES),
            "items": manager.Array("q", [0] * 4),
            "sum": manager.Value("d", 0),
            "lock": manager.Lock(),
            "rlock": manager.RLock(),
            "condition": manager.Condition(),
            "semaphore": manager.Semaphore(PERMITS),
            "inside": manager.Counter(),
        }
        for name in ("lock", "rlock", "condition"):
            shared[f"{name} holder"] = manager.Value("O", None)
            shared[f"{name} number"] = manager.Value("q", 0)
        idents = {name: [proxy._token.typeid, proxy._token.id] for name, proxy in shared.items()}
        place = stack.enter_context(forwarder(manager.address))
        scripts = [
            stack.enter_context(
                Script(be_client, kind, place if kind == "tcp" else manager.address, idents, seed)
            )
            for kind in NAMES
        ]
        assert [script.line() for script in scripts] == ["ready"] * len(scripts)
        tell(scripts)
        # This process is one of them, and the clock.
        end = time.monotonic() + SECONDS
        mine = Client("local", 9, seed, shared)
        mine.run(lambda: time.monotonic() < end)
        tell(scripts)
        told = [script.line(2 * DEADLINE) for script in scripts]
        tell(scripts)
        for script in scripts:
            assert script.process.wait(DEADLINE) == 0
        assert [mine.faults, *(one["faults"] for one in told)] == [[]] * 5
        done = [mine.done, *(client for one in told for client in one["done"])]
        sums = {name: sum(one[name] for one in done) for name in mine.done}
        print({kind: one["done"] for kind, one in zip(NAMES, told, strict=True)}, mine.done)
        # Who found nothing to do has shown nothing.
        assert all(number for one in done for number in one.values()), done
        assert shared["hits"].get() == sums["hits"]
        by_kind = shared["by_kind"].as_dict()
        for kind, one in zip(NAMES, told, strict=True):
            own = sum(client["hits"] for client in one["done"])
            assert by_kind[kind] == own + (mine.done["hits"] if kind == "local" else 0)
        assert sum(shared["items"][:]) == sums["items"]
        assert 4 * shared["sum"].get() == sums["sum"]
        for name in ("lock", "rlock", "condition"):
            assert shared[f"{name} number"].get() == sums[name]
            assert shared[f"{name} holder"].get() is None
            assert in_thread(shared[name].acquire, True, DEADLINE)
        assert shared["inside"].get() == 0
        for _ in range(PERMITS):
            assert shared["semaphore"].acquire(True, DEADLINE)
        assert not shared["semaphore"].acquire(False)
        if sys.platform == "linux":
            assert [one["mapped"] for one in told] == [True, False, False, False]
        server = manager._process.pid
        settle(manager, len(shared))
        del mine, shared
        settle(manager, 0)
    poll(lambda: process_gone(server), "the server has ended")
