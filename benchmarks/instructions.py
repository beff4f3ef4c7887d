"""Instructions, as valgrind counts them: of encoding and decoding, and of both ends of a call.

The count is of user space alone. Unlike time it is nearly the same in each run, on a busy machine
too, but it belongs to one build of Python: `BUILD` says which.
"""

import gc
import json
import multiprocessing
import os
import pickle
import platform
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Callable
from itertools import repeat
from pathlib import Path

from cases import CASES
from legs import FAST, STOCK, Leg, package_of

from fastmgr.wire import codec as _codec

VALUES: dict[str, object] = {
    "int": 7,
    "str": "a short text",
    "dict": {f"key {i}": i for i in range(10)},
    "list": list(range(200, 300)),
    "bytes": bytes(range(256)) * 4,
    "request": ("__setitem__", ("key", 1.5), None),
}
CALLED = ("dict_get", "dict_kept", "queue", "user_own")
"""The last one is served by a worker, which then keeps the connection for a while."""
NOT_SERVED = ("server dict_kept", "server queue")
"""The server has nothing to do there."""
CODEC_CASES = tuple(f"{way} {name}" for name in VALUES for way in ("encode", "decode"))
CALL_CASES = tuple(
    case
    for name in CALLED
    for end in ("client", "server")
    if (case := f"{end} {name}") not in NOT_SERVED
)
CODEC_OPERATIONS = 100
CALL_OPERATIONS = 300
WARM_UP = 50
MARK = "ctermid"
"""A function of the C library that nothing else calls: a call of it ends one count and begins
another."""
ALLOCATOR = ("malloc", "calloc", "free")
"""How long these search depends on what was allocated before, so they are left out."""
BUILD = " ".join(
    (
        platform.python_implementation(),
        platform.python_version(),
        platform.python_compiler(),
        platform.machine(),
    )
)


def can_count_instructions() -> bool:
    """Whether valgrind is installed and works."""
    if shutil.which("valgrind") is None or not hasattr(os, "sched_setaffinity"):
        return False
    probe = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={os.devnull}", "true"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def instructions_per_operation(calls: bool = True) -> dict[str, tuple[float, float]]:
    """Count the instructions of each case: what stock (of codecs: pickle) needs, and fastmgr."""
    found: dict[tuple[str, str], float] = {}
    with tempfile.TemporaryDirectory() as directory:
        counter = [
            "valgrind",
            "--tool=callgrind",
            f"--callgrind-out-file={directory}/%p",  # a forked process has its own
            f"--dump-before={MARK}",
            *(f"--toggle-collect={function}" for function in ALLOCATOR),
            "--collect-atstart=yes",  # after the toggles, which would turn it off
        ]
        program = [sys.executable, str(Path(__file__)), *(CALLED if calls else ())]
        path = os.pathsep.join(entry for entry in sys.path if entry)
        run = subprocess.run(
            [*counter, *program],
            check=False,
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "0"},
        )
        assert run.returncode == 0, f"nothing was counted:\n{run.stderr}"
        for pid, marked in json.loads(run.stdout.splitlines()[-1]).items():
            counts = counts_of(Path(directory), pid)
            for (leg, name, operations), count in zip(marked, counts, strict=True):
                if name not in NOT_SERVED:
                    found[leg, name] = count / operations
    assert min(found.values()) > 100, f"too little was counted: {found}"
    names = CODEC_CASES + (CALL_CASES if calls else ())
    return {name: (found[STOCK.name, name], found[FAST.name, name]) for name in names}


def counts_of(directory: Path, pid: str) -> list[int]:
    """Return what one process counted from each odd mark to the next."""
    dumps = sorted(directory.glob(f"{pid}.*"), key=lambda dump: int(dump.suffix[1:]))
    totals = re.findall(r"^totals: (\d+)$", "\n".join(d.read_text() for d in dumps), re.MULTILINE)
    return [int(total) for total in totals[1::2]]


Marked = list[tuple[str, str, int]]
"""Leg, case and number of operations between each odd mark of a process and the next."""


def run_codecs() -> Marked:
    """Encode and decode between marks; loops in C, so that little else is counted."""
    marked: Marked = []

    def run(leg: Leg, name: str, codec: Callable[..., object], *arguments: object) -> None:
        for _ in range(2):  # the first one warms up
            calls = map(codec, *(repeat(argument, CODEC_OPERATIONS) for argument in arguments))
            os.ctermid()
            deque(calls, maxlen=0)
            os.ctermid()
            marked.append((leg.name, name, CODEC_OPERATIONS))

    for name, value in VALUES.items():
        data, pickled = _codec.dumps(value), pickle.dumps(value, 5)
        assert data is not None and _codec.loads(data) == value
        run(FAST, f"encode {name}", _codec.dumps, value)
        run(STOCK, f"encode {name}", pickle.dumps, value, 5)
        run(FAST, f"decode {name}", _codec.loads, data)
        run(STOCK, f"decode {name}", pickle.loads, pickled)
    return marked


def run_calls(leg: Leg, names: list[str]) -> tuple[int, Marked, Marked]:
    """Make calls between marks of both ends; return the server's id, and what each end marked."""
    ours, theirs = socket.socketpair()
    in_client: Marked = []
    in_server: Marked = []

    def mark() -> None:
        ours.send(b"x")
        ours.recv(1)
        os.ctermid()

    manager = leg.manager_class()
    leg.assert_own(manager)
    assert package_of(manager._Server) == leg.package
    manager.start(answer_marks, (theirs,))
    with manager:
        for name in names:
            operation = CASES[name].prepare(manager)
            operation.check(leg)
            for _ in range(WARM_UP):
                operation.run()
            mark()
            for _ in repeat(None, CALL_OPERATIONS):
                operation.run()
            mark()
            in_client.append((leg.name, f"client {name}", CALL_OPERATIONS))
            in_server.append((leg.name, f"server {name}", CALL_OPERATIONS))
        return manager._process.pid, in_client, in_server


def answer_marks(requests: socket.socket) -> None:
    """Set a mark in this process, the server, for each one that the client sets."""
    gc.disable()

    def answer() -> None:
        while requests.recv(1):
            os.ctermid()
            requests.send(b"x")

    threading.Thread(target=answer, daemon=True).start()


def run_marked(names: list[str]) -> dict[int, Marked]:
    """Run what is counted; return what each process has marked."""
    gc.disable()  # a collection costs what all the objects cost that there are
    # With one processor nobody spins: how often one looks again is a matter of time.
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    multiprocessing.set_start_method("fork")
    marked = {os.getpid(): run_codecs()}
    for leg in (FAST, STOCK) if names else ():
        server, in_client, in_server = run_calls(leg, names)
        marked[os.getpid()] += in_client
        marked[server] = in_server
    return marked


if __name__ == "__main__":
    print(json.dumps(run_marked(sys.argv[1:])))
