"""Watch a server: its objects, clients and locks, who waits for whom, and what they cost.

It is a live screen in the terminal, or with --web the same in a browser; both need the extra `cli`.
With --once a report is printed, as text or with --json, which needs nothing. What is shown only
grows, but for rates (calls/s), waiters, and what the server has now.
"""

import argparse
import importlib.util
import json
import os
import shutil
import sys
import textwrap
from time import sleep
from typing import Any

from fastmgr.cli import named, options as common, reports
from fastmgr.cli.options import Refusal, shown
from fastmgr.cli.reports import Source, about_deadlock
from fastmgr.cli.tables import TABLES, UNCOUNTED, Sight, as_text
from fastmgr.cli.units import one_line

INTERVAL = 1.0
PLACE = "127.0.0.1:8789"
#: The variable by which Textual is told to draw for a browser.
DRIVER = "TEXTUAL_DRIVER"
HOW_TO_INSTALL = "python -m pip install 'fastmgr[cli]'"


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    parser.add_argument(
        "--interval",
        type=common.seconds,
        metavar="SECONDS",
        help=f"how long from one report to the next (default: {INTERVAL:g}); with --once how long "
        "to look, for rates (default: not at all)",
    )
    parser.add_argument("--once", action="store_true", help="print a report, and end")
    parser.add_argument("--json", action="store_true", help="with --once: as JSON")
    parser.add_argument(
        "--web",
        type=common.parse_address,
        metavar="HOST:PORT",
        nargs="?",
        const=common.parse_address(PLACE),
        help=f"show it in a browser, at http://HOST:PORT (default: {PLACE})",
    )
    parser.add_argument(
        "--web-without-key",
        action="store_true",
        help="let --web listen where other hosts, too, can see everything without a key",
    )


def run(options: argparse.Namespace) -> int:
    """Show it until the user ends it; return the exit status."""
    if options.json and not options.once:
        raise Refusal("--json is for --once: a screen is none")
    if options.once and options.web is not None:
        raise Refusal("--once prints a report, and --web shows a screen: leave one of the two")
    if options.once:
        return once(options)
    options.interval = options.interval or INTERVAL
    if options.web is not None:
        web = _needed("web", "textual_serve")
        return web.serve(options)
    # A browser's screen is run by `web`, behind a pipe.
    if DRIVER not in os.environ and not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise Refusal(
            "a screen needs a terminal; --once prints a report, --once --json for programs"
        )
    screen = _needed("screen", "textual")
    return screen.show(options)


def _needed(name: str, library: str) -> Any:
    """Return a module of this room that needs a library; `Refusal` where that is missing."""
    if importlib.util.find_spec(library) is None:
        raise Refusal(
            f"the screen needs {library.replace('_', '-')}, which is not installed: "
            f"{HOW_TO_INSTALL} (--once does without)"
        )
    return importlib.import_module(f"fastmgr.cli.{name}")


def once(options: argparse.Namespace) -> int:
    """Print a report, with rates where there is time to see some."""
    before = None
    with Source(options) as source:
        if options.interval is not None:
            before = source.report()
            sleep(options.interval)
        sight = Sight(source.report(), before)
    if options.json:
        print(json.dumps(as_json(sight)))
    else:
        width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
        print("\n".join(as_lines(sight, shown(options.address), width)))
    return 0


def as_json(sight: Sight) -> dict[str, Any]:
    """Return what is seen as plain values: a report, and rates where there are two."""
    plain = reports.as_json(sight.report)
    if sight.before is not None:
        for part, row in [
            (plain["server"], sight.server),
            *(
                pair
                for table in TABLES
                if table.part != "locks"
                for pair in zip(plain[table.part], sight.rows(table), strict=True)
            ),
        ]:
            part["calls_per_second"] = row.rate("calls")
    return plain


def as_lines(sight: Sight, address: str, width: int | None = None) -> list[str]:
    """Return what is seen as lines for people, who have a terminal of a width or none."""
    head = f"fastmgr {one_line(sight.report.version)} at {address}: {', '.join(sight.facts())}"
    lines = _wrapped(head, width)
    for found in (*sight.deadlocks, *sight.possible):
        lines += about_deadlock(found)
    for table in TABLES:
        rows = table.column(table.order).sorted(sight.rows(table))
        lines += ["", f"{table.name}: {len(rows)}"]
        lines += [as_text(table, rows, width)] if rows else []
    if any(one.in_memory for one in sight.report.objects):
        lines += ["", *_wrapped(UNCOUNTED, width)]
    return lines


def _wrapped(text: str, width: int | None) -> list[str]:
    return textwrap.wrap(text, width, subsequent_indent="  ") if width else [text]
