"""Looking into a running server: what it has counted, who holds which lock, and who waits.

::

    with fastmgr.Monitor("/run/counts.sock", authkey=KEY) as monitor:
        report = monitor.report()
        print(report.server.calls, report.objects[0].typeid)

A report is made by one call, which a thread of the server answers beside its loop. Totals only grow
while the server lives; how much of something there is in a second is for the reader to compute,
from two reports. What a server cannot tell is None.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from multiprocessing import process
from typing import TYPE_CHECKING, Any

from fastmgr.client.sessions import ClientSession, scheme_of
from fastmgr.stock.dialect import RemoteError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = [
    "ClientReport", "LockReport", "Monitor", "NoReport", "ObjectReport", "Party", "Report",
    "ServerReport",
]  # fmt: skip


#: What objects may be put in order by.
ORDERS = ("calls", "seconds", "errors", "bytes", "references", "waiters")


class NoReport(RuntimeError):
    """The server at an address reports nothing: it is another's, or an older one."""


@dataclass(frozen=True)
class ServerReport:
    """What a server tells of itself.

    Attributes
    ----------
    connections, objects, clients : int
        Those that there are.
    accepted : int
        Connections so far.
    refused : int
        Connections that have not proved the key, or not in time.
    calls : int
        Calls of shared objects that were answered, or need no answer, so far; with those of clients
        that have left. What clients do in shared memory is not among them.
    errors : int
        Those of these calls that raised.
    seconds : float
        The time that these calls took in the server, without the time that they waited. The loop
        takes the time of one call in about 16; so this is an estimate for small calls.
    bytes_in, bytes_out : int
        Bytes of these calls and of the replies to them.
    workers, idle_workers : int
        Threads beside the loop, and those of them without work.
    backlog : int or None
        Connections that wait to be accepted. None where the system does not tell: it is not
        Linux, or the server may not ask the kernel, as in a sandbox without AF_NETLINK.
    loop_lag : float
        Seconds: the longest turn of the loop, within the last 10 to 20. So long a client may have
        waited for the loop to look at its request.
    memory : int or None
        Bytes of memory that the server's process has (resident).
    shared_memory : int
        Bytes of memory that clients on the host may map.
    descriptors : int
        Files that the server's process has open.
    """

    objects: int = 0
    clients: int = 0
    connections: int = 0
    accepted: int = 0
    refused: int = 0
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    workers: int = 0
    idle_workers: int = 0
    backlog: int | None = None
    loop_lag: float = 0.0
    memory: int | None = None
    shared_memory: int = 0
    descriptors: int = 0


@dataclass(frozen=True)
class ObjectReport:
    """What a server tells of a shared object.

    Attributes
    ----------
    id : str
        The object's ident, as in its proxies' tokens.
    typeid : str
    name : str or None
        Of a named object.
    references : int
        How many references clients have.
    calls, errors, seconds, bytes_in, bytes_out
        As in `ServerReport`.
    waiters : int
        Calls that wait for the object.
    waited : float
        Seconds that calls have waited for it so far, all together.
    size : int or None
        How many items it has.
    in_memory : bool
        Whether clients on the host may work on it in shared memory, or keep what they have read:
        then there may be more calls than the server counts.
    """

    id: str = ""
    typeid: str = ""
    name: str | None = None
    references: int = 0
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    waiters: int = 0
    waited: float = 0.0
    size: int | None = None
    in_memory: bool = False


@dataclass(frozen=True)
class ClientReport:
    """What a server tells of a client process that is connected.

    Attributes
    ----------
    pid : int or None
        As the process itself sees it; of a client of the standard library's as the server does.
    host : str
        The name of the client's host; its address where the client does not tell.
    name : str
        Of the process.
    address : str
        Where it connects from; empty over a Unix socket.
    connections : int
        One for each of its threads that have used the server.
    threads : tuple of str
        The names of those threads.
    calls, errors, seconds, bytes_in, bytes_out
        As in `ServerReport`.
    references : int or None
        How many objects it has references to; None: it is the standard library's.
    mapped : int
        Bytes of shared memory that it was passed.
    number : int or None
        The server's own number of it. A process may be there twice, as a client of ours and as one
        of the standard library's; the numbers tell the two apart.
    """

    pid: int | None = None
    host: str = ""
    name: str = ""
    address: str = ""
    connections: int = 0
    threads: tuple[str, ...] = ()
    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    bytes_in: int = 0
    bytes_out: int = 0
    references: int | None = None
    mapped: int = 0
    number: int | None = None


@dataclass(frozen=True)
class Party:
    """Who holds something, or waits: a thread of a process.

    Attributes
    ----------
    host : str
    pid : int or None
    process : str or None
        Its name; "server" for the server's own threads.
    thread : str or None
        Its name; None where the server knows only which process it is.
    since : float or None
        For how many seconds. Of what was taken in shared memory, without the server, it is None.
    number : int or None
        The server's own number of the thread (of the process where it does not know the thread),
        which tells threads of one name apart.
    """

    host: str = ""
    pid: int | None = None
    process: str | None = None
    thread: str | None = None
    since: float | None = None
    number: int | None = None


