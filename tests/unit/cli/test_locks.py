"""Who holds which lock of a real server, and a deadlock that processes have made."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import pickle
import sys
import threading
from collections.abc import Callable
from typing import Any

import pytest
from support import KEY, ProbeManager, Script, poll, say as tell
from support.reports import hostile

from fastmgr.cli import locks

Say = Callable[..., tuple[int, str]]


def take_two(number: int, first: str, second: str) -> None:
    """Take a lock, say so, and when told to, wait for one that another has."""
    process = multiprocessing.current_process()
    process.name, process.authkey = f"worker-{number}", KEY
    mine, another = (pickle.loads(bytes.fromhex(text)) for text in (first, second))
    with mine:
        tell(True)
        sys.stdin.readline()
        another.acquire()


def consume(text: str) -> None:
    """Wait for two signals."""
    multiprocessing.current_process().authkey = KEY
    signal = pickle.loads(bytes.fromhex(text))
    for _ in range(2):
        signal.acquire()
        tell(True)


def report(say: Say, manager: Any) -> tuple[int, Any]:
    status, said = say("locks", manager.address, "--json")
    return status, json.loads(said)


def test_deadlock_of_three_processes_is_named(say: Say) -> None:
    with ProbeManager(authkey=KEY) as manager, contextlib.ExitStack() as stack:
        multiprocessing.current_process().authkey = KEY
        made = [manager.Lock(), manager.RLock(), manager.Lock()]
        texts = [pickle.dumps(lock).hex() for lock in made]
        scripts = [
            stack.enter_context(Script(take_two, number, texts[number], texts[number - 2]))
            for number in range(3)
        ]
        assert all(script.line() for script in scripts)
        status, plain = report(say, manager)
        assert status == 0 and len(plain["locks"]) == 3 and not plain["deadlocks"]
        for script in scripts:
            script.tell()
        poll(lambda: report(say, manager)[0] == 1, "it is seen")
        (found,) = report(say, manager)[1]["deadlocks"]
        waits = {wait["waiter"]["process"]: wait for wait in found["waits"]}
        assert waits.keys() == {"worker-0", "worker-1", "worker-2"} and not found["behind"]
        for number, script in enumerate(scripts):
            wait = waits[f"worker-{number}"]
            assert wait["waiter"]["pid"] == script.pid
            assert wait["lock"]["id"] == made[number - 2]._token.id
            assert [holder["pid"] for holder in wait["holders"]] == [scripts[number - 2].pid]
        status, said = say("locks", manager.address)
        assert status == 1 and "deadlock: 3 threads" in said
        assert f"worker-1 ({scripts[1].pid}) waits for" in said


def test_semaphore_that_is_used_as_a_signal(manager: Any, say: Say) -> None:
    """Its consumer has taken a permit, and waits for the next: another thread releases it."""
    multiprocessing.current_process().authkey = KEY
    signal = manager.Semaphore(0)
    with Script(consume, pickle.dumps(signal).hex()) as consumer:
        signal.release()
        assert consumer.line()
        poll(lambda: report(say, manager)[1]["possible_deadlocks"], "it waits again")
        status, plain = report(say, manager)
        assert status == 0 and not plain["deadlocks"]
        status, said = say("locks", manager.address)
        assert status == 0 and "possible deadlock, unless another thread releases" in said
        said = say("top", manager.address, "--once")[1]
        assert "possible deadlock" in said and said.rstrip().endswith("possible")
        signal.release()
        assert consumer.line()


def test_names_that_would_command_the_terminal(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks.Source, "report", lambda source: hostile())
    said = say("locks", "/socket")[1]
    assert said.count("red") > 6 and all(line.isprintable() for line in said.split("\n"))


def test_who_holds_and_who_waits(manager: Any, say: Say) -> None:
    assert say("locks", manager.address) == (0, "nobody holds a lock, or waits for one\n")
    lock = manager.Lock()
    thread = threading.Thread(target=lock.acquire, name="second")
    with lock:
        thread.start()
        poll(lambda: "1. waits: " in say("locks", manager.address)[1], "it waits")
        said = say("locks", manager.address)[1]
        assert said.splitlines()[1].endswith(f"({os.getpid()})") and ") second for " in said
    thread.join()
    said = say("locks", manager.address)[1]
    assert "held by " in said and "waits" not in said
    lock.release()
