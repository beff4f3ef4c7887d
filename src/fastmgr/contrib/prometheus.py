"""Metrics of prometheus-client that all processes of a program share, on a fastmgr server.

It takes the place of prometheus-client's multiprocess mode (docs/howto/prometheus.md)::

    from fastmgr.contrib import prometheus
    prometheus.use("/run/fastmgr/server.sock", authkey=b"")

in each worker, or before workers are forked.  Counters, gauges, histograms and summaries of
prometheus-client then live in shared memory: an increment is one atomic step there.  A scrape
shows what all workers have counted, those that were killed too::

    registry = prometheus_client.CollectorRegistry()
    prometheus.Collector(registry)
    prometheus_client.generate_latest(registry)
"""

from __future__ import annotations

import atexit
import json
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import fastmgr
from fastmgr.contrib.metrics import encodable
from fastmgr.contrib.series import AWAY, LIMIT, OWNER, PID, TIME, VALUE, Series, float_of
from fastmgr.contrib.values import EXTREMES, OF_THE_DEAD, SHARED, Ledger

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Metric, metrics, values
    from prometheus_client.registry import Collector as _Collector
    from prometheus_client.utils import floatToGoString as _spelled
except ModuleNotFoundError as _error:
    if (_error.name or "").partition(".")[0] != "prometheus_client":
        raise
    raise ModuleNotFoundError(
        "fastmgr.contrib.prometheus needs prometheus-client: pip install 'fastmgr[prometheus]'",
        name=_error.name,
    ) from None

__all__ = ["Collector", "use"]

#: The name of the row on the server, where the program gives none.
NAME = "prometheus"


def use(
    address: Any,
    authkey: bytes | None = None,
    *,
    name: str = NAME,
    registry: CollectorRegistry | None = REGISTRY,
) -> None:
    """Have the metrics of this process, and of those it forks, live on a server.

    Those of a registry that were made before move there with what they have counted.  While the
    server is away increments are kept in the process, and added when the server is back: none
    raises because of that.

    Parameters
    ----------
    address : address
        The server's, as of ``fastmgr serve``: the path of a Unix socket, for only over one is
        memory shared.
    authkey : bytes, optional
        The server's key; the current process's by default, ``b""`` where it has none.
    name : str
        Under which the server keeps the metrics: all who give the same count together.
    registry : CollectorRegistry or None
        The metrics in it move; None: only those that are made from now on live on the server.

    Raises
    ------
    AuthenticationError
        It is not the server's key.
    TypeError, ValueError
        The name is another object's.
    RuntimeError
        PROMETHEUS_MULTIPROC_DIR is set, or other metrics are in use in this process.
    """
    global _used
    if any(os.environ.get(key) for key in ("PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir")):
        raise RuntimeError(
            "PROMETHEUS_MULTIPROC_DIR is set in the environment, so prometheus-client has a file "
            "for each process: unset it to use fastmgr instead"
        )
    if _used is not None:
        if (_used.series.address, _used.series.name) == (address, name):
            return
        raise RuntimeError(
            f"the metrics of this process are on {_used.series.address!r} already, as "
            f"{_used.series.name!r}: they cannot move"
        )
    used = Ledger(Series(address, authkey, name))
    try:
        used.series.reach()
    except AWAY as error:
        used.lost(error)
    _used = used
    values.ValueClass = used.value
    if registry is not None:
        for metric in dict.fromkeys(registry._collector_to_names):
            if isinstance(metric, metrics.MetricWrapperBase):
                _move(metric)


def _move(metric: Any) -> None:
    """Have a metric, and all its children, make their values anew, and count on from there."""
    for child in list(getattr(metric, "_metrics", {}).values()):
        _move(child)
    if not metric._is_observable():
        return
    before = list(_values_of(metric))
    if before:
        created = getattr(metric, "_created", None)
        metric._metric_init()
        metric._created = created
    for old, new in zip(before, _values_of(metric), strict=True):
        if counted := old.get():
            (new.set if new.about[0] == "gauge" else new.inc)(counted)


def _values_of(metric: Any) -> Iterator[Any]:
    for attribute in ("_value", "_count", "_sum"):
        value = getattr(metric, attribute, None)
        if hasattr(value, "get_exemplar"):  # those of Info and Enum are none
            yield value
    yield from getattr(metric, "_buckets", ())


