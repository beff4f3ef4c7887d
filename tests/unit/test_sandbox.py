"""System calls that a sandbox refuses: what can do without them goes on."""

from __future__ import annotations

import ctypes
import errno
import platform
import struct
import sys
from typing import Any

import pytest
from support import KEY, ProbeManager, call_in_subprocess, in_thread

pytestmark = pytest.mark.skipif(
    not (sys.platform == "linux" and platform.machine() == "x86_64"),
    reason="the filter knows the system calls' numbers of Linux on x86-64",
)

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
    with ProbeManager(authkey=KEY) as manager:
        kept = manager.list([b"x" * 200_000])
        counter, lock, d = manager.Counter(), manager.Lock(), manager.dict(a=1)
        for _ in range(100):  # after some of them a connection asks for a mailbox
            with lock:
                d["a"] += counter.incr() > 0
        d["large"] = kept[0] + b"y" * 100_000
        large = len(d["large"])
        in_thread(counter.incr)
        return [counter.get(), d["a"], large, len(kept[0]), manager.Sleeper().echo("user's")]


@pytest.mark.parametrize("error", [errno.ENOSYS, errno.EPERM], ids=errno.errorcode.get)
@pytest.mark.parametrize(
    "names",
    [[name] for name in NUMBERS if name != "epoll_create"] + [list(NUMBERS)],
    ids=lambda names: names[0] if len(names) == 1 else "all",
)
def test_system_calls_that_a_sandbox_refuses(names: list[str], error: int) -> None:
    result = call_in_subprocess(work_in_a_sandbox, names, error)
    if result is None:
        pytest.skip("no filter can be set here")
    assert result == [101, 101, 300_000, 200_000, "user's"]
