"""Options that several commands have: addresses of servers, keys, how processes are started."""

from __future__ import annotations

import argparse
import os
import stat
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import Any

from fastmgr.client.sessions import scheme_of

__all__ = [
    "CREDENTIAL", "Refusal", "add_key_file", "add_start_method", "parse_address", "read_key",
    "said", "seconds", "shown",
]  # fmt: skip

#: The name of the key among the credentials that systemd passes to a service.
CREDENTIAL = "fastmgr-authkey"


class Refusal(Exception):
    """The command is not run; its text, a sentence, says why, and `status` is the exit status.

    Status 2 says that the command cannot be run as it is given, 1 that it may be another time.
    """

    def __init__(self, text: str, status: int = 2) -> None:
        super().__init__(text)
        self.status = status


def add_start_method(parser: argparse.ArgumentParser) -> None:
    """Add the option that says how processes are started."""
    parser.add_argument(
        "--start-method",
        choices=get_all_start_methods(),
        help="how processes are started (default: as this platform does)",
    )


def seconds(text: str) -> float:
    """Return the seconds that a command line's word stands for; `ArgumentTypeError` if none."""
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 < number < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r}: a number of seconds above 0 is needed")
    return number


def said(error: Exception) -> str:
    """Return what an error says, without its number."""
    if isinstance(error, OSError) and error.strerror:
        file = "" if error.filename is None else f": {error.filename!r}"
        if isinstance(error.filename, tuple):
            file = f": {shown(error.filename)}"
        return f"{error.strerror}{file}"
    return str(error) or type(error).__name__


# -- addresses ----------------------------------------------------------------------------


def parse_address(text: str) -> Any:
    """Return the address that a command line's word stands for; `ArgumentTypeError` if none.

    ``HOST:PORT`` is TCP, ``@NAME`` an abstract socket of Linux, anything else the path of a Unix
    socket, but for an engine's ``scheme://...``, which stays as it is.
    """
    if scheme_of(text) is not None:
        return text
    if text.startswith("@"):
        return "\0" + text[1:]
    host, colon, port = text.rpartition(":")
    if text.startswith("unix:"):  # as other servers have it
        text = text.removeprefix("unix:")
    elif colon and "/" not in text:
        if host.startswith("[") or ":" in host:
            raise argparse.ArgumentTypeError(
                f"{text}: IPv6 is served neither here nor by the standard library; give an IPv4 "
                "address"
            )
        if not host or not port.isdecimal() or int(port) > 65535:
            raise argparse.ArgumentTypeError(
                f"{text}: HOST:PORT is needed, as 127.0.0.1:5000 (0.0.0.0 for all interfaces), "
                "or the path of a socket"
            )
        return host, int(port)
    elif text == "localhost" or (text and not text.strip("0123456789.")):
        raise argparse.ArgumentTypeError(
            f"{text}: HOST:PORT is needed, as 127.0.0.1:5000; for a socket's file of that name "
            f"write ./{text}"
        )
    if not text:
        raise argparse.ArgumentTypeError("an address is needed: HOST:PORT or a path")
    return text


def shown(address: Any) -> str:
    """Return an address as `parse_address` takes it."""
    if isinstance(address, tuple):
        return f"{address[0]}:{address[1]}"
    text = os.fsdecode(address)
    return "@" + text[1:] if text.startswith("\0") else text


# -- keys ---------------------------------------------------------------------------------


def add_key_file(parser: argparse._ActionsContainer) -> None:
    """Add the option that names the file of the server's key."""
    parser.add_argument(
        "--authkey-file",
        metavar="FILE",
        help="the file that has the key, which only its owner should be able to read (default: the "
        "file that FASTMGR_AUTHKEY_FILE names in the environment, else the key in "
        f"FASTMGR_AUTHKEY, else the credential {CREDENTIAL} of systemd)",
    )


def read_key(path: str | None) -> tuple[bytes, str, str | None]:
    """Return the key, where it comes from, and a warning if others can read it.

    The key is empty where there is none.  A line's end behind it does not count.

    Parameters
    ----------
    path : str, optional
        The file that has it.  By default the environment says where it is.

    Raises
    ------
    Refusal
        The file cannot be read, is empty, or others can write to it.
    """
    path = path or os.environ.get("FASTMGR_AUTHKEY_FILE")
    text = os.environ.get("FASTMGR_AUTHKEY")
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if not path and text:
        return os.fsencode(text), "its key is in FASTMGR_AUTHKEY", None
    if not path and credentials and (Path(credentials) / CREDENTIAL).exists():
        path = str(Path(credentials) / CREDENTIAL)
    if not path:
        return b"", "no key: clients have authkey=b''", None
    try:
        with open(path, "rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            key = file.read().rstrip(b"\r\n")
    except OSError as error:
        raise Refusal(f"the key cannot be read: {error.strerror}: {path!r}") from None
    if not key:
        raise Refusal(f"the file of the key is empty: {path!r}")
    if mode & 0o022:
        raise Refusal(
            f"others can write to the file of the key (mode {mode:04o}), and so choose it: "
            f"chmod go-w {path}"
        )
    warning = None
    if mode & 0o004:
        warning = f"every user can read the key (mode {mode:04o}): chmod o-r {path}"
    return key, f"its key is in {path}", warning
