"""A program that ends the servers that a run of the tests has left, however the run has ended.

The run starts the program by its path, alone, with the run's folder as its argument.  Each server
works in a folder of its own in there: that is how the program finds the servers, and what they have
forked, in ``/proc`` (so on Linux only).  A line on standard input says that the run ends in order.
"""

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

#: Seconds between two looks.
INTERVAL = 0.2
#: How often the program looks after a run that was killed, which may just have started a server.
LOOKS = 5


def workers(folder: str) -> list[int]:
    """Return the processes that work in a folder."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):  # it has ended, or is somebody else's
            if os.readlink(link).startswith(folder + "/"):
                found.append(int(link.parent.name))
    return found


def main(folder: str) -> None:
    """Wait for the end of the run, kill what it has left, and remove its folder."""
    owner = os.getppid()
    print("ready", flush=True)
    ordered = False
    while os.getppid() == owner and not ordered:
        ordered = bool(select.select([sys.stdin], [], [], INTERVAL)[0])
    for _ in range(1 if ordered else LOOKS):
        for pid in workers(folder):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0 if ordered else INTERVAL)
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main(sys.argv[1])
