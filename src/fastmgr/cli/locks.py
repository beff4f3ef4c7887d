"""Say who holds which lock of a server, who waits for it, and which of them wait for ever.

The exit status is 1 where there is a deadlock: threads that hold locks, and each of which waits
for what only others of them have. Where one of these is a semaphore, the deadlock is only possible
and the status 0: any thread may release a semaphore, as one does that gives a signal by it.

The server cannot tell a wait that has a time limit from one that has none. Of a lock that was taken
in shared memory only the process is known that has it: there is a deadlock where all its threads
that use the server wait.
"""

import argparse
import json

from fastmgr.cli import named, reports
from fastmgr.cli.reports import Source, about_deadlock, about_lock, title
from fastmgr.cli.units import one_line
from fastmgr.cli.waitfor import deadlocks, waits

#: What of a report is printed as JSON.
PARTS = ("locks", "deadlocks", "possible_deadlocks")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    parser.add_argument(
        "--json", action="store_true", help="one object of JSON, with the keys " + ", ".join(PARTS)
    )


def run(options: argparse.Namespace) -> int:
    """Print them; return 1 where there is a deadlock."""
    with Source(options) as source:
        report = source.report()
    if options.json:
        plain = reports.as_json(report)
        print(json.dumps({key: plain[key] for key in PARTS}))
        return 1 if plain["deadlocks"] else 0
    for one in report.locks:
        print(title(one) + (f" ({one_line(one.typeid)})" if one.name else ""))
        for line in about_lock(one):
            print(f"  {line}")
    if not report.locks:
        print("nobody holds a lock, or waits for one")
    found = deadlocks(waits(report.locks, report.clients))
    for deadlock in found:
        print("\n".join(about_deadlock(deadlock)))
    return 1 if any(one.is_certain for one in found) else 0
