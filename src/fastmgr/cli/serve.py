"""Run a server in the foreground, until SIGTERM or SIGINT ends it: for systemd, for containers.

Programs on this host, or others, connect to it by its address and its key:

    manager = fastmgr.SyncManager.from_address("/run/fastmgr/server.sock", authkey=key)
    hits = manager.Counter(name="hits")  # the same counter for all of them

Whoever has the key can run code in the server. Without a key (for clients: authkey=b"") whoever
can open the socket can.
"""

import argparse
import grp
import importlib
import ipaddress
import logging
import os
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import process
from typing import Any

import fastmgr
from fastmgr.cli import logs, options as common, systemd
from fastmgr.cli.options import Refusal, said, shown
from fastmgr.cli.service import Service
from fastmgr.client.sessions import scheme_of
from fastmgr.link.sockets import Listener
from fastmgr.server.driver import share_heap
from fastmgr.stock.dialect import listener_and_client

#: By `docker stop` and by default a container has ten seconds to end.
GRACE = 8.0
#: A key of fewer bytes may be guessed.
SHORT = 16
HOW_TO_KEY = (
    "python -c 'import secrets; print(secrets.token_hex())' > KEY makes one; then chmod 600 KEY, "
    "and --authkey-file KEY"
)

log = logging.getLogger("fastmgr")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    where = parser.add_argument_group("where it listens")
    where.add_argument(
        "--address",
        type=common.parse_address,
        metavar="ADDRESS",
        help="HOST:PORT, the path of a Unix socket, or @NAME for an abstract one (default: the "
        "socket that systemd passes, else fastmgr.sock in $RUNTIME_DIRECTORY, else a new path, "
        "which is logged)",
    )
    common.add_key_file(where)
    where.add_argument(
        "--mode",
        type=_mode,
        help="who may open the Unix socket, as 0660 (default: 0600, with --group 0660)",
    )
    where.add_argument("--group", type=_group, help="the group of the Unix socket, name or number")
    what = parser.add_argument_group("what it serves")
    what.add_argument(
        "--manager",
        metavar="MODULE:CLASS",
        default="fastmgr:SyncManager",
        help="a class of managers, with the types that are registered with it (default: "
        "%(default)s); its module may be in the current folder",
    )
    what.add_argument(
        "--arena",
        metavar="FILE",
        help="keep counters, values and arrays that have a name in this file, from which the next "
        "server has them again",
    )
    what.add_argument(
        "--serializer",
        default="pickle",
        help="pickle, xmlrpclib, or one that the manager's module adds (default: %(default)s)",
    )
    how = parser.add_argument_group("how it runs")
    _add_metrics(how)
    how.add_argument("--log-level", choices=logs.LEVELS, default="info", help="default: info")
    how.add_argument("--log-format", choices=logs.FORMATS, default="text", help="default: text")
    how.add_argument(
        "--log-file",
        metavar="FILE",
        help="where to log (default: standard error); SIGHUP opens it anew, after it was renamed",
    )
    how.add_argument(
        "--grace",
        type=common.seconds,
        metavar="SECONDS",
        default=GRACE,
        help="how long after SIGTERM or SIGINT the server has ended at the latest; until shortly "
        "before, calls that are under way are answered; another signal ends it at once "
        "(default: %(default)g)",
    )


def _mode(text: str) -> int:
    try:
        mode = int(text, 8)
    except ValueError:
        mode = -1
    if not 0 <= mode <= 0o777:
        raise argparse.ArgumentTypeError(f"{text!r}: an octal number is needed, as 0660")
    return mode


def _add_metrics(how: argparse._ArgumentGroup) -> None:
    how.add_argument(
        "--metrics",
        type=_tcp,
        metavar="HOST:PORT",
        help="where Prometheus finds the server's numbers, at /metrics, and the metrics that "
        "programs keep on the server; whoever reaches that port can read them (port 0: a free one)",
    )


def _tcp(text: str) -> tuple[str, int]:
    address = common.parse_address(text)
    if not isinstance(address, tuple):
        raise argparse.ArgumentTypeError(f"{text}: HOST:PORT is needed, as 127.0.0.1:9464")
    return address