@dataclass(frozen=True)
class LockReport:
    """Who holds a lock, or another object that calls may wait for, and who waits.

    Attributes
    ----------
    id, typeid, name
        As in `ObjectReport`.
    holders : tuple of Party
        Of a semaphore one for each permit that is taken; none of events, barriers and queues.
    waiters : tuple of Party
        In the order in which they are served.
    """

    id: str = ""
    typeid: str = ""
    name: str | None = None
    holders: tuple[Party, ...] = ()
    waiters: tuple[Party, ...] = ()


@dataclass(frozen=True)
class Report:
    """What a server has told at one moment.

    Attributes
    ----------
    version : str
        Of fastmgr in the server.
    pid : int
        Of the server's process.
    started : float
        When it began: seconds since 1970.
    uptime : float
        Seconds since then.
    server : ServerReport
    objects : tuple of ObjectReport
        Those with the largest numbers, in that order: see `Monitor.report`.
    clients : tuple of ClientReport
    locks : tuple of LockReport
        Those that somebody holds, or waits for.
    """

    version: str = ""
    pid: int = 0
    started: float = 0.0
    uptime: float = 0.0
    server: ServerReport = ServerReport()
    objects: tuple[ObjectReport, ...] = ()
    clients: tuple[ClientReport, ...] = ()
    locks: tuple[LockReport, ...] = ()


#: The fields that are rows of other reports.
_ROWS = {
    "objects": ObjectReport,
    "clients": ClientReport,
    "locks": LockReport,
    "holders": Party,
    "waiters": Party,
}


def _decoded(kind: Any, told: dict[str, Any]) -> Any:
    """Return a report of what a server has told; what it does not tell has its default."""
    values = {}
    for field in dataclasses.fields(kind):
        value = told.get(field.name)
        if isinstance(value, dict):
            value = _decoded(ServerReport, value)
        elif isinstance(value, list) and field.name in _ROWS:
            value = tuple(_decoded(_ROWS[field.name], row) for row in value)
        elif isinstance(value, list):
            value = tuple(value)
        if field.name in told:
            values[field.name] = value
    return kind(**values)


def report_of(told: dict[str, Any]) -> Report:
    """Return the report that a server's own function `report` has told."""
    report: Report = _decoded(Report, told)
    return report


class Monitor:
    """One connection to a server, by which it is asked for reports.

    Parameters
    ----------
    address : address
        Where the server listens.
    authkey : bytes, optional
        Its key; that of the current process if None.
    timeout : float, optional
        Seconds that the connection and each report may take; None for no limit.

    Raises
    ------
    ValueError
        The address is one of an engine's, which the server's own tools look into.

    Examples
    --------
    >>> with fastmgr.Monitor(manager.address) as monitor:
    ...     report = monitor.report()
    >>> report.server.clients > 0
    True
    """

    def __init__(
        self, address: Any, *, authkey: bytes | None = None, timeout: float | None = None
    ) -> None:
        scheme = scheme_of(address)
        if scheme is not None:
            raise ValueError(
                f"{scheme}://: what is there is no fastmgr server; its own tools look into it, as "
                "INFO, CLIENT LIST and SLOWLOG of valkey-cli do"
            )
        key = process.current_process().authkey if authkey is None else authkey
        self.address = address
        self._session = ClientSession(address, "pickle", bytes(key), timeout)

    def report(self, *, most: int = 1000, by: str = "calls") -> Report:
        """Ask the server for a report.

        Parameters
        ----------
        most : int, default 1000
            How many objects the report has at most; and how many clients, and locks. A server tells
            of no more than 10,000.
        by : {"calls", "seconds", "errors", "bytes", "references", "waiters"}
            Which objects these are: those with the largest numbers, which come first.

        Returns
        -------
        Report

        Raises
        ------
        NoReport
            The server reports nothing: it is the standard library's, or an older one.
        ValueError
            There is no such number, or no such order.
        OSError, EOFError, multiprocessing.AuthenticationError
            There is no server, or it has another key.
        """
        if type(most) is not int or most < 0:
            raise ValueError(f"most={most!r}: a number of objects, 0 or more, is needed")
        if by not in ORDERS:
            raise ValueError(f"by={by!r}: one of {', '.join(ORDERS)} is needed")
        try:
            told = self._session.control("report", (), {"most": most, "by": by})
        except (RemoteError, ValueError) as error:
            if "'report' unrecognized" not in str(error):
                raise
            raise NoReport(
                f"the server at {self.address!r} reports nothing: it is the standard library's, or "
                "an older one of fastmgr"
            ) from None
        return report_of(told)

    def close(self) -> None:
        """Close the connection."""
        self._session.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()
