"""prometheus-client's metrics on a server: those of all processes, also of those that are gone."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, KEY, ProbeManager, kill, poll
from support.services import service

pc = pytest.importorskip("prometheus_client")
from prometheus_client import values  # noqa: E402
from prometheus_client.parser import text_string_to_metric_families  # noqa: E402

import fastmgr  # noqa: E402
from fastmgr.contrib import (  # noqa: E402
    prometheus,
    series,
    values as contrib_values,
)

FORK: Any = multiprocessing.get_context("fork")
Totals = dict[tuple[str, tuple[tuple[str, str], ...]], float]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Iterator[pc.CollectorRegistry]:
    """An empty registry, in a process whose metrics live nowhere yet."""
    monkeypatch.setattr(prometheus, "_used", None)
    monkeypatch.setattr(values, "ValueClass", values.MutexValue)
    monkeypatch.setattr(series, "PAUSE", 0.0)
    yield pc.CollectorRegistry()


@pytest.fixture
def used(
    registry: pc.CollectorRegistry, manager: ProbeManager, request: pytest.FixtureRequest
) -> Iterator[pc.CollectorRegistry]:
    """The same, whose metrics live on a server."""
    prometheus.use(manager.address, KEY, name=request.node.name, registry=registry)
    yield registry
    manager.forget(request.node.name)


def scraped(created: bool = False) -> Totals:
    """What a scrape shows, by name and labels; each has to be there once."""
    registry = pc.CollectorRegistry()
    prometheus.Collector(registry)
    families = list(text_string_to_metric_families(pc.generate_latest(registry).decode()))
    samples = [sample for family in families for sample in family.samples]
    found = {(sample.name, tuple(sample.labels.items())): sample.value for sample in samples}
    assert len(found) == len(samples)
    assert len({family.name for family in families}) == len(families)
    return found if created else {
        key: value for key, value in found.items() if not key[0].endswith("_created")
    }  # fmt: skip


def in_child(function: Callable[[], object], killed: bool = False) -> Any:
    """Call a function in a child of a fork, which then ends, or waits to be killed."""
    ready = FORK.Event()

    def run() -> None:
        function()
        ready.set()
        if killed:
            FORK.Event().wait()

    child = FORK.Process(target=run, daemon=True)
    child.start()
    assert ready.wait(DEADLINE)
    if not killed:
        child.join(DEADLINE)
        assert child.exitcode == 0
    return child


def end(child: Any) -> None:
    kill(child.pid)
    child.join(DEADLINE)


def test_counters_of_all_processes(used: pc.CollectorRegistry) -> None:
    hits = pc.Counter("hits", "Hits", ["path"], registry=used)
    hits.labels("/").inc()

    def count() -> None:
        hits.labels("/").inc(2.5)
        hits.labels("/new").inc()

    end(in_child(count, killed=True))
    in_child(count)
    assert scraped() == {
        ("hits_total", (("path", "/"),)): 6.0,
        ("hits_total", (("path", "/new"),)): 2.0,
    }
    assert scraped(created=True)["hits_created", (("path", "/new"),)] > 1e9
    # What each process shows by itself of what it knows are the same totals.
    assert used.get_sample_value("hits_total", {"path": "/"}) == 6.0
    hits.labels("/").reset()
    assert scraped()["hits_total", (("path", "/"),)] == 0.0


def test_histograms_and_summaries_of_all_processes(used: pc.CollectorRegistry) -> None:
    taken = pc.Histogram("taken", "Time", buckets=[1, 2], registry=used)
    size = pc.Summary("size", "Size", registry=used)

    def observe() -> None:
        for amount in (0.5, 1.5, 3):
            taken.observe(amount)
        size.observe(4)

    observe()
    in_child(observe)
    assert scraped() == {
        ("taken_bucket", (("le", "1.0"),)): 2.0,
        ("taken_bucket", (("le", "2.0"),)): 4.0,
        ("taken_bucket", (("le", "+Inf"),)): 6.0,
        ("taken_count", ()): 6.0,
        ("taken_sum", ()): 10.0,
        ("size_count", ()): 2.0,
        ("size_sum", ()): 8.0,
    }


def test_metrics_that_were_made_before(
    registry: pc.CollectorRegistry, manager: ProbeManager, request: pytest.FixtureRequest
) -> None:
    hits = pc.Counter("hits", "Hits", ["path"], registry=registry)
    level = pc.Gauge("level", "Level", multiprocess_mode="sum", registry=registry)
    taken = pc.Histogram("taken", "Time", buckets=[1], registry=registry)
    state = pc.Enum("state", "State", states=["up", "down"], registry=registry)
    child = hits.labels("/")
    child.inc(3)
    level.set(0.3)
    taken.observe(5)
    state.state("down")
    prometheus.use(manager.address, KEY, name=request.node.name, registry=registry)
    prometheus.use(manager.address, KEY, name=request.node.name, registry=registry)
    child.inc()
    found = scraped()
    assert found["hits_total", (("path", "/"),)] == 4.0
    assert (found["level", ()], found["taken_sum", ()], found["taken_count", ()]) == (0.3, 5.0, 1.0)
    with pytest.raises(RuntimeError, match="cannot move"):
        prometheus.use(manager.address, KEY, name="another")
    manager.forget(request.node.name)


MODES = sorted(pc.Gauge._MULTIPROC_MODES)
#: What the parent, a process that lives and one that was killed set, in this order.
SET = 4.0, 7.0, 1.0


def gauges(mode: str, registry: Any) -> Any:
    return pc.Gauge("level", "Level", multiprocess_mode=mode, registry=registry)


@pytest.mark.parametrize("mode", MODES)
def test_gauges_of_each_mode(mode: str, used: pc.CollectorRegistry) -> None:
    level = gauges(mode, used)
    level.set(100)
    level.set(SET[0])
    other = in_child(lambda: level.set(SET[1]), killed=True)
    end(in_child(lambda: level.set(SET[2]), killed=True))
    one, two, three = SET
    of_processes = {(("pid", str(os.getpid())),): one, (("pid", str(other.pid)),): two}
    expected: dict[str, Any] = {
        "all": of_processes, "sum": one + two + three, "max": two, "min": three,
        "mostrecent": three, "liveall": of_processes, "livesum": one + two, "livemax": two,
        "livemin": one, "livemostrecent": two,
    }  # fmt: skip
    wanted = expected[mode] if mode.endswith("all") else {(): expected[mode]}
    dead_are_gone = lambda: {labels: value for (_, labels), value in scraped().items()} == wanted  # noqa: E731
    poll(dead_are_gone, f"the server has seen the death: {scraped()} is to be {wanted}")
    if not mode.endswith("mostrecent"):
        level.inc(0.5)
        level.dec(0.25)
        assert level._value.mine == one + 0.25
    end(other)
    # Who comes takes the place of who went, and what counts of those that ended still does.
    end(in_child(lambda: level.set(2.0), killed=True))
    if mode in ("min", "max", "sum"):
        expected = {"min": three, "max": two, "sum": one + 0.25 + two + three + 2.0}
        assert scraped() == {("level", ()): expected[mode]}


def test_dead_processes_leave_no_records(used: pc.CollectorRegistry) -> None:
    level = gauges("livesum", used)
    level.set(1)
    ends = []
    for _ in range(12):
        in_child(lambda: level.set(1))
        poll(lambda: scraped() == {("level", ()): 1.0}, "the server has seen its end")
        ends.append(prometheus._used.series.end)  # type: ignore[union-attr]
    assert len(set(ends)) == 1


def test_a_metric_that_was_changed(used: pc.CollectorRegistry) -> None:
    gauges("sum", used).set(5)
    gauges("mostrecent", None).set(3)
    assert scraped() == {("level", ()): 3.0}


def place(typ: str, mode: str, metric: str, suffix: str = "", **labels: str) -> int:
    """Have a series in the row, as another program makes one; return where."""
    about = [typ, mode, metric, metric + suffix, list(labels), list(labels.values()), "", 0]
    shared: Any = prometheus._used
    at: int = shared.series.place(json.dumps(about).encode(), 1.0)
    return at


STRANGE = [
    b"\xff", b"[", b"null", b"[" * 50_000, b'["counter"]',
    b'["counter", "", "a", "b_total", [], [], "", 0]',
    b'["counter", "", "a", "a_total", ["x", "x"], ["1", "2"], "", 0]',
    b'["counter", "", "a", "a_total", ["x"], [], "", 0]',
    b'["counter", "", "a", "a_total", [""], ["1"], "", 0]',
    b'["counter", "", "a", "a_total", [1], ["1"], "", 0]',
    b'["counter", "", "", "_total", [], [], "", 0]',
    b'["stateset", "", "a", "a", [], [], "", 0]',
    b'["histogram", "", "a", "a_bucket", ["le"], ["many"], "", 0]',
    b'["histogram", "", "a", "a_bucket", [], [], "", 0]',
]  # fmt: skip


def test_what_is_no_metric_spoils_no_scrape(
    used: pc.CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    pc.Counter("hits", "Hits", registry=used).inc()
    for key in STRANGE:
        prometheus._used.series.place(key)  # type: ignore[union-attr]
    for _ in range(2):
        assert scraped() == {("hits_total", ()): 1.0}
    assert len(caplog.records) == len(STRANGE)


def test_programs_that_disagree_on_a_metric(
    used: pc.CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    """The scrape stays valid, shows what was made last, and says what is wrong."""
    gauges = place("gauge", "sum", "jobs"), place("gauge", "sum", "jobs", kind="a")
    place("counter", "", "jobs", "_total")
    place("gauge", "sum", "jobs", kind="b")
    place("summary", "", "size", "_sum")
    place("gauge", "sum", "size_sum")
    for _ in range(2):
        assert scraped() == {("jobs_total", ()): 1.0, ("size_sum", ()): 1.0}
    first, second = (record.message for record in caplog.records)
    assert "size (summary) is not shown, but size_sum (gauge sum) is" in first
    assert "jobs (gauge sum) is not shown, but jobs (counter) is" in second
    assert len(set(gauges)) == 2


def test_programs_that_disagree_on_labels(
    used: pc.CollectorRegistry, caplog: pytest.LogCaptureFixture
) -> None:
    place("counter", "", "hits", "_total", path="/", code="1")
    place("counter", "", "hits", "_total", code="1", path="/")
    assert scraped() == {("hits_total", (("code", "1"), ("path", "/"))): 2.0}
    assert not caplog.records
    place("counter", "", "hits", "_total", path="/")
    for _ in range(2):
        assert scraped()["hits_total", (("path", "/"),)] == 1.0
    (said,) = (record.message for record in caplog.records)
    assert "hits (counter) with different labels" in said
    level = pc.Gauge("level", "", ["pid"], multiprocess_mode="all", registry=used)
    level.labels("1").set(1)
    level.labels("2").set(1)
    assert scraped()["level", (("pid", str(os.getpid())),)] == 1.0


def test_while_the_server_is_away(
    registry: pc.CollectorRegistry, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = ("--address", str(tmp_path / "s"), "--arena", str(tmp_path / "arena"))
    prometheus.use(words[1], b"", registry=registry)  # it is not there yet
    hits = pc.Counter("hits", "Hits", registry=registry)
    level = gauges("livesum", registry)
    latest = pc.Gauge("latest", "Latest", multiprocess_mode="mostrecent", registry=registry)
    hits.inc()
    level.set(3)
    latest.set(8)
    assert hits._value.get() == 1.0
    for count in (2.0, 4.0):
        with service(*words):
            hits.inc()
            found = scraped()
            assert found == {
                ("hits_total", ()): count, ("level", ()): 3.0, ("latest", ()): 8.0
            }  # fmt: skip
        hits.inc()
        with pytest.raises((OSError, EOFError)):
            scraped()
    away = [record for record in caplog.records if "is away" in record.message]
    assert len(away) == 3 and "FileNotFoundError" in away[0].message


def test_a_server_that_does_not_answer(
    registry: pc.CollectorRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A scrape gives up, too: while it waits nothing is counted."""
    for module in (series, prometheus, contrib_values):
        monkeypatch.setattr(module, "LIMIT", 0.2)
    with ProbeManager(("127.0.0.1", 0), KEY) as manager:
        prometheus.use(manager.address, KEY, registry=registry)
        hits = pc.Counter("hits", "Hits", registry=registry)
        hits.inc()
        os.kill(manager._process.pid, signal.SIGSTOP)
        os.waitpid(manager._process.pid, os.WUNTRACED)
        try:
            for _ in range(2):
                with pytest.raises(fastmgr.CallTimeout):
                    scraped()
                hits.inc()
                assert hits._value.get() >= 2.0
        finally:
            os.kill(manager._process.pid, signal.SIGCONT)
        poll(lambda: hits.inc(0) or not prometheus._used.owing, "what is owed is paid")  # type: ignore[union-attr]
        assert scraped()["hits_total", ()] >= 3.0