def _group(text: str) -> int:
    try:
        return int(text) if text.isdecimal() else grp.getgrnam(text).gr_gid
    except KeyError:
        raise argparse.ArgumentTypeError(f"there is no group {text!r}") from None


def run(options: argparse.Namespace) -> int:
    """Serve until a signal comes, or a client's ``shutdown``; return the exit status."""
    try:
        kept = logs.Logs(options.log_level, options.log_format, options.log_file)
    except OSError as error:
        raise Refusal(f"--log-file: {error.strerror}: {options.log_file!r}", 1) from None
    share_heap()
    try:
        server, source = made(options)
        start_metrics(server, options.metrics)
    except Refusal as error:
        if options.log_file is None and options.log_format == "text":
            raise
        log.error("%s", error)
        return error.status
    address = shown(server.address)
    log.info(
        "fastmgr %s serves %s at %s (process %d; %s)",
        *(fastmgr.__version__, options.manager, address, os.getpid(), source),
        extra={"facts": {"address": address, "version": fastmgr.__version__}},
    )
    return Service(server, kept, options.grace, f"serves at {address}").run()


def start_metrics(server: Any, address: tuple[str, int] | None) -> None:
    """Have a thread of this process serve metrics; `Refusal` where that cannot be."""
    if address is None:
        return
    try:
        from fastmgr.contrib import endpoint
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "prometheus_client":
            raise
        raise Refusal(
            "--metrics needs prometheus-client: pip install 'fastmgr[prometheus]'"
        ) from None
    try:
        port = endpoint.start(server, *address)
    except OSError as error:
        raise Refusal(f"--metrics {shown(address)}: {said(error)}", 1) from None
    facts = {"port": port}
    log.info("metrics are at http://%s:%d/metrics", address[0], port, extra={"facts": facts})


# -- what is served -------------------------------------------------------------------------


def load(name: str) -> Any:
    """Return the class of managers that ``MODULE:CLASS`` names."""
    module_name, _, class_name = name.partition(":")
    if not module_name or not class_name:
        raise Refusal(f"--manager {name}: MODULE:CLASS is needed, as shop.shared:ShopManager")
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # the module is there, and imports another that is not
        raise Refusal(
            f"--manager {name}: there is no module {error.name!r}, neither in {os.getcwd()} nor "
            "among those that are installed"
        ) from None
    except SystemExit as error:
        raise Refusal(
            f"--manager {name}: {module_name} ends the program where it is imported, by {error!r}; "
            "what it does as a program belongs behind: if __name__ == '__main__'"
        ) from None
    found: Any = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, fastmgr.BaseManager):
        classes = [
            key
            for key, value in vars(module).items()
            if isinstance(value, type) and issubclass(value, fastmgr.BaseManager)
        ]
        there = ", ".join(classes) or "none"
        if "multiprocessing.managers" in [one.__module__ for one in getattr(found, "__mro__", ())]:
            there += "; it is one of the standard library's: derive it from fastmgr's"
        raise Refusal(
            f"--manager {name}: {class_name!r} is no class of fastmgr's managers; in "
            f"{module_name} there are: {there}"
        )
    return found


