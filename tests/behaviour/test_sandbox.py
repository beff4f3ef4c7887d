"""System calls that a sandbox refuses, and few descriptors: what can do without goes on."""

from __future__ import annotations

import ctypes
import errno
import multiprocessing
import os
import platform
import resource
import struct
import sys
from typing import Any

import pytest
from support import DEADLINE, KEY, SANITIZED, ProbeManager, call_in_subprocess, in_thread

NUMBERS = {
    "sched_getaffinity": 204,
    "epoll_create": 213,
    "epoll_create1": 291,
    "memfd_create": 319,
    "pidfd_open": 434,
    "sendmsg": 46,
    "recvmsg": 47,
}


def refuse(names: list[str], error: int) -> None:
    """Have the kernel refuse system calls of this process and its children: seccomp(2)."""
    program = [(0x20, 0, 0, 0)]  # load the number
    for name in names:
        program += [(0x15, 0, 1, NUMBERS[name]), (0x06, 0, 0, 0x00050000 | error)]
    program.append((0x06, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in program))
    whole = struct.pack("HxxxxxxP", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # no new privileges
    if libc.prctl(22, 2, ctypes.c_char_p(whole), 0, 0):
        raise OSError(ctypes.get_errno(), "no seccomp here")


def work_in_a_sandbox(names: list[str], error: int) -> Any:
    try:
        refuse(names, error)
    except OSError:
        return None
    # A forkserver, the default of later versions, needs `sendmsg` itself.
    with ProbeManager(authkey=KEY, ctx=multiprocessing.get_context("fork")) as manager:
        kept = manager.list([b"x" * 200_000])
        counter, lock, d = manager.Counter(), manager.Lock(), manager.dict(a=1)
        for _ in range(100):  # after some of them a connection asks for a mailbox
            with lock:
                d["a"] += counter.incr() > 0
        d["large"] = kept[0] + b"y" * 100_000
        large = len(d["large"])
        in_thread(counter.incr)
        return [counter.get(), d["a"], large, len(kept[0]), manager.Sleeper().echo("user's")]


@pytest.mark.skipif(
    not (sys.platform == "linux" and platform.machine() == "x86_64"),
    reason="the filter knows the system calls' numbers of Linux on x86-64",
)
@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "names",
    [[name] for name in NUMBERS if name != "epoll_create"] + [list(NUMBERS)],
    ids=lambda names: names[0] if len(names) == 1 else "all",
)
def test_system_calls_that_a_sandbox_refuses(names: list[str], error: int) -> None:
    if SANITIZED and error == errno.EPERM and "sched_getaffinity" in names:
        pytest.skip("pthread_getattr_np, by which it learns of a thread's stack, fails without it")
    result = call_in_subprocess(work_in_a_sandbox, names, error)
    if result is None:
        pytest.skip("no filter can be set here")
    assert result == [101, 101, 300_000, 200_000, "user's"]


def work_with_few_descriptors(limit: int) -> Any:
    os.closerange(3, 64)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    manager = ProbeManager(
        authkey=KEY, ctx=multiprocessing.get_context("fork"), shutdown_timeout=DEADLINE
    )
    try:
        with manager:
            d, lock = manager.dict(a=1), manager.Lock()
            with lock:
                d["a"] += 1
            result: Any = d["a"]
    except (OSError, EOFError) as error:
        result = f"{type(error).__name__}: {error}"
    return [result, manager._process.exitcode]


@pytest.mark.parametrize("limit", [9, 10, 11, 12, 14, 20])
def test_few_descriptors_are_enough_or_the_error_names_them(limit: int) -> None:
    """As few as a server of the stdlib needs, and a server hears that it is to end."""
    result, code = call_in_subprocess(work_with_few_descriptors, limit)
    assert result == 2 or (limit < 12 and "open files" in result), result
    assert code >= 0, "it was terminated"
