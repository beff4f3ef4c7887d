"""Runs two parts of the tests side by side, as most of them wait for something most of the time.

    python tests/sides.py PATH... -- PATH... [-- ARGUMENT...]

What the first part says is shown as it comes, what the second says when both have ended; the last
line has the sums of both.  The arguments are pytest's, for both parts.
"""

from __future__ import annotations

import collections
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from typing import IO

#: What the closing line of pytest counts.
COUNTED = re.compile(
    r"(\d+) (failed|passed|skipped|deselected|xfailed|xpassed|warnings?|errors?)\b"
)
CLOSING = re.compile(r"^=* ?(\d+ \w+|no tests ran).* in [\d.]+s.*$")
NO_TESTS = 5  # the status of a pytest that has run none
#: Seconds for which a process that the first part has left may say something.
LEFTOVERS = 5


def parts(words: list[str]) -> list[list[str]]:
    """Cut a command line at each ``--``."""
    found: list[list[str]] = [[]]
    for word in words:
        if word == "--":
            found.append([])
        else:
            found[-1].append(word)
    return [*found, [], []][:3]


def closing_line(lines: Iterable[str], seconds: float) -> str:
    """Return one closing line for those of several runs of pytest."""
    counts = collections.Counter[str]()
    for line in lines:
        for number, what in COUNTED.findall(line):
            counts[what] += int(number)
    said = ", ".join(f"{number} {what}" for what, number in sorted(counts.items()))
    return f"{said or 'no tests ran'} in {seconds:.2f}s"


def main(words: list[str]) -> int:
    first, second, arguments = parts(words)
    begun = time.monotonic()
    runs: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _frame: object) -> None:
        for run in runs:
            run.send_signal(number)

    # Who ends a run that hangs wants to read what it has said.
    signal.signal(signal.SIGABRT, pass_on)
    signal.signal(signal.SIGTERM, pass_on)
    signal.signal(signal.SIGINT, lambda *_: None)  # the terminal sends it to both runs
    pytest = [sys.executable, *(["-X", "dev"] if sys.flags.dev_mode else []), "-m", "pytest"]
    closing = ["", ""]

    def show(here: IO[bytes]) -> None:
        for line in here:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
            text = line.decode(errors="replace").strip()
            closing[0] = text if CLOSING.match(text) else closing[0]

    with tempfile.TemporaryFile("w+", errors="replace") as said:
        there = subprocess.Popen(
            [*pytest, *second, *arguments], stdout=said, stderr=subprocess.STDOUT
        )
        runs.append(there)
        here = subprocess.Popen(
            [*pytest, *first, *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        runs.append(here)
        shower = threading.Thread(target=show, args=(here.stdout,), daemon=True)
        shower.start()
        statuses = [here.wait(), there.wait()]
        shower.join(LEFTOVERS)
        said.seek(0)
        for text in said:
            print(text, end="")
            closing[1] = text.strip() if CLOSING.match(text.strip()) else closing[1]
    print(closing_line(closing, time.monotonic() - begun), flush=True)
    failures = [status for status in statuses if status not in (0, NO_TESTS)]
    return abs(failures[0]) if failures else min(statuses)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
