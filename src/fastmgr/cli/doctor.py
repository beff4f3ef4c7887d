"""Say what is slow or missing on this machine, and why; with ADDRESS also at a server there.

Each line is a fact. One that begins with '!' says what is wrong or slow, and what to do about it.
The exit status is 1 if there is such a line.
"""

import argparse
import os
import platform
import resource
import shutil
import sys
import textwrap
from statistics import median
from time import perf_counter
from typing import Any

import fastmgr
from fastmgr.cli import named
from fastmgr.cli.options import Refusal, shown
from fastmgr.cli.units import one_line
from fastmgr.client.sessions import scheme_of

#: Descriptors below which a server with many clients runs out of them.
FEW_DESCRIPTORS = 1024
#: Bytes of /dev/shm below which blocks of shared memory of programs soon find no room.
LITTLE_MEMORY = 256 * 1024 * 1024
#: How many wait for each processor where a machine is busy.
BUSY = 1.5
#: Nanoseconds above which a step in shared memory, and microseconds above which a call, is slow.
SLOW_STEP, SLOW_CALL = 1000.0, 200.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser, optional=True)


class Findings:
    """What is found, printed line by line."""

    def __init__(self) -> None:
        self.wrong = 0

    def say(self, fact: str, wrong: str | None = None) -> None:
        """Print a fact; where something is wrong with it, what that is and what to do."""
        text = one_line(f"  {fact}" if wrong is None else f"! {fact}: {wrong}")
        if sys.stdout.isatty():
            text = textwrap.fill(text, shutil.get_terminal_size().columns, subsequent_indent="    ")
        print(text)
        self.wrong += wrong is not None


def run(options: argparse.Namespace) -> int:
    """Print what is found; return 1 where something is wrong."""
    findings = Findings()
    look_here(findings)
    if options.address is not None:
        print(f"the server at {shown(options.address)}")
        try:
            look_there(options, findings)
        except Refusal as error:
            if error.status == 2:
                raise  # the server was not asked
            findings.say("the server cannot be asked", str(error))
    return 1 if findings.wrong else 0


def look_here(findings: Findings) -> None:
    """Look at this machine, and at what this process may do."""
    print("this process")
    findings.say(
        f"fastmgr {fastmgr.__version__}, Python {platform.python_version()}, "
        f"{platform.system()} {platform.release()}"
    )
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    few = "client and server take turns, and each waits to be let run; give them two"
    findings.say(f"processors: {count}", few if count == 1 else None)
    load = os.getloadavg()[0]
    busy = (
        "more is to be run than there are processors, and every call waits for one; end what is "
        "not needed, or give more"
    )
    findings.say(f"load: {load:.1f}", busy if load > BUSY * (count or 1) else None)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    findings.say(f"open files: {soft} at most", descriptors_are_few(soft, hard))
    if os.path.isdir("/dev/shm"):
        about = os.statvfs("/dev/shm")
        size, free = about.f_blocks * about.f_frsize, about.f_bavail * about.f_frsize
        little = (
            "blocks of SharedMemoryManager and of numpy arrays in it soon find no room; give a "
            "container --shm-size (counters, locks and arrays of fastmgr need none of it)"
        )
        findings.say(
            f"/dev/shm: {free >> 20} of {size >> 20} MiB are free",
            little if size < LITTLE_MEMORY else None,
        )
    for name in sorted(name for name in os.environ if name.startswith("FASTMGR_")):
        secret = "AUTHKEY" in name or "PASSWORD" in name
        findings.say(f"{name} is set" + ("" if secret else f": {os.environ[name]}"))


def descriptors_are_few(soft: int, hard: int) -> str | None:
    """Return what to do where a process may open few files; None where it may open many."""
    if not 0 <= soft < FEW_DESCRIPTORS:
        return None
    how = "ulimit -n" if hard < 0 or hard > soft else "LimitNOFILE= of a unit, --ulimit of docker"
    return f"each thread of a client needs one, and one in the server; raise it: {how}"


def look_there(options: argparse.Namespace, findings: Findings) -> None:
    """Look at a server, and at what calls and steps to it cost."""
    manager = named.connected(options)
    if scheme_of(options.address) is not None:
        findings.say("an engine keeps the objects: a call is a round trip, and no memory is shared")
        look_at_calls(manager, findings)
        return
    try:
        about = manager._session.control("about")
    except (fastmgr.RemoteError, ValueError):
        raise Refusal(
            "it tells nothing of itself: it is the standard library's, or older", 1
        ) from None
    other = about["version"] != fastmgr.__version__
    findings.say(
        f"fastmgr {about['version']}, Python {about['python']}, process {about['process']}",
        "another version than here; install the same" if other else None,
    )
    findings.say(
        f"processors: {about['processors']}, threads: {about['threads']}, "
        f"clients: {about['clients']}, objects: {about['objects']}"
    )
    if about["file"] is not None:
        findings.say(f"what has a name is kept in {about['file']}")
    limit = about["most_descriptors"]
    findings.say(
        f"open files: {about['descriptors']} of {limit}",
        descriptors_are_few(limit, about["hard_descriptors"]),
    )
    look_at_memory(manager, about, options.address, findings)
    look_at_calls(manager, findings)


def look_at_memory(manager: Any, about: dict[str, Any], address: Any, findings: Findings) -> None:
    """Say whether counters are shared memory, and else why not."""
    counter = manager.Counter()
    is_shared = manager._session.locate(counter) is not None
    step = cost(counter.incr, 1000 if is_shared else 50) * 1e9
    if is_shared:
        slow = "another program keeps this processor busy" if step > SLOW_STEP else None
        findings.say(f"shared memory: yes; counter.incr() takes {step:.0f} ns", slow)
        return
    if isinstance(address, tuple):
        why = "TCP carries none; where client and server are on one host use a Unix socket"
    elif os.environ.get("FASTMGR_ARENA", "on").strip().lower() == "off":
        why = "FASTMGR_ARENA=off in this environment turns it off"
    elif not about["shares_memory"]:
        why = "the server offers none: it was told so, or may open too few files"
    else:
        why = "this process cannot map what the server passes: is it in a sandbox, or another user?"
    findings.say(f"shared memory: no; counter.incr() takes {step / 1000:.0f} µs", why)


def look_at_calls(manager: Any, findings: Findings) -> None:
    """Say what a small call costs."""
    shared = manager.dict(a=0)
    call = cost(lambda: shared.update(a=1), 100) * 1e6
    slow = None
    if call > SLOW_CALL:
        slow = (
            "this machine or the server's is busy, or they are far from each other; many calls in "
            "one go, by manager.pipeline(), cost less each"
        )
    findings.say(f"a small call takes {call:.0f} µs", slow)


def cost(step: Any, number: int) -> float:
    """Return the seconds that a step takes, the median of several rows of steps."""
    found = []
    for _ in range(5):
        start = perf_counter()
        for _ in range(number // 5):
            step()
        found.append((perf_counter() - start) / (number // 5))
    return median(found)
