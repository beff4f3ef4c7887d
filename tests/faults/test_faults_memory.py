"""The server's memory stays what it is while clients come, work and are killed."""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, connected, settle

import fastmgr

SECONDS = float(os.environ.get("FASTMGR_MEMORY_SECONDS", "4"))
CLIENTS = 4
KILLED = 0.7  # of the clients
#: Bytes by which the memory may differ between the middle and the end.
SLACK = 512 * 1024

pytestmark = [
    pytest.mark.timeout(120 + 2 * SECONDS),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
]


class Parcel:
    """A class that the server need not read."""

    def __init__(self, content: Any) -> None:
        self.content = content


class Work:
    """All sorts of things that a client does with what is its own and with what is shared."""

    def __init__(self, manager: ProbeManager, shared: dict[str, Any], chance: random.Random):
        self.manager, self.shared, self.chance = manager, shared, chance
        self.own: list[Any] = []

    def keep(self, proxy: Any) -> None:
        self.own.append(proxy)
        if len(self.own) > 30:
            del self.own[self.chance.randrange(30)]

    def containers(self) -> None:
        d = self.manager.dict(a=1)
        d.update({i: str(i) for i in range(self.chance.randrange(200))})
        d["parcel"] = Parcel(list(range(50)))
        d["list"] = self.manager.list([d["parcel"].content])
        assert d["list"][0][3] == 3
        assert "a" in [*d.keys()]
        self.keep(d)

    def numbers(self) -> None:
        counter, value = self.manager.Counter(), self.manager.Value("i", 0)
        array = self.manager.Array("d", [1.5] * self.chance.choice([1, 10, 1000, 40_000]))
        counter.incr()
        value.incr()
        array[-1] = 2.5
        self.shared["counters"].incr(self.chance.randrange(64))
        for proxy in (counter, value, array):
            self.keep(proxy)

    def waits(self) -> None:
        lock, queue = self.manager.Lock(), self.manager.Queue()
        with lock:
            queue.put(Parcel("x" * 100))
        assert queue.get().content[0] == "x"
        with contextlib.suppress(Exception):
            self.shared["queue"].get(timeout=0.001)
        if self.shared["queue"].qsize() < 100:
            self.shared["queue"].put(self.chance.random())
        with self.shared["lock"]:
            self.shared["namespace"].x = self.chance.random()
        self.shared["event"].wait(0.001)
        self.keep(lock)

    def users(self) -> None:
        tracked = self.manager.Tracked()
        self.keep(tracked)
        assert self.manager.Sleeper().echo([1, Parcel(2)])[0] == 1

    def bulk(self) -> None:
        with self.manager.pipeline() as pipe:
            calls = pipe(self.shared["dict"])
            for i in range(self.chance.randrange(300)):
                calls.incr(i % 50)
        oneway = fastmgr.oneway(self.shared["dict"])
        for i in range(self.chance.randrange(300)):
            oneway.incr(i % 50)
        with contextlib.suppress(fastmgr.OnewayError):
            oneway.pop("missing")
            self.shared["dict"].copy()
        self.manager.dict(x=bytes(self.chance.choice([100, 70_000, 1_000_000])))["x"]

    def run(self) -> None:
        deeds = [self.containers, self.numbers, self.waits, self.users, self.bulk]
        while True:
            self.chance.choice(deeds)()


def be_client(address: Any, shared: dict[str, Any], seed: str) -> None:
    """In a forked child: two threads of work, to the end."""
    chance = random.Random(seed)
    life = 0.02 + chance.random() / 3
    manager = connected(address)
    for number in range(2):
        work = Work(manager, shared, random.Random(f"{seed}/{number}"))
        threading.Thread(target=work.run, daemon=True).start()
    time.sleep(life)
    if chance.random() < KILLED:
        os.kill(os.getpid(), signal.SIGKILL)


def anonymous(pid: int) -> int:
    """The bytes of memory that are the process's own."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1]) * 1024


def test_memory_stays_while_clients_are_killed() -> None:
    seed = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
    print(f"FASTMGR_SEED={seed} FASTMGR_MEMORY_SECONDS={SECONDS:g}")
    context = __import__("multiprocessing").get_context("fork")
    with ProbeManager(authkey=KEY) as manager:
        server = manager._process.pid
        shared = {
            "counters": manager.Counters(64),
            "queue": manager.Queue(),
            "lock": manager.Lock(),
            "namespace": manager.Namespace(),
            "event": manager.Event(),
            "dict": manager.dict(),
        }
        samples: list[tuple[float, int]] = []
        begun, rounds = time.monotonic(), 0
        while (now := time.monotonic() - begun) < SECONDS or rounds < 9:
            clients = []
            for number in range(CLIENTS):
                clients.append(
                    context.Process(
                        target=be_client,
                        args=(manager.address, shared, f"{seed}/{rounds}/{number}"),
                    )
                )
                clients[-1].start()
            for client in clients:
                client.join(DEADLINE)
                assert client.exitcode in (0, -signal.SIGKILL)
            rounds += 1
            if rounds % 10 == 0:
                settle(manager, len(shared))
                samples.append((now, anonymous(server)))
                print(f"{now:7.1f} s {samples[-1][1] / 1e6:8.2f} MB", flush=True)
