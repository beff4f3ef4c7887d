"""The command line: ``python -m fastmgr demo``, ``bench`` and ``run``."""

import argparse
import os
import select
import sys
from collections.abc import Sequence
from multiprocessing import get_all_start_methods
from typing import TextIO

from fastmgr import __version__
from fastmgr.cli import bench, demo, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command; return the exit status: 0, 1 for a failure, 130 after an interrupt.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name; `sys.argv` by default.
    """
    parser = argparse.ArgumentParser(
        prog="python -m fastmgr",
        description="Show and measure fastmgr, a drop-in for multiprocessing.managers.",
        epilog="'python -m fastmgr COMMAND --help' says more of a command.",
    )
    parser.add_argument("--version", action="version", version=f"fastmgr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for command in (demo, bench, run):
        subparser = commands.add_parser(
            command.__name__.rpartition(".")[2],
            help=command.HELP,
            description=(command.__doc__ or "").replace("`", ""),  # which is marked up
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_options(subparser)
        subparser.add_argument(
            "--start-method",
            choices=get_all_start_methods(),
            help="how processes are started (default: as this platform does)",
        )
        subparser.set_defaults(run=command.run)
    try:
        try:
            options = parser.parse_args(arguments)
            status: int = options.run(options)
        finally:
            sys.stdout.flush()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout):
            raise
        status = 1
    return status


def _nobody_reads(stream: TextIO) -> bool:
    """Whether the reader of what is printed has gone; then the rest of it goes nowhere."""
    look = select.poll()
    look.register(stream, 0)
    if not look.poll(0):
        return False
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, stream.fileno())
    os.close(nowhere)
    return True


if __name__ == "__main__":
    sys.exit(main())
