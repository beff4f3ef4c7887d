"""A server's own numbers for Prometheus, served by its process: ``fastmgr serve --metrics``.

A thread for each connection answers.  It asks the server for a report as a worker would, so the
loop has nothing to do with it.
"""

from __future__ import annotations

import io
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from socketserver import TCPServer, ThreadingMixIn
from typing import Any

from prometheus_client import CollectorRegistry, MetricsHandler
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector as _Collector

from fastmgr.contrib.metrics import (
    OBJECTS,
    OF_OBJECTS,
    OF_SERVER,
    STARTED,
    Metric as Number,
    Readings,
)
from fastmgr.contrib.prometheus import NAME, Collector
from fastmgr.contrib.series import FIRST, FORMAT, Series
from fastmgr.kinds.counters import Counters
from fastmgr.monitor import Report, report_of

__all__ = ["HostedSeries", "ServerCollector", "start"]

#: Connections that are served at once; one more is closed, for each takes a thread and a descriptor
#: of the server.
CONNECTIONS = 32
#: Seconds within which a request has to arrive, and its answer to be read.
REQUEST, ANSWER = 5.0, 30.0

log = logging.getLogger("fastmgr.contrib.endpoint")


def _name(number: Number) -> str:
    return "_".join(filter(None, ("fastmgr", number.name, number.unit)))


class ServerCollector(_Collector):
    """Collects the numbers of a server.

    Parameters
    ----------
    ask : callable
        Returns a report; as of ``lambda: monitor.report(most=10_000)``.
    """

    def __init__(self, ask: Callable[[], Report]) -> None:
        self._readings = Readings(ask)

    def describe(self) -> list[Metric]:
        """Return no names: nothing is asked before the first scrape."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics, as of one report."""
        for metric, numbers in self._readings.read():
            kind = CounterMetricFamily if metric.grows else GaugeMetricFamily
            labels = ["typeid", "name"] if metric.name.startswith("object_") else []
            family = kind(_name(metric), metric.about, labels=labels)
            for named, value in numbers:
                family.add_metric([text for _, text in named], value)
            yield family


class HostedSeries(Series):
    """The series that `fastmgr.contrib.prometheus` keeps in the server of this very process."""

    def __init__(self, server: Any, name: str) -> None:
        super().__init__(server.address, None, name)
        self.server = server

    def reach(self) -> bool:
        """Return whether the server has such a row; nobody makes one for a scrape."""
        row = self.server.names.objects.get(self.name)
        if not isinstance(row, Counters) or row.names is not None or len(row) <= FIRST:
            return False
        if row is not self.row:
            self.row = row
            self.forget()
        return bool(row[0] == FORMAT)

    def here(self) -> tuple[bytes, int]:
        """Return which server it is; this process has no session there."""
        return self.server.instance, 0

    def sessions(self) -> set[int]:
        """Return the numbers of the sessions that there are."""
        return {session.number for session in list(self.server.table.sessions.values())}


class _HostedCollector(Collector):
    """Collects what programs count here, if any does."""

    _taken = tuple(_name(one) + "_total" * one.grows for one in (STARTED, *OF_SERVER, *OF_OBJECTS))

    def _nothing(self) -> None:
        """No program counts here."""


class _Arriving(io.RawIOBase):
    """The request of a connection: all of it has to arrive within `REQUEST` seconds."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection, self.until = connection, time.monotonic() + REQUEST

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Wait for bytes, as long as there is time."""
        left = self.until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request has not arrived in time")
        self.connection.settimeout(left)
        return self.connection.recv_into(buffer)


class _Handler(MetricsHandler):
    """Answers one connection, and logs nothing.

    As with other exporters, any Host header will do, for Prometheus comes by whatever name it has
    been given.
    """

    server_version, sys_version = "fastmgr", ""
    error_content_type = "text/plain; charset=utf-8"
    error_message_format = "%(code)d %(message)s: %(explain)s\n"

    def setup(self) -> None:
        """Have a limit for the whole request."""
        super().setup()
        self.rfile = io.BufferedReader(_Arriving(self.connection))

    def do_GET(self) -> None:
        """Answer a scrape; what else is asked for is not there."""
        self.connection.settimeout(ANSWER)
        if self.path.partition("?")[0] != "/metrics":
            self.send_error(404, explain="the metrics are at /metrics")
            return
        try:
            super().do_GET()
        except (ConnectionError, TimeoutError):  # the peer has gone, or does not read
            raise
        except Exception as error:
            log.warning("the metrics cannot be shown: %s: %s", type(error).__name__, error)
            self.send_error(500, explain="the metrics cannot be shown")


class _HTTPServer(ThreadingMixIn, TCPServer):
    """Serves each connection by a thread, and no more of them than `CONNECTIONS` at once."""

    allow_reuse_address = True
    daemon_threads = True
    request_queue_size = CONNECTIONS

    def __init__(self, *args: Any) -> None:
        self.free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Start a thread for a connection, or close it."""
        if not self.free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.free.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a connection, in its thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a peer that was silent or has gone."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def start(server: Any, host: str, port: int) -> int:
    """Serve the numbers of a server of this process, and what programs count there.

    Parameters
    ----------
    server : Server
    host : str
    port : int
        0 for one that is free.

    Returns
    -------
    int
        The port.

    Raises
    ------
    OSError
        The address cannot be used.
    """
    registry = CollectorRegistry()
    registry.register(ServerCollector(lambda: report_of(server.report(None, OBJECTS))))
    _HostedCollector(registry, series=HostedSeries(server, NAME))
    httpd = _HTTPServer((host, port), _Handler.factory(registry))
    threading.Thread(target=httpd.serve_forever, name="fastmgr-metrics", daemon=True).start()
    # What the server's code forks must not keep the port.
    os.register_at_fork(after_in_child=httpd.socket.close)
    return int(httpd.server_address[1])
