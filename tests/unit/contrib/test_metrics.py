"""A server's numbers: totals that only grow, and not too many of them."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from fastmgr.contrib import metrics
from fastmgr.contrib.metrics import Readings
from fastmgr.monitor import ObjectReport, Report, ServerReport


def read(readings: Readings, field: str) -> dict[Any, float]:
    """The numbers of one metric, by typeid and name."""
    for metric, numbers in readings.read():
        if metric.name == field:
            return {tuple(text for _, text in labels): value for labels, value in numbers}
    raise AssertionError(field)


def test_totals_grow_though_objects_go() -> None:
    told: list[Report] = []
    readings = Readings(lambda: told[-1])

    def tell(*objects: ObjectReport, started: float = 1.0) -> None:
        told.append(Report(started=started, objects=objects))

    tell(ObjectReport("1", "dict", calls=5), ObjectReport("2", "dict", calls=1, references=3))
    assert read(readings, "object_calls") == {("dict", ""): 6.0}
    assert read(readings, "object_references") == {("dict", ""): 3.0}
    tell(ObjectReport("2", "dict", calls=4), ObjectReport("3", "Counter", name="hits", calls=2))
    assert read(readings, "object_calls") == {("dict", ""): 9.0, ("Counter", "hits"): 2.0}
    tell(ObjectReport("3", "Counter", name="hits", calls=1))  # forgotten, and made anew
    assert read(readings, "object_calls") == {("dict", ""): 9.0, ("Counter", "hits"): 3.0}
    assert read(readings, "object_references") == {("Counter", "hits"): 0.0}
    tell(ObjectReport("1", "dict", calls=2), started=2.0)
    assert read(readings, "object_calls") == {("dict", ""): 2.0}


def test_names_are_not_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "NAMES", 2)
    objects = tuple(ObjectReport(str(i), "Counter", name=f"n{i}", calls=1) for i in range(5))
    readings = Readings(lambda: Report(objects=objects))
    for _ in range(2):
        assert read(readings, "object_calls") == {
            ("Counter", "n0"): 1.0, ("Counter", "n1"): 1.0, ("Counter", ""): 3.0
        }  # fmt: skip


def test_objects_that_are_not_told_of_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A report has the first ones alone: another may be among them the next time."""
    monkeypatch.setattr(metrics, "OBJECTS", 1)
    reports = [Report(objects=(ObjectReport(key, "dict", calls=n),)) for key, n in
               (("1", 5), ("2", 7), ("1", 8))]  # fmt: skip
    readings = Readings(lambda: reports.pop(0))
    assert [read(readings, "object_calls")["dict", ""] for _ in range(3)] == [5.0, 12.0, 15.0]


def test_what_a_server_cannot_tell_is_left_out() -> None:
    readings = Readings(lambda: Report(server=ServerReport(calls=3)))
    found = {metric.name: numbers for metric, numbers in readings.read()}
    assert found["calls"] == [((), 3.0)] and "backlog_connections" not in found


def test_readings_at_once() -> None:
    """An older report that came after a newer one would be taken for an object made anew."""
    calls = iter((5, 7))
    others: list[threading.Thread] = []

    def ask() -> Report:
        report = Report(started=1.0, objects=(ObjectReport("1", "dict", calls=next(calls)),))
        if not others:
            others.append(threading.Thread(target=lambda: list(readings.read())))
            others[0].start()
            others[0].join(0.2)  # it would end here if it did not wait for this reading
        return report

    readings = Readings(ask)
    list(readings.read())
    others[0].join()
    assert {key[0][1]: value["calls"] for key, value in readings.totals.items()} == {"dict": 7.0}