def test_a_server_that_has_lost_all(registry: pc.CollectorRegistry, tmp_path: Path) -> None:
    """Counters begin anew, as those of a program that is restarted; gauges are what they are."""
    prometheus.use(str(tmp_path / "s"), b"", registry=registry)
    hits = pc.Counter("hits", "Hits", registry=registry)
    busy = gauges("sum", registry)
    for _ in range(2):
        with service("--address", str(tmp_path / "s")):
            hits.inc()
            busy.inc()
            assert scraped() == {("hits_total", ()): 1.0, ("level", ()): busy._value.mine}
    assert busy._value.mine == 2.0


def test_without_shared_memory(
    registry: pc.CollectorRegistry, off_manager: ProbeManager, request: pytest.FixtureRequest
) -> None:
    prometheus.use(off_manager.address, KEY, name=request.node.name, registry=registry)
    hits = pc.Counter("hits", "Hits", registry=registry)
    in_child(hits.inc)
    levels = {mode: pc.Gauge(mode, "", multiprocess_mode=mode, registry=registry) for mode in MODES}
    hits.inc(2)
    for level in levels.values():
        level.set(3)
    assert hits._value.get() == 3.0
    found = {name: value for (name, _), value in scraped().items()}
    assert found == {"hits_total": 3.0, **dict.fromkeys(MODES, 3.0)}
    hits.reset()
    assert hits._value.get() == 0.0
    off_manager.forget(request.node.name)


def test_what_is_refused(
    registry: pc.CollectorRegistry, manager: ProbeManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RuntimeError, match="has to be called first"):
        prometheus.Collector()
    with pytest.raises(multiprocessing.AuthenticationError):
        prometheus.use(manager.address, b"wrong")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/tmp")
    with pytest.raises(RuntimeError, match="unset it"):
        prometheus.use(manager.address, KEY)
    assert prometheus._used is None


def test_missing_package_is_told_in_one_line() -> None:
    program = "import sys; sys.modules['prometheus_client'] = None; import fastmgr.contrib."
    done = subprocess.run(
        [sys.executable, "-c", program + "prometheus"], capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == (
        "ModuleNotFoundError: fastmgr.contrib.prometheus needs prometheus-client: "
        "pip install 'fastmgr[prometheus]'"
    )
