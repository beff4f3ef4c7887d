"""A server's numbers as OpenTelemetry's SDK collects them."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager
from support.services import service

import fastmgr

sdk = pytest.importorskip("opentelemetry.sdk.metrics")
from opentelemetry.sdk.metrics.export import InMemoryMetricReader  # noqa: E402

from fastmgr.contrib import opentelemetry  # noqa: E402


def collected(reader: InMemoryMetricReader) -> dict[tuple[str, ...], float]:
    """By the instrument's name and the attributes."""
    data = reader.get_metrics_data()
    found: dict[tuple[str, ...], float] = {}
    for resource in data.resource_metrics if data else ():
        for metric in resource.scope_metrics[0].metrics:
            for point in metric.data.data_points:
                labels = map(str, (point.attributes or {}).values())
                found[(metric.name, *labels)] = point.value
    return found


@pytest.fixture
def reader() -> Any:
    found = InMemoryMetricReader()
    yield found
    found.shutdown()


def test_numbers_of_a_known_load(reader: Any) -> None:
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    with (
        ProbeManager(authkey=KEY) as manager,
        fastmgr.Monitor(manager.address, authkey=KEY) as monitor,
    ):
        asked: list[int] = []
        ask, report = monitor.report, lambda **how: (asked.append(1), ask(**how))[1]
        monitor.report = report  # type: ignore[assignment,method-assign]
        opentelemetry.observe(monitor, provider)
        shared = manager.dict()
        for i in range(10):
            shared[i] = i
        for times in (1, 2):
            found = collected(reader)
            assert found["fastmgr.object_calls", "dict", ""] == 10
            assert found["fastmgr.calls",] == 10
            assert found["fastmgr.received.bytes",] > 100
            assert len(asked) == times  # one report for all instruments
        shared["more"] = 1
        assert collected(reader)["fastmgr.calls",] == 11


def test_while_the_server_is_away(
    reader: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    provider = sdk.MeterProvider([reader], shutdown_on_exit=False)
    monitor = fastmgr.Monitor(str(tmp_path / "s"), authkey=b"")
    opentelemetry.observe(monitor, provider)
    caplog.set_level(logging.WARNING)
    assert collected(reader) == {} == collected(reader)
    with service("--address", str(tmp_path / "s")):
        assert collected(reader)["fastmgr.connections",] >= 1
    assert [record.message[:30] for record in caplog.records] == ["the server cannot be asked: [E"]
    monitor.close()


def test_missing_package_is_told_in_one_line() -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; import fastmgr.contrib."
    done = subprocess.run(
        [sys.executable, "-c", program + "opentelemetry"], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: fastmgr.contrib.opentelemetry needs opentelemetry-api: "
        "pip install 'fastmgr[opentelemetry]'"
    )
