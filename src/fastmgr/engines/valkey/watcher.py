"""A program that starts a server, and ends the server when the server's owner has ended.

It is started by its path, alone: `fastmgr` is not imported.  Its arguments are the owner's process
id, the private directory, the directory whose data are kept (or nothing), the server's program and
the server's arguments.  A line on standard input tells the watcher to end.
"""

import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import sys
import time

#: Seconds between two looks, where the system cannot tell of the end of a process.
INTERVAL = 0.2
#: Seconds in which a server ends in order.
TIMEOUT = 10.0
PR_SET_PDEATHSIG = 1
TELL, STDIN, LOG_LINES = 1, 0, 5


def main(owner: int, folder: str, data: str, words: list[str]) -> str:
    """Be the watcher; return what has gone wrong."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        if data and not lock(os.path.join(data, "fastmgr.lock")):
            return f"{data!r} has the data of a server that runs"
        server = start(words, os.path.join(folder, "log"))
        try:
            if os.getppid() != owner:
                return "the owner has ended"
            if await_end(owner, server) == server:
                return f"the server has ended: {last_lines(os.path.join(folder, 'log'))}"
        finally:
            end(server)
    finally:
        remove(folder)
    return ""


def lock(path: str) -> bool:
    """Lock a file for as long as the server runs; False if another server has locked it."""
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    os.set_inheritable(file, True)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES):
            return False
        raise
    return True


def start(words: list[str], log: str) -> int:
    """Start the server, which the kernel ends should the watcher be killed."""
    libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None
    watcher = os.getpid()
    pid = os.fork()
    if pid:
        return pid
    try:
        if libc is not None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() == watcher:
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            os.dup2(output, 1)
            os.dup2(output, 2)
            os.execv(words[0], words)
    finally:
        os._exit(127)


def await_end(owner: int, server: int) -> int:
    """Wait until a process has ended, and return which; 0 where the owner says that it is time."""
    if hasattr(os, "pidfd_open"):
        try:
            watched = {os.pidfd_open(pid): pid for pid in (owner, server)}
        except OSError:  # an old kernel, or a sandbox
            watched = {}
        if watched:
            ready = select.select([STDIN, *watched], [], [])[0]
            return min(watched.get(found, 0) for found in ready)
    while True:
        if select.select([STDIN], [], [], INTERVAL)[0]:
            return 0
        if os.getppid() != owner:
            return owner
        if os.waitid(os.P_PID, server, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return server


def end(server: int) -> None:
    """End the server, if it has not ended."""
    deadline = time.monotonic() + TIMEOUT
    os.kill(server, signal.SIGTERM)
    while os.waitpid(server, os.WNOHANG)[0] == 0:
        if time.monotonic() > deadline:
            os.kill(server, signal.SIGKILL)
        time.sleep(0.002)


def remove(folder: str) -> None:
    """Remove the private directory, in which are a socket and a log."""
    for name in os.listdir(folder):
        os.unlink(os.path.join(folder, name))
    os.rmdir(folder)


def last_lines(log: str) -> str:
    """Return what the server has said at its end."""
    with open(log, errors="replace") as file:
        return " / ".join(line.strip() for line in file.readlines()[-LOG_LINES:])


def run() -> int:
    """Do what the command line says; return the status of the program."""
    problem = main(int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4:])
    with contextlib.suppress(BrokenPipeError):  # the owner has ended
        os.write(TELL, problem.encode(errors="replace"))
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(run())
