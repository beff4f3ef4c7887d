"""The third contender: ``echo.c``, which moves messages and does nothing else."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
from pathlib import Path
from statistics import median

from cases import MESSAGE

SOURCE = Path(__file__).with_suffix(".c")
PROGRAM = SOURCE.parents[1] / "build" / "benchmarks" / "echo"
FLAGS = ("-O2", "-Wall", "-Wextra", "-Wconversion")
SPIN = 30
"""Microseconds for which the variant that spins looks for a message before it sleeps."""


def compiler() -> list[str]:
    """Return the command of the C compiler, or nothing where there is none."""
    command = shlex.split(os.environ.get("CC", "cc"))
    return command if command and shutil.which(command[0]) else []


def program() -> Path:
    """Return the program, compiled unless it is newer than what it is made of."""
    made_of = max(path.stat().st_mtime for path in (SOURCE, Path(__file__)))
    if not PROGRAM.exists() or PROGRAM.stat().st_mtime < made_of:
        PROGRAM.parent.mkdir(parents=True, exist_ok=True)
        fresh = PROGRAM.with_name(f"{PROGRAM.name}.{os.getpid()}")
        subprocess.run([*compiler(), *FLAGS, "-o", str(fresh), str(SOURCE)], check=True)
        fresh.replace(PROGRAM)  # whoever runs the old one goes on running it
    return PROGRAM


class Echo:
    """Pairs of C processes that exchange messages as often as they are told to."""

    def __init__(
        self, pairs: int, reply: int, seconds: float, rounds: int = 1, spin: int = 0
    ) -> None:
        """Start them, and find how many exchanges take about that many seconds."""
        self.rounds = rounds
        self.process = subprocess.Popen(
            [str(program()), *map(str, (pairs, MESSAGE, reply, spin))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.count = 1
        try:
            while (spent := self.time(self.count) * self.count * pairs) < seconds:
                self.count = max(self.count + 1, int(self.count * min(10, seconds / spent)))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Echo:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the processes."""
        with contextlib.suppress(BrokenPipeError):
            self.tell(0)  # closing is not enough: a forked client has a copy of the pipe
        self.process.communicate()

    def time(self, count: int) -> float:
        """Return the seconds of one exchange, while each pair makes `count` of them."""
        assert self.process.stdout is not None
        self.tell(count)
        answer = self.process.stdout.readline()
        if not answer:
            raise EOFError("the C program has ended")
        return float(answer)

    def tell(self, count: int) -> None:
        """Have each pair make that many exchanges; none is the end."""
        assert self.process.stdin is not None
        self.process.stdin.write(f"{count}\n")
        self.process.stdin.flush()

    def seconds(self) -> float:
        """Return the seconds of one exchange: the median of a few rounds."""
        return median(self.time(self.count) for _ in range(self.rounds))