_used: Ledger | None = None


def _begin_process() -> None:
    if _used is not None:
        _used.begin_process()


def _pay() -> None:
    if _used is not None:
        _used.pay()


os.register_at_fork(after_in_child=_begin_process)
atexit.register(_pay)


# -- what a scrape shows --------------------------------------------------------------------

Labels = tuple[tuple[str, str], ...]

#: What comes behind a metric's name in the names of its samples.
SUFFIXES = {
    "counter": ("_total", "_created"),
    "gauge": ("",),
    "summary": ("_count", "_sum", "_created"),
    "histogram": ("_bucket", "_count", "_sum", "_created"),
}


class _About(NamedTuple):
    """What the key of a series says."""

    typ: str
    mode: str
    metric: str
    name: str
    labels: Labels
    #: Of a bucket of a histogram.
    bound: float | None
    help: str
    part: int


def _about(key: bytes) -> _About:
    """Read a key; an exception of any class where it would spoil a scrape."""
    typ, mode, metric, name, names, values_, help_text, part = json.loads(key)
    # One bad text would spoil each scrape of all processes: a record is never removed.
    labels = dict(zip(map(encodable, names), map(encodable, values_), strict=True))
    bound = float(labels.pop("le")) if (typ, name) == ("histogram", f"{metric}_bucket") else None
    spoiled = "" in labels or len(labels) + (bound is not None) != len(names)
    if spoiled or name not in [metric + suffix for suffix in SUFFIXES[typ]]:
        raise ValueError(key)
    shown = Metric(encodable(metric), encodable(help_text), typ)
    # Two programs may name the same labels in another order.
    in_order = tuple(sorted(labels.items()))
    return _About(
        typ, str(mode), shown.name, encodable(name), in_order, bound, shown.documentation, int(part)
    )


class _Family:
    """A metric with the samples of all processes."""

    def __init__(self, typ: str, mode: str, name: str) -> None:
        self.kind = typ, mode
        self.name = name
        self.help = ""
        self.samples: dict[tuple[str, Labels], float] = {}
        #: When each series began, or was set last.
        self.times: dict[Labels, float] = {}
        self.buckets: dict[Labels, dict[float, float]] = {}

    def __str__(self) -> str:
        return f"{self.name} ({' '.join(filter(None, self.kind))})"

    def names(self) -> set[str]:
        """Return the names that no other metric may have."""
        return {self.name, *(self.name + suffix for suffix in SUFFIXES[self.kind[0]])}

    def add(self, about: _About, value: float, stamp: float) -> None:
        """Count a series of a metric to which all processes add."""
        labels = about.labels
        if about.bound is not None:
            buckets = self.buckets.setdefault(labels, {})
            buckets[about.bound] = buckets.get(about.bound, 0.0) + value
        else:
            key = about.name, labels
            self.samples[key] = self.samples.get(key, 0.0) + value
        self.times[labels] = min(stamp, self.times.get(labels, stamp))

    def add_gauge(self, labels: Labels, value: float, stamp: float, pid: int) -> None:
        """Count a gauge, or that of one process."""
        mode = self.kind[1].removeprefix("live")
        if mode == "all":
            labels = tuple({**dict(labels), "pid": str(pid)}.items())
        key = self.name, labels
        before = self.samples.get(key)
        if before is not None:
            if mode == "mostrecent":
                value = value if stamp > self.times[labels] else before
                stamp = max(stamp, self.times[labels])
            elif mode != "all":
                value = EXTREMES.get(mode, float.__add__)(before, value)
        self.samples[key], self.times[labels] = value, stamp

    def metric(self) -> Metric:
        """Return it as prometheus-client shows it."""
        found = Metric(self.name, self.help, self.kind[0])
        for labels, buckets in self.buckets.items():
            total = 0.0
            for bound in sorted(buckets):
                total += buckets[bound]
                named = {**dict(labels), "le": _spelled(bound)}  # type: ignore[no-untyped-call]
                found.add_sample(f"{self.name}_bucket", named, total)
            found.add_sample(f"{self.name}_count", dict(labels), total)
        for (name, labels), value in self.samples.items():
            found.add_sample(name, dict(labels), value)
        if self.kind[0] != "gauge" and getattr(metrics, "_use_created", False):
            for labels, began in self.times.items():
                found.add_sample(f"{self.name}_created", dict(labels), began)
        return found


