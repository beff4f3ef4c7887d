"""Runs parts of the tests side by side, as most tests wait for something most of the time.

    python tests/sides.py PATH... [-- PATH...]... -- [ARGUMENT...]

The arguments behind the last ``--`` are pytest's, for all parts.  What the first part says is shown
as it comes, what the others say when all have ended; the last line has the sums.  A part that does
not end though its tests have, or says nothing for very long, is killed, and counts as failed.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable

#: What the closing line of pytest counts.
COUNTED = re.compile(
    r"(\d+) (failed|passed|skipped|deselected|xfailed|xpassed|warnings?|errors?)\b"
)
CLOSING = re.compile(r"=* ?(\d+ \w+|no tests ran).* in [\d.]+s.*")
NO_TESTS = 5  # the status of a pytest that has run none
#: Seconds for which a process that a part has left may say something.
LEFTOVERS = 5
#: Seconds in which a part ends after its closing line: a thread that stands still would keep it.
ENDING = float(os.environ.get("FASTMGR_TEST_ENDING", "60"))
#: Seconds for which a part may say nothing: longer than the longest test.
SILENCE = 900
#: Seconds that a part has to say where it hangs.
LAST_WORDS = 5


class Part:
    """One run of pytest, and what it says."""

    def __init__(self, name: str, words: list[str], shown: bool) -> None:
        pytest = [sys.executable, *(["-X", "dev"] if sys.flags.dev_mode else []), "-m", "pytest"]
        self.name = name
        self.shown = shown
        self.said = b""
        self.closing = ""
        self.verdict = ""
        self.heard = time.monotonic()
        self.run = subprocess.Popen(
            [*pytest, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            bufsize=0,
            env={**os.environ, "PYTHONFAULTHANDLER": "1"},
        )
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self) -> None:
        assert self.run.stdout is not None
        while said := self.run.stdout.read(1 << 16):
            self.heard = time.monotonic()
            self.said += said
            if self.shown:
                show(said)
            for line in self.said[-2000:].decode(errors="replace").splitlines():
                if CLOSING.fullmatch(line.strip()):
                    self.closing = line.strip()

    def watch(self) -> None:
        """End the run where it does not end by itself."""
        silent = time.monotonic() - self.heard
        if self.closing and silent > ENDING:
            self.verdict = f"its tests have ended, but it has not, for {ENDING:g} s"
        elif silent > SILENCE:
            self.verdict = f"it has said nothing for {SILENCE} s"
        if self.verdict:
            self.run.send_signal(signal.SIGABRT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.run.wait(LAST_WORDS)
            self.run.kill()

    def status(self) -> int:
        return 1 if self.verdict else abs(self.run.wait())


def show(said: bytes) -> None:
    sys.stdout.buffer.write(said)
    sys.stdout.buffer.flush()


def cut(words: list[str]) -> list[list[str]]:
    """Cut a command line at each ``--``."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            found.append([])
        else:
            found[-1].append(word)
    return found


def closing_line(lines: Iterable[str], broken: int, seconds: float) -> str:
    """Return one closing line for those of several runs of pytest."""
    counts = collections.Counter[str]()
    for line in lines:
        for number, what in COUNTED.findall(line):
            counts[what if what != "error" else "errors"] += int(number)
    counts["failed"] += broken
    said = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()) if number)
    return f"{said or 'no tests ran'} in {seconds:.2f}s"


def main(words: list[str]) -> int:
    *paths, arguments = cut(words)
    begun = time.monotonic()
    parts: list[Part] = []

    def pass_on(number: int, _frame: object) -> None:
        for part in parts:
            part.run.send_signal(number)

    # Who ends a run that hangs wants to read what it has said.
    signal.signal(signal.SIGABRT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to all runs
    for number, some in enumerate(paths, 1):
        parts.append(Part(f"part {number}", [*some, *arguments], shown=number == 1))
    while running := [part for part in parts if part.run.poll() is None]:
        for part in running:
            part.watch()
        with contextlib.suppress(subprocess.TimeoutExpired):
            running[0].run.wait(0.2)
    for part in parts:
        part.listener.join(LEFTOVERS)
        if not part.shown:
            show(part.said)
    for part, some in zip(parts, paths, strict=True):
        verdict = f": FAILED, {part.verdict}" if part.verdict else ""
        print(f"{part.name} ({' '.join(some)[:60]}): {part.closing or 'not ended'}{verdict}")
    broken = sum(bool(part.verdict) for part in parts)
    closing = [part.closing for part in parts]
    print(closing_line(closing, broken, time.monotonic() - begun), flush=True)
    statuses = [part.status() for part in parts]
    failures = [status for status in statuses if status not in (0, NO_TESTS)]
    return failures[0] if failures else min(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
