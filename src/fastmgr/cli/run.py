"""Run a Python program whose managers are fastmgr's, though it names those of the standard library.

The program is a file, or with ``-m`` a module, and what follows its name is for the program. As by
`fastmgr.install`, `multiprocessing.managers` is fastmgr's in its process and in those that it
forks. In a process that it spawns proxies are fastmgr's as well, but a manager that is made there
is the standard library's.
"""

import argparse
import multiprocessing
import os
import runpy
import sys

import fastmgr
from fastmgr.cli.options import Refusal, add_start_method


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    add_start_method(parser)
    parser.add_argument(
        "--address",
        metavar="URL",
        help="where managers without an address keep their objects, as valkey://host "
        "(default: what the environment has as FASTMGR_ADDRESS)",
    )
    parser.add_argument("-m", dest="is_module", action="store_true", help="PROGRAM is a module")
    parser.add_argument("program", metavar="PROGRAM")
    parser.add_argument("arguments", metavar="...", nargs=argparse.REMAINDER)


def run(options: argparse.Namespace) -> int:
    """Run the program in this process; what it raises, or how it exits, is raised here."""
    if options.start_method is not None:
        multiprocessing.set_start_method(options.start_method)
    if options.address is not None:
        os.environ["FASTMGR_ADDRESS"] = options.address
    fastmgr.install()
    sys.argv = [options.program, *options.arguments]
    if options.is_module:
        runpy.run_module(options.program, run_name="__main__", alter_sys=True)
    elif not os.path.exists(options.program):
        raise Refusal(f"there is no file {options.program!r}")
    else:
        if not getattr(sys.flags, "safe_path", False):  # Python 3.11
            sys.path[0] = os.path.dirname(os.path.abspath(options.program))
        runpy.run_path(options.program, run_name="__main__")
    return 0
