"""The server's memory stays what it is while clients come, work and are killed."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import multiprocessing
import os
import platform
import random
import re
import signal
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, SANITIZED, ProbeManager, connected, settle, together

import fastmgr

SECONDS = float(os.environ.get("FASTMGR_MEMORY_SECONDS", "4"))
CLIENTS = 4
KILLED = 0.7  # of the clients
#: By how much the second and the last third of the time may differ, in the median. What is in the
#: queue and the caches of the interpreter varies; bytes vary with the order of things.
BLOCKS = 4000
BYTES = 1024 * 1024 if SECONDS > 60 else 4 * 1024 * 1024

pytestmark = [
    pytest.mark.timeout(120 + 2 * SECONDS),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.skipif(SANITIZED, reason="the sanitizer's allocator keeps what was freed"),
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

    def run(self, over: threading.Event) -> None:
        """Work until it is over; what fails before that fails the process."""
        deeds = [self.containers, self.numbers, self.waits, self.users, self.bulk]
        try:
            while True:
                self.chance.choice(deeds)()
                self.shared["deeds"].incr()
        except BaseException:
            if not over.is_set():
                traceback.print_exc()
                os._exit(3)


def be_client(address: Any, shared: dict[str, Any], seed: str) -> None:
    """In a forked child: two threads of work, to the end."""
    chance = random.Random(seed)
    life = 0.02 + chance.random() / 3
    manager = connected(address)
    over = threading.Event()
    for number in range(2):
        work = Work(manager, shared, random.Random(f"{seed}/{number}"))
        threading.Thread(target=work.run, args=(over,), daemon=True).start()
    time.sleep(life)
    over.set()
    if chance.random() < KILLED:
        os.kill(os.getpid(), signal.SIGKILL)


class Meter:
    """What the server has of memory."""

    def read(self) -> tuple[int, int]:
        """Objects' blocks, and bytes that are the process's own."""
        gc.collect()
        found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
        assert found
        return sys.getallocatedblocks(), int(found[1]) * 1024

    def heaps(self) -> int:
        """How many heaps glibc has made for the threads."""
        libc = ctypes.CDLL(None)
        libc.fopen.restype = ctypes.c_void_p
        with tempfile.NamedTemporaryFile("r") as file:
            stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
            libc.malloc_info(0, stream)
            libc.fclose(stream)
            return file.read().count("<heap nr=")


class MeteredManager(ProbeManager):
    """With a look at the server's memory."""


MeteredManager.register("Meter", Meter)


def test_memory_stays_while_clients_are_killed() -> None:
    """Flat: the last third of the time needs no more than the one before it."""
    seed = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
    print(f"FASTMGR_SEED={seed} FASTMGR_MEMORY_SECONDS={SECONDS:g}")
    fork, spawn = multiprocessing.get_context("fork"), multiprocessing.get_context("spawn")
    with MeteredManager(authkey=KEY, ctx=spawn) as manager:
        meter = manager.Meter()
        shared = {
            "counters": manager.Counters(64),
            "queue": manager.Queue(),
            "lock": manager.Lock(),
            "namespace": manager.Namespace(),
            "event": manager.Event(),
            "dict": manager.dict(),
            "deeds": manager.Counter(),
        }
        samples: list[tuple[int, int]] = []
        begun = time.monotonic()
        while (now := time.monotonic() - begun) < SECONDS or len(samples) < 9:
            clients = [
                fork.Process(
                    target=be_client, args=(manager.address, shared, f"{seed}/{len(samples)}/{i}")
                )
                for i in range(CLIENTS)
            ]
            for client in clients:
                client.start()
            for client in clients:
                client.join(DEADLINE)
                assert client.exitcode in (0, -signal.SIGKILL)
            settle(manager, len(shared) + 1)
            samples.append(meter.read())
            if len(samples) % 20 == 0:
                blocks, memory = samples[-1]
                print(f"{now:7.1f} s {blocks} blocks {memory / 1e6:.2f} MB", flush=True)
        assert shared["deeds"].incr() > len(samples)
        third = len(samples) // 3
        for what, slack, one in (
            ("blocks", BLOCKS, [blocks for blocks, _ in samples]),
            ("bytes", BYTES, [memory for _, memory in samples]),
        ):
            before, after = sorted(one[third : 2 * third]), sorted(one[2 * third :])
            rise = after[len(after) // 2] - before[len(before) // 2]
            print(f"{what}: {before[len(before) // 2]} and then {rise:+}")
            assert rise < slack, f"{rise} more {what}"


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="looks into its heaps")
def test_threads_of_a_server_share_a_heap(monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each grows by what is free in it and never goes back."""
    monkeypatch.delenv("MALLOC_ARENA_MAX", raising=False)
    with MeteredManager(authkey=KEY, ctx=multiprocessing.get_context("spawn")) as manager:
        meter, sleeper = manager.Meter(), manager.Sleeper()
        together(6, lambda i: [sleeper.echo("x" * 1000 * i) for _ in range(20)])
        assert meter.heaps() == 1
