"""No client ever reads what is older than a write that has returned, whoever wrote it.

Clients of ours, one by TCP, one without shared memory, one of the stdlib's, code in the server and
children of a fork that are killed at any moment write numbers and read.

``FASTMGR_COHERENCE_SECONDS=3600`` has it look for an hour instead of a few seconds.
"""

from __future__ import annotations

import contextlib
import mmap
import multiprocessing
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable
from multiprocessing import managers as stock
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, Script, say
from support.forwarding import forwarder

import fastmgr
from fastmgr import managers

SECONDS = float(os.environ.get("FASTMGR_COHERENCE_SECONDS", "4"))

pytestmark = pytest.mark.timeout(120 + 2 * SECONDS)

KINDS = ["local", "other", "off", "tcp", "stock", "killed"]
#: Each thread writes under a key of its own, in each object.
KEYS = 2 * len(KINDS)
OBJECTS = ("dict", "lists", "namespace", "list", "users")


class Board:
    """A user's object: what was noted under each key, the largest number."""

    def __init__(self) -> None:
        self.notes = {f"k{key}": 0 for key in range(KEYS)}
        self.lock = threading.Lock()

    def note(self, key: str, number: int) -> None:
        with self.lock:
            # Half a change, while other threads of the server may read.
            before, self.notes[key] = self.notes[key], -1
            time.sleep(0)
            self.notes[key] = max(before, number)
            # The change is there to be seen, and its call under way, while clients read and tell.
            time.sleep(0.001 if number % 2 == 0 else 0)

    def of(self, key: str) -> int:
        while (number := self.notes[key]) < 0:
            time.sleep(0)
        return number


class Writer:
    """Code in the server, which has a proxy of what it writes to."""

    def __init__(self, shared: Any) -> None:
        self.shared = shared

    def write(self, key: str, number: int) -> None:
        self.shared[key] = number


class BoardManager(managers.SyncManager):
    pass


BoardManager.register("Board", Board, readers=["of"])
BoardManager.register("Writer", Writer)


def proxies_of(module: Any) -> dict[str, Any]:
    return {
        "dict": module.DictProxy, "lists": module.DictProxy, "namespace": module.NamespaceProxy,
        "list": module.ListProxy, "users": module.MakeProxyType("BoardProxy", ("note", "of")),
        "writer": module.MakeProxyType("WriterProxy", ("write",)),
    }  # fmt: skip


class Known:
    """For each object and key the number that any client has read, or written and been told so."""

    def __init__(self, path: str) -> None:
        with open(path, "r+b") as file:
            self.map = mmap.mmap(file.fileno(), 0)
        self.numbers = memoryview(self.map).cast("q")

    def note(self, name: str, key: int, number: int) -> None:
        at = OBJECTS.index(name) * KEYS + key
        if self.numbers[at] < number:  # may be lost to another's older: it only asks for less
            self.numbers[at] = number

    def at_least(self, name: str, key: int) -> int:
        return self.numbers[OBJECTS.index(name) * KEYS + key]


class Client:
    def __init__(self, number: int, seed: str, shared: dict[str, Any], known: Known) -> None:
        self.number = number
        self.chance = random.Random(f"{seed}/{number}")
        self.shared = shared
        self.known = known
        self.last = dict.fromkeys(OBJECTS, 0)
        self.reads = self.writes = 0
        self.faults: list[str] = []

    def write(self) -> None:
        name, key = self.chance.choice(OBJECTS), f"k{self.number}"
        self.last[name] = number = self.last[name] + 1
        proxy, how = self.shared[name], self.chance.random()
        if not isinstance(proxy, managers.BaseProxy):
            if name == "lists":
                return  # with a pickled list the clients would keep nothing any more
            self.put(name, proxy, key, number)
        elif how < 0.1:
            self.put(name, fastmgr.oneway(proxy), key, number)
            if self.read_of(name, self.number) != number:
                self.faults.append(f"{name}: a thread did not see its own one-way call")
        elif how < 0.2:
            with fastmgr.Pipeline(proxy._session_of()) as pipe:
                self.put(name, pipe(proxy), key, number)
        elif how < 0.3 and name == "dict":
            self.shared["writer"].write(key, number)
        else:
            self.put(name, proxy, key, number)
        self.known.note(name, self.number, number)
        self.writes += 1

    def put(self, name: str, target: Any, key: str, number: int) -> None:
        how = self.chance.random()
        if name == "dict" and how < 0.5 and isinstance(target, managers.DictProxy):
            if how < 0.1:
                target.update({key: number})
            elif how < 0.2:
                target.exchange(key, number)
            elif how < 0.3:
                assert target.compare_exchange(key, number - 1, number)
            elif how < 0.4:
                target.incr(key, number - target[key])
            else:
                target |= {key: number}
        elif name == "dict":
            target[key] = number
        elif name == "lists":
            target[key] = [number, [number]]
        elif name == "namespace":
            setattr(target, key, number)
        elif name == "list":
            target[self.number] = number
        else:
            target.note(key, number)

    def write_and_be_killed(self) -> None:
        """Nobody knows when, or whether, the last of these numbers gets there."""
        if self.chance.random() < 0.5:
            shared = self.shared[self.chance.choice(["dict", "lists"])]
            shared["noise"] = self.chance.random()
            return
        number = self.known.at_least("users", self.number) + 1
        self.shared["users"].note(f"k{self.number}", number)
        self.known.note("users", self.number, number)
        self.writes += 1

    def read_of(self, name: str, key: int) -> int:
        proxy, text, how = self.shared[name], f"k{key}", self.chance.random()
        if name == "dict":
            if how < 0.5:
                return proxy[text]
            if how < 0.7:
                return proxy.get(text)
            if how < 0.85:
                return proxy.copy()[text]
            if how < 0.95 or not isinstance(proxy, managers.BaseProxy):
                return dict(proxy.items())[text]
            return next(proxy[one] for one in proxy if one == text)
        if name == "lists":
            found = proxy[text] if how < 0.8 else proxy.copy()[text]
            number = found[0]
            if found != [number, [number]]:
                self.faults.append(f"a list is another's: {found}")
            found[1].append("spoilt")
            return number
        if name == "namespace":
            return getattr(proxy, text)
        if name == "list":
            return proxy[key] if how < 0.8 else proxy._getvalue()[key]
        return proxy.of(text)

    def read(self) -> None:
        name, key = self.chance.choice(OBJECTS), self.chance.randrange(KEYS)
        for _ in range(self.chance.randrange(1, 12)):
            least = self.known.at_least(name, key)
            found = self.read_of(name, key)
            if found < least:
                self.faults.append(f"{name}[{key}] was {found} after {least}")
            self.known.note(name, key, found)
            self.reads += 1

    def run(self, going_on: Callable[[], bool]) -> None:
        while going_on() and not self.faults:
            (self.write if self.chance.random() < 0.15 else self.read)()


