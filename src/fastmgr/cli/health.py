"""Say whether a server answers at an address: one line, and exit status 0 if so, 1 if not.

The status is 2 where it was not asked, since the key cannot be read.

With the key of the server, it and the server prove that to each other, and the server answers a
call. Without a key it is enough that the server asks for one. At an address as valkey://host what
is there is sent a PING.
"""

import argparse
import errno
import threading
from multiprocessing import AuthenticationError
from time import perf_counter
from typing import Any

from fastmgr.cli import options as common
from fastmgr.cli.options import Refusal, said, shown
from fastmgr.cli.units import one_line
from fastmgr.client.sessions import ClientSession, engine_of
from fastmgr.link.handshake import CHALLENGE, HANDSHAKE_LIMIT
from fastmgr.link.sockets import connect

TIMEOUT = 3.0


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declare the command's options."""
    parser.add_argument(
        "address",
        type=common.parse_address,
        metavar="ADDRESS",
        help="HOST:PORT, the path of a Unix socket, @NAME, or a Valkey server's, as valkey://host",
    )
    parser.add_argument(
        "--timeout",
        type=common.seconds,
        metavar="SECONDS",
        default=TIMEOUT,
        help="how long the server may take (default: %(default)g)",
    )
    common.add_key_file(parser)


def run(options: argparse.Namespace) -> int:
    """Print what was found; return the exit status."""
    address = shown(options.address)
    found: list[str] = []
    wrong: list[Exception] = []

    def look() -> None:
        try:
            key, _, _ = common.read_key(options.authkey_file)
            found.append(probe(options.address, key, options.timeout))
        except Exception as error:  # whatever it is, the server does not answer as it should
            wrong.append(error)

    start = perf_counter()
    # Also what has no limit of its own, as looking up the host's name, is limited so.
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(options.timeout)
    milliseconds = (perf_counter() - start) * 1000
    if wrong and isinstance(wrong[0], Refusal) and wrong[0].status == 2:
        raise wrong[0]  # the server was not asked
    if found:
        print(f"{address}: {found[0]} ({milliseconds:.1f} ms)")
        return 0
    why = in_words(wrong[0]) if wrong else None
    print(one_line(f"{address}: {why or f'no answer within {options.timeout:g} s'}"))
    return 1


def in_words(error: Exception) -> str | None:
    """Return why a server does not answer; None where the time was up."""
    if isinstance(error, AuthenticationError):
        return "the key is not the server's" if "digest" in str(error) else str(error)
    if isinstance(error, TimeoutError):
        return None
    if isinstance(error, EOFError):
        return "what is there has closed the connection"
    if isinstance(error, OSError) and error.errno in (errno.ECONNREFUSED, errno.ENOENT):
        return "nobody serves there"
    if isinstance(error, OSError) and error.filename is None:
        return said(error).partition(": ")[0]  # which would name the address again
    return said(error)


def probe(address: Any, key: bytes, timeout: float) -> str:
    """Return what answers at an address, in words; any exception says why nothing does."""
    engine = engine_of(address)
    if engine is not None:
        engine.ping(engine.carried(address))
        return "the server answers"
    if key:
        session = ClientSession(address, "pickle", key, timeout)
        session.control("dummy")
        session.close()
        return "the server answers, and has the key"
    stream = connect(address, None, timeout=timeout)
    try:
        stream.set_limit(HANDSHAKE_LIMIT)
        frame = stream.recv_bytes()
    finally:
        stream.close()
    if not frame.startswith(CHALLENGE):
        raise Refusal(f"what is there is no manager's server (it sent {frame[:20]!r})", 1)
    return "the server answers; no key was tried"
