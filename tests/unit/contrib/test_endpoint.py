"""``fastmgr serve --metrics``: what Prometheus finds there, of a load that is known."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE
from support.services import COMMAND, environment, refused, service

import fastmgr

pytest.importorskip("prometheus_client")

from prometheus_client import CollectorRegistry, Gauge, parser

from fastmgr.contrib import endpoint
from fastmgr.contrib.endpoint import CONNECTIONS

USE = """
import sys, prometheus_client
from fastmgr.contrib import prometheus
prometheus.use(sys.argv[1], b"")
prometheus_client.Counter("hits", "Hits").inc(3)
prometheus_client.Gauge("level", "Level").set(1)
"""


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[str, str]]:
    """Where a server listens, and where its metrics are."""
    path = str(tmp_path / "server.sock")
    with service("--address", path, "--metrics", "127.0.0.1:0") as started:
        port = started.logged("metrics are at")["port"]
        yield path, f"http://127.0.0.1:{port}/metrics"


def scraped(url: str) -> str:
    with urllib.request.urlopen(url, timeout=DEADLINE) as answer:
        assert answer.status == 200
        text: str = answer.read().decode()
        return text


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name and labels: the type's id, then the object's name."""
    return {
        (sample.name, *(text for _, text in sorted(sample.labels.items(), reverse=True))): (
            sample.value
        )
        for family in parser.text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_numbers_of_a_known_load(served: tuple[str, str]) -> None:
    path, url = served
    manager = fastmgr.SyncManager.from_address(path, b"")
    shared, queue = manager.dict(), manager.Queue()
    held = manager.Counter(name="hits of a program")
    for i in range(50):
        shared[i] = i
    with pytest.raises(KeyError):
        shared["none"]
    queue.put(1)
    for _ in range(2):  # nothing is counted twice
        found = samples(scraped(url))
        assert found["fastmgr_object_calls_total", "dict", ""] == 51.0
        assert found["fastmgr_object_call_errors_total", "dict", ""] == 1.0
        assert found["fastmgr_object_items", "dict", ""] == 50.0
        assert found["fastmgr_object_references", "Counter", "hits of a program"] == 1.0
        assert found["fastmgr_calls_total",] == 52.0
        assert (found["fastmgr_clients",], found["fastmgr_connections",]) == (1.0, 1.0)
        assert found["fastmgr_start_time_seconds",] > 1e9
    assert queue.get() == 1 and held.get() == 0
    del shared
    manager.list().append(1)  # which tells the server that the dict has gone
    found = samples(scraped(url))
    assert found["fastmgr_calls_total",] == 54.0
    assert found["fastmgr_object_calls_total", "dict", ""] == 51.0
    assert ("fastmgr_object_references", "dict", "") not in found


def test_metrics_that_programs_keep_there(served: tuple[str, str]) -> None:
    path, url = served
    assert not [name for name, *_ in samples(scraped(url)) if not name.startswith("fastmgr_")]
    for count in (3.0, 6.0):
        subprocess.run([sys.executable, "-c", USE, path], check=True, timeout=DEADLINE)
        found = samples(scraped(url))
        assert found["hits_total",] == count
    assert ("level",) not in {key[:1] for key in found}  # whose process has ended


def test_row_is_looked_for_under_its_lock() -> None:
    """Another scrape must not find another row while one reads."""
    free = []

    class Names(dict[str, Any]):
        def get(self, key: str, default: Any = None) -> Any:
            asking = threading.Thread(
                target=lambda: free.append(hosted.lock.acquire(blocking=False))
            )
            asking.start()
            asking.join()
            return default

    server = types.SimpleNamespace(address="", names=types.SimpleNamespace(objects=Names()))
    hosted = endpoint.HostedSeries(server, "prometheus")
    assert list(endpoint._HostedCollector(series=hosted).collect()) == []
    assert free == [False]


def test_metric_of_a_program_named_as_the_servers(served: tuple[str, str]) -> None:
    path, url = served
    use = USE.replace('"hits"', '"fastmgr_calls"')
    subprocess.run([sys.executable, "-c", use, path], check=True, timeout=DEADLINE)
    text = scraped(url)
    assert text.count("# TYPE fastmgr_calls_total ") == 1
    assert samples(text)["fastmgr_calls_total",] != 3.0


def test_names_are_as_prometheus_wants_them(served: tuple[str, str]) -> None:
    text = scraped(served[1])
    families = list(parser.text_string_to_metric_families(text))
    names = [family.name for family in families]
    assert len(set(names)) == len(names) > 20
    for family in families:
        assert family.documentation and family.type in ("counter", "gauge")
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter")
            assert set(sample.labels) in (set(), {"typeid", "name"})
    promtool = shutil.which("promtool")
    if promtool is not None:
        done = subprocess.run([promtool, "check", "metrics"], input=text, text=True, check=False)
        assert done.returncode == 0


def test_endpoint_does_not_keep_the_service(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with service("--address", path, "--metrics", "127.0.0.1:0") as started:
        url = f"http://127.0.0.1:{started.logged('metrics are at')['port']}/metrics"
        with urllib.request.urlopen(url, timeout=DEADLINE):
            started.process.terminate()
            assert started.ends() == 0


def test_where_it_cannot_be(served: tuple[str, str], tmp_path: Path) -> None:
    where = ("--address", str(tmp_path / "other"))
    assert "HOST:PORT is needed" in refused(*where, "--metrics", "a/path")
    port = served[1].split(":")[2].partition("/")[0]
    said: Any = refused(*where, "--metrics", f"127.0.0.1:{port}", status=1)
    assert "--metrics" in said and "in use" in said
    (tmp_path / "prometheus_client.py").write_text("raise ModuleNotFoundError(name=__name__)")
    done = subprocess.run(
        [*COMMAND, "serve", *where, "--metrics", "127.0.0.1:0"],
        env=environment({"PYTHONPATH": str(tmp_path)}),
        capture_output=True, text=True, timeout=DEADLINE,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.splitlines()[-1].endswith(
        "--metrics needs prometheus-client: pip install 'fastmgr[prometheus]'"
    )


def test_names_that_utf_8_cannot_encode(served: tuple[str, str]) -> None:
    path, url = served
    kept = fastmgr.SyncManager.from_address(path, b"").Counter(name="caf\udce9")
    assert ("fastmgr_object_references", "Counter", "caf?") in samples(scraped(url))
    use = USE.replace('"Hits")', '"Hits", ["path"]).labels("caf\\udce9")')
    subprocess.run([sys.executable, "-c", use, path], check=True, timeout=DEADLINE)
    assert samples(scraped(url))["hits_total", "caf?"] == 3.0
    assert kept.get() == 0


@contextlib.contextmanager
def connected(url: str) -> Iterator[socket.socket]:
    place: Any = urllib.parse.urlsplit(url)
    with socket.create_connection((place.hostname, place.port), DEADLINE) as connection:
        yield connection


def test_connections_that_never_ask(served: tuple[str, str]) -> None:
    """Each would take a thread and a descriptor of the server for ever; some send a bit of late."""
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(connected(served[1])) for _ in range(CONNECTIONS + 1)]
        assert held[-1].recv(1) == b""  # it was one too many
        begun = time.monotonic()
        tricklers = held[: CONNECTIONS // 2]
        while tricklers and time.monotonic() < begun + DEADLINE:
            for one in tricklers.copy():
                try:
                    one.sendall(b"G")
                except OSError:
                    tricklers.remove(one)
            time.sleep(0.1)
        assert not tricklers
        for one in held[CONNECTIONS // 2 : -1]:  # the others have had their time
            assert one.recv(1) == b""
        assert scraped(served[1])


REQUESTS = {
    b"\x16\x03\x01\x02\x00\x01\r\n\r\n": 400,  # TLS
    b"GET /metrics\r\n": None,  # HTTP 0.9 has no status
    b"GET /metrics HTTP/1.1\r\n\r\n": 200,
    b"GET /metrics?a=b HTTP/1.1\r\nHost: elsewhere.example\r\n\r\n": 200,
    b"GET /metrics HTTP/1.0\r\nAccept: application/openmetrics-text; version=x\r\n\r\n": 500,
    b"GET / HTTP/1.0\r\n\r\n": 404,
    b"GET http://[/metrics HTTP/1.0\r\n\r\n": 404,
    b"POST /metrics HTTP/1.0\r\nContent-Length: 99999999999\r\n\r\n": 501,
    b"PRI * HTTP/2.0\r\n\r\n": 505,
    b"GET /" + b"x" * 65_532: 414,
    b"GET /metrics HTTP/1.0\r\n" + b"a: b\r\n" * 200 + b"\r\n": 431,
}


def test_requests_of_all_sorts(served: tuple[str, str]) -> None:
    for request, status in REQUESTS.items():
        with connected(served[1]) as connection:
            connection.sendall(request)
            answer = connection.makefile("rb").read()
        found = re.match(rb"(?:HTTP/1.0 )?(\d+) ", answer)
        assert (found and int(found[1])) == status, answer
        assert scraped(served[1])


def test_answer_that_nobody_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoint, "ANSWER", 0.1)
    registry = CollectorRegistry()
    Gauge("a", "x" * 10_000_000, registry=registry)
    mine, its = socket.socketpair()
    with mine, its:
        mine.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        endpoint._Handler.factory(registry)(its, "", None)  # type: ignore[call-arg]
        assert mine.recv(15) == b"HTTP/1.0 200 OK"