def made(options: argparse.Namespace) -> tuple[Any, str]:
    """Return the server, which listens from now on, and whose key it has.

    Raises
    ------
    Refusal
        It cannot serve so, or would be open to others.
    """
    manager = load(options.manager)
    key, source, warning = common.read_key(options.authkey_file)
    try:
        listener_and_client(options.serializer)
    except KeyError as error:
        raise Refusal(f"--serializer: {error.args[0]}") from None
    process.current_process().authkey = key  # as in the process that a manager starts
    where, mode = place(options)
    refuse_exposure(where, mode, key)
    try:
        with owned(where, mode, options.group):
            server = manager._Server(manager._registry, where, key, options.serializer)
    except OSError as error:
        hint = ""
        if isinstance(error, FileNotFoundError):
            folder = os.path.dirname(str(where))
            hint = f" (there is no folder {folder}: make it, or give another path)"
        raise Refusal(f"it cannot listen: {said(error)}{hint}", 1) from None
    except ValueError as error:
        raise Refusal(said(error)) from None
    if options.arena is not None:
        try:
            server.use_arena(os.path.abspath(options.arena))
        except (OSError, ValueError) as error:
            raise Refusal(f"--arena: {said(error)}", 1) from None
    if warning is not None:
        log.warning(warning)
    if not key and (isinstance(server.address, tuple) or is_abstract(server.address)):
        log.warning("there is no key: every user of this host can run code in the server")
    elif isinstance(server.address, tuple) and len(key) < SHORT:
        log.warning("the key has less than %d bytes: others may guess it", SHORT)
    return server, source


# -- where it listens -----------------------------------------------------------------------


def place(options: argparse.Namespace) -> tuple[Any, int]:
    """Return where to listen, and the mode of the socket's file, where there is one."""
    passed = systemd.passed_listener()
    if passed is None:
        runtime = os.environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
        where = options.address
        if where is None and runtime:
            where = os.path.join(runtime, "fastmgr.sock")
        if scheme_of(where) is not None:
            raise Refusal(
                f"{where}: clients speak to such a server directly, and no process of fastmgr "
                "stands between: give your managers this address, and serve nothing"
            )
        has_file = not isinstance(where, tuple) and not is_abstract(where)
        if (where is None or not has_file) and (options.mode, options.group) != (None, None):
            raise Refusal(
                "--mode and --group are for the file of a Unix socket, which --address names"
            )
        default = 0o600 if options.group is None else 0o660
        return where, default if options.mode is None else options.mode
    if options.address is not None and shown(options.address) != shown(passed.address):
        raise Refusal(
            f"--address {shown(options.address)}: systemd has passed a socket that listens at "
            f"{shown(passed.address)}; leave one of the two"
        )
    if options.mode is not None or options.group is not None:
        raise Refusal(
            "--mode and --group: systemd has made the socket; its .socket unit has SocketMode= "
            "and SocketGroup="
        )
    on_disk = isinstance(passed.address, str) and not is_abstract(passed.address)
    return passed, stat.S_IMODE(os.stat(passed.address).st_mode) if on_disk else 0


def is_abstract(address: Any) -> bool:
    """Whether an address is a name that has no file, and so no permissions."""
    return isinstance(address, (str, bytes)) and os.fsencode(address).startswith(b"\0")


def refuse_exposure(where: Any, mode: int, key: bytes) -> None:
    """Refuse to listen without a key where others than this user and its groups could connect."""
    address = where.address if isinstance(where, Listener) else where
    if key:
        return
    if isinstance(address, tuple):
        try:
            found = socket.gethostbyname(address[0])
        except OSError as error:
            raise Refusal(f"{shown(address)}: the host is not known: {error.strerror}") from None
        if not ipaddress.ip_address(found).is_loopback:
            raise Refusal(
                f"{shown(address)} can be reached from other hosts, and whoever connects can run "
                f"code in the server: a key is needed. {HOW_TO_KEY}"
            )
    elif mode & 0o006 and not is_abstract(address):
        raise Refusal(
            f"with mode {mode:04o} every user of this host could run code in the server: a key is "
            f"needed, or a mode without others, as 0660. {HOW_TO_KEY}"
        )


@contextmanager
def owned(where: Any, mode: int, group: int | None) -> Iterator[None]:
    """Give the socket's file that is made in the block its group and its mode.

    Nobody but its owner can open it before it has both.
    """
    if isinstance(where, (Listener, tuple)) or is_abstract(where):
        yield
        return
    before = os.umask(0o177)
    try:
        yield
    finally:
        os.umask(before)
    if where is not None:
        if group is not None:
            try:
                os.chown(where, -1, group)
            except OSError as error:
                raise Refusal(
                    f"--group: {error.strerror}: a socket's group must be one of yours"
                ) from None
        os.chmod(where, mode)
