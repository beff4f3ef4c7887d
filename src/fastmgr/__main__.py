"""The command line, ``fastmgr COMMAND`` or ``python -m fastmgr COMMAND``."""

import argparse
import importlib
import io
import os
import select
import sys
from collections.abc import Sequence
from typing import TextIO

from fastmgr import __version__
from fastmgr.cli.options import Refusal
from fastmgr.cli.units import one_line

#: What each command does; the module of `fastmgr.cli` that does it has the same name.
COMMANDS = {
    "serve": "run a server in the foreground, as a service or in a container",
    "health": "say whether a server answers, for probes",
    "ls": "list the objects that have a name on a server",
    "get": "print what a named object has",
    "incr": "add to a named counter or value",
    "watch": "print what named objects have, whenever that changes",
    "top": "watch a server's objects, clients and locks, in the terminal or a browser",
    "locks": "say who holds which lock and who waits, and name deadlocks",
    "doctor": "say what is slow or missing on this machine, or at a server, and what to do",
    "run": "run a program whose managers are fastmgr's",
    "bench": "measure stock, multiprocessing's own and fastmgr on this machine",
    "demo": "count the words of the standard library in shared state",
}
DESCRIPTION = """\
fastmgr keeps the objects that Python processes share (dicts, lists, queues, locks, counters) in a
server, as multiprocessing.managers does, and is many times faster.
"""


class _Help(argparse.HelpFormatter):
    """Fills each paragraph to the width of the terminal; what is indented stays as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        parts = text.strip().split("\n\n")
        return "\n\n".join(
            part if part.startswith(" ") else fill(part, width, indent) for part in parts
        )


def _program() -> str:
    """Return how the command line was called."""
    is_script = os.path.basename(sys.argv[0]) == "fastmgr"
    return "fastmgr" if is_script else "python -m fastmgr"


def _parser(chosen: str | None) -> argparse.ArgumentParser:
    """Return the parser; only the chosen command's module is loaded, and its options declared."""
    parser = argparse.ArgumentParser(
        prog=_program(),
        description=DESCRIPTION,
        epilog="'%(prog)s COMMAND --help' says more of a command.",
        formatter_class=_Help,
    )
    parser.add_argument("--version", action="version", version=f"fastmgr {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name, does in COMMANDS.items():
        if name != chosen:
            commands.add_parser(name, help=does)
            continue
        command = importlib.import_module(f"fastmgr.cli.{name}")
        subparser = commands.add_parser(
            name,
            help=does,
            description=(command.__doc__ or "").replace("`", ""),  # which is marked up
            formatter_class=_Help,
        )
        command.add_options(subparser)
        subparser.set_defaults(run=command.run, command=name, refuse=subparser.error)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return the exit status.

    It is 0; 1 for a failure; 2 where the command is refused as it is given; 130 after an interrupt.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name; `sys.argv` by default.
    """
    _open_what_is_closed()
    given = sys.argv[1:] if arguments is None else list(arguments)
    chosen = next((word for word in given if not word.startswith("-")), None)
    if chosen != "run" and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # for what its encoding has not, as µ
    try:
        parser = _parser(chosen)
        try:
            options, unknown = parser.parse_known_args(given)
            if unknown:  # the usage that is shown is the command's
                options.refuse(f"unrecognized arguments: {' '.join(unknown)}")
            status: int = options.run(options)
        finally:
            sys.stdout.flush()
    except Refusal as error:
        print(one_line(f"{_program()} {chosen}: {error}"), file=sys.stderr)
        status = error.status
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        status = 130
    except BrokenPipeError:
        if not _nobody_reads(sys.stdout):
            raise
        status = 1
    return status


def _open_what_is_closed() -> None:
    """Let standard input, output and error be something, else a socket would get the number."""
    for fd, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # which gets the lowest number that is free
        if getattr(sys, name) is None:
            stream = open(fd, "r" if fd == 0 else "w", closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


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
