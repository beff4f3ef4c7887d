"""A server's own numbers for Prometheus, served by its process: ``fastmgr serve --metrics``.

A thread for each connection answers.  It asks the server for a report as a worker would, so the
loop has nothing to do with it.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from prometheus_client import CollectorRegistry, make_wsgi_app
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
#: Seconds for which a connection may be silent, or not read.
SILENCE = 5.0


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


class _Handler(WSGIRequestHandler):
    """Answers one connection, and logs nothing."""

    timeout = SILENCE

    def log_message(self, format: str, *args: Any) -> None:
        """Log no request."""


class _HTTPServer(ThreadingMixIn, WSGIServer):
    """Serves each connection by a thread, and no more of them than `CONNECTIONS` at once."""

    daemon_threads = True

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
    httpd = _HTTPServer((host, port), _Handler)
    httpd.set_app(make_wsgi_app(registry))
    threading.Thread(target=httpd.serve_forever, name="fastmgr-metrics", daemon=True).start()
    # What the server's code forks must not keep the port.
    os.register_at_fork(after_in_child=httpd.socket.close)
    return int(httpd.server_port)
