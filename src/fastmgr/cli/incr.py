"""Add to a named counter or value, in one step, and print the sum.

It has to be there: a program makes it, as manager.Counter(name="hits").
"""

import argparse

from fastmgr.cli import named
from fastmgr.cli.options import Refusal, said


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    named.add_server(parser)
    named.add_name(parser)
    parser.add_argument(
        "--by", type=_number, default=1, metavar="N", help="how much (default: %(default)s)"
    )


def _number(text: str) -> int | float:
    try:
        return int(text)
    except ValueError:
        pass
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: a number is needed") from None


def run(options: argparse.Namespace) -> int:
    """Add, and print the sum."""
    manager = named.connected(options)
    found = named.one(manager, options)
    part = named.part_of(found, manager, options)
    if not part and found.typeid in ("Counters", "Array"):
        raise Refusal(f"{found.name!r} is a row of numbers: say which, KEY")
    try:
        print(found.proxy(manager).incr(*part, options.by))
    except LookupError:
        raise named.no_part(found, options) from None
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal(f"{found.name!r}: {options.by} is not added: {said(error)}", 1) from None
    return 0