class Collector(_Collector):
    """Collects what all processes have counted, for a scrape by any of them.

    Parameters
    ----------
    registry : CollectorRegistry, optional
        Where it is registered: one of its own, for the metrics themselves are in the default one.
    series : Series, optional
        What is shown; by default what `use` has named.

    Raises
    ------
    RuntimeError
        `use` was not called.
    """

    #: Names that no metric may have here.
    _taken: Iterable[str] = ()

    def __init__(
        self, registry: CollectorRegistry | None = None, *, series: Series | None = None
    ) -> None:
        if series is None:
            if _used is None:
                raise RuntimeError("fastmgr.contrib.prometheus.use(address) has to be called first")
            series = _used.series
        self._series = series
        self._read: dict[bytes, _About | None] = {}
        if registry is not None:
            registry.register(self)

    def describe(self) -> list[Metric]:
        """Return no names: those of the metrics are known at each scrape alone."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield the metrics.

        Raises
        ------
        OSError, EOFError
            The server is away.
        """
        series = self._series
        # Increments may have to wait for the lock.
        with series.lock, fastmgr.timeout(LIMIT):
            if _used is not None and _used.series is series and series.reach():
                _used.note_meeting()
                _used.pay()
            if not series.reach():
                return self._nothing()
            try:
                words = series.row.snapshot()
                series.look(words)
                families = self._families(words)
            except AWAY:
                series.lose()
                raise
        for family in self._apart(families):
            yield family.metric()

    def _nothing(self) -> None:
        """There is no row that can be shown."""
        raise ConnectionError(f"the server at {self._series.address!r} is away")

    def _families(self, words: list[int]) -> list[_Family]:
        """Add up the series; the families come in the order in which programs made them."""
        families: dict[tuple[str, ...], _Family] = {}
        records = self._series.records
        living = self._series.living({words[at + OWNER] for at in records})
        for at, key in records.items():
            about = self._about(key)
            if about is None:
                continue
            kind = about.metric, about.typ, about.mode
            family = families.get(kind)
            if family is None:
                family = families[kind] = _Family(about.typ, about.mode, about.metric)
            family.help = about.help
            value, stamp = float_of(words[at + VALUE]), float_of(words[at + TIME])
            owner = words[at + OWNER]
            if about.typ != "gauge":
                family.add(about, value, stamp)
            elif about.part == OF_THE_DEAD and not math.isfinite(value):
                pass  # nobody has left anything
            elif about.part <= SHARED or owner in living or (owner and about.mode in EXTREMES):
                family.add_gauge(about.labels, value, stamp, words[at + PID])
        return [family for family in families.values() if family.times]

    def _about(self, key: bytes) -> _About | None:
        """Read a key, once; None where it cannot be shown."""
        if key not in self._read:
            self._read[key] = None
            try:
                self._read[key] = _about(key)
            except Exception:
                self._series.tell(
                    "the row %r has a series that is no metric of prometheus-client, and is not "
                    "shown: %.200r", self._series.name, key,
                )  # fmt: skip
        return self._read[key]

    def _apart(self, families: list[_Family]) -> list[_Family]:
        """Return what can be shown at once: of metrics that share a name the one made last."""
        tell, row = self._series.tell, self._series.name
        owners: dict[str, object] = dict.fromkeys(self._taken, "a metric of the server's own")
        shown = []
        for family in reversed(families):
            other = next((owners[name] for name in family.names() if name in owners), None)
            if other is not None:
                tell(
                    "the row %r has metrics that share a name: %s is not shown, but %s is; rename "
                    "one of them, or give each program a row of its own (use(..., name=...))",
                    row, str(family), str(other),
                )  # fmt: skip
                continue
            owners.update(dict.fromkeys(family.names(), family))
            shown.append(family)
            named = {tuple(name for name, _ in labels) for labels in family.times}
            if len(named) > 1:
                tell(
                    "the row %r has the metric %s with different labels, by several programs or "
                    "versions of one: %s; all are shown", row, str(family), str(sorted(named)),
                )  # fmt: skip
        return shown[::-1]
