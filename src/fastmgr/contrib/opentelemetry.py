"""A server's numbers for OpenTelemetry: observable instruments over a `fastmgr.Monitor`.

::

    with fastmgr.Monitor("/run/fastmgr/server.sock", authkey=KEY) as monitor:
        opentelemetry.observe(monitor)

It needs OpenTelemetry's API alone; the program chooses an SDK, and where that sends the numbers.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from typing import Any

import fastmgr
from fastmgr.contrib.metrics import (
    OBJECTS,
    OF_OBJECTS,
    OF_SERVER,
    STARTED,
    Labels,
    Metric,
    Readings,
)

try:
    from opentelemetry import metrics
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] != "opentelemetry":
        raise
    raise ModuleNotFoundError(
        "fastmgr.contrib.opentelemetry needs opentelemetry-api: "
        "pip install 'fastmgr[opentelemetry]'",
        name=_error.name,
    ) from None

__all__ = ["observe"]

UNITS = {"seconds": "s", "bytes": "By", "": "1"}

log = logging.getLogger("fastmgr.contrib.opentelemetry")


class _Source:
    """One report for all instruments of one collection."""

    def __init__(self, monitor: fastmgr.Monitor) -> None:
        self.readings = Readings(lambda: monitor.report(most=OBJECTS))
        self.lock = threading.Lock()
        self.found: dict[Metric, list[tuple[Labels, float]]] = {}
        self.taken: set[Metric] = set()
        self.told = False

    def numbers(self, metric: Metric) -> list[tuple[Labels, float]]:
        """Return those of one metric; a new report is made for who has had the last already."""
        with self.lock:
            if metric in self.taken or not self.taken:
                self.taken.clear()
                self.read()
            self.taken.add(metric)
            return self.found.get(metric, [])

    def read(self) -> None:
        """Ask for a report; nothing is observed while the server is away."""
        try:
            self.found = dict(self.readings.read())
            self.told = False
        except (OSError, EOFError, fastmgr.RemoteError) as error:
            self.found = {}
            if not self.told:
                self.told = True
                log.warning("the server cannot be asked: %s", error)


def observe(monitor: fastmgr.Monitor, meter_provider: Any = None) -> None:
    """Make instruments that observe a server whenever metrics are collected.

    Their names are those of ``fastmgr serve --metrics``, as ``fastmgr.call.seconds``; totals are
    observable counters, other numbers observable gauges.

    Parameters
    ----------
    monitor : Monitor
        It has to stay open. While the server is away nothing is observed, and that is logged once.
    meter_provider : MeterProvider, optional
        The global one by default.
    """
    meter = metrics.get_meter("fastmgr", fastmgr.__version__, meter_provider)
    source = _Source(monitor)

    def observed(metric: Metric) -> Callable[[Any], Iterable[metrics.Observation]]:
        return lambda options: [
            metrics.Observation(value, dict(labels)) for labels, value in source.numbers(metric)
        ]

    for metric in (STARTED, *OF_SERVER, *OF_OBJECTS):
        make = meter.create_observable_counter if metric.grows else meter.create_observable_gauge
        name = ".".join(filter(None, ("fastmgr", metric.name, metric.unit)))
        make(name, [observed(metric)], UNITS[metric.unit], metric.about)