def be_client(
    number: int, kind: str, address: Any, idents: dict[str, list[str]], seed: str, path: str
) -> None:
    multiprocessing.current_process().authkey = KEY
    if kind == "off":
        os.environ["FASTMGR_ARENA"] = "off"
    place = tuple(address) if isinstance(address, list) else address
    module: Any = stock if kind == "stock" else managers
    proxies = proxies_of(module)
    shared: dict[str, Any] = {
        name: proxies[name](module.Token(typeid, place, ident), "pickle", authkey=KEY)
        for name, (typeid, ident) in idents.items()
    }
    clients = [Client(2 * number + i, seed, shared, Known(path)) for i in range(2)]
    say("ready")
    sys.stdin.readline()
    if kind == "killed":
        have_children_killed(clients[0])
    else:
        run_in_threads(clients)


def have_children_killed(client: Client) -> None:
    """Fork again and again, and kill the child at any moment."""
    stop = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.readline(), stop.set()), daemon=True).start()
    ours, theirs = os.pipe()
    forks = 0
    while not stop.is_set():
        forks += 1
        child = os.fork()
        if child == 0:
            client.chance = random.Random(client.chance.random() + forks)
            while True:
                client.write_and_be_killed()
                client.read()
                if client.faults:
                    os.write(theirs, f"{client.faults[0]}\n".encode())
                    os._exit(1)
        stop.wait(client.chance.random() * 0.2)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    os.close(theirs)
    faults = os.fdopen(ours).read().splitlines()
    say({"faults": faults, "reads": forks, "writes": forks})
    sys.stdin.readline()


def run_in_threads(clients: list[Client]) -> None:
    stop = threading.Event()
    errors: list[str] = []

    def work(client: Client) -> None:
        try:
            client.run(lambda: not stop.is_set())
        except BaseException as error:
            errors.append(repr(error))

    threads = [threading.Thread(target=work, args=(client,), daemon=True) for client in clients]
    for thread in threads:
        thread.start()
    sys.stdin.readline()
    stop.set()
    for thread in threads:
        thread.join(DEADLINE)
        if thread.is_alive():
            errors.append("a thread is stuck")
    say(
        {
            "faults": errors + [fault for client in clients for fault in client.faults],
            "reads": sum(client.reads for client in clients),
            "writes": sum(client.writes for client in clients),
        }
    )
    sys.stdin.readline()


def tell(scripts: list[Script]) -> None:
    for script in scripts:
        script.tell("go on")


def test_no_read_is_older_than_what_was_acknowledged(tmp_path: Path) -> None:
    seed = os.environ.get("FASTMGR_SEED") or str(random.randrange(10**6))
    print(f"FASTMGR_SEED={seed} FASTMGR_COHERENCE_SECONDS={SECONDS:g}")
    path = tmp_path / "known"
    path.write_bytes(bytes(8 * len(OBJECTS) * KEYS))
    numbers = {f"k{key}": 0 for key in range(KEYS)}
    manager: Any = BoardManager(authkey=KEY)
    with manager, contextlib.ExitStack() as stack:
        shared = {
            "dict": manager.dict(numbers, noise=0),
            "lists": manager.dict({key: [0, [0]] for key in numbers}, noise=0),
            "namespace": manager.Namespace(**numbers),
            "list": manager.list([0] * KEYS),
            "users": manager.Board(),
        }
        shared["writer"] = manager.Writer(shared["dict"])
        idents = {name: [proxy._token.typeid, proxy._token.id] for name, proxy in shared.items()}
        place = stack.enter_context(forwarder(manager.address))
        scripts = [
            stack.enter_context(
                Script(
                    be_client, number, kind, place if kind == "tcp" else manager.address, idents,
                    seed, str(path),
                )
            )
            for number, kind in enumerate(KINDS)
        ]  # fmt: skip
        assert [script.line() for script in scripts] == ["ready"] * len(scripts)
        tell(scripts)
        time.sleep(SECONDS)
        tell(scripts)
        told = [script.line(2 * DEADLINE) for script in scripts]
        print(told)
        tell(scripts)
        for script in scripts:
            assert script.process.wait(DEADLINE) == 0
        if faults := [fault for one in told for fault in one["faults"]]:
            pytest.fail("; ".join(faults[:3]))
        assert all(one["reads"] and one["writes"] for one in told)
