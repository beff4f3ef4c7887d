"""The chart is well-formed, and shows what it is given."""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path
from xml.etree import ElementTree

import pytest

from fastmgr.cli import chart

SVG = "{http://www.w3.org/2000/svg}"


def test_chart_is_well_formed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")  # which has no wheel yet for the newest interpreter
    rows = {"row <&>": {"ours": 4e-8, "theirs": 3e-3}, "$x$": {"ours": 2e-3}}
    panels = [
        chart.Panel("first", rows, {"ratio": ["75,000", ""]}),
        chart.Panel("second", {"only": {"theirs": 1e-2}}),
    ]
    looks = {"theirs": "square", "ours": "circle"}
    chart.draw("<a & b>", panels, looks, tmp_path / "chart.svg", "below")
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    texts = ["".join(element.itertext()).strip() for element in root.iter(f"{SVG}text")]
    assert {"<a & b>", "first", "second", "row <&>", "$x$", "only", "ratio", "75,000"} <= {*texts}
    assert {"ours", "theirs", "10 ns", "1 µs", "10 ms"} <= {*texts}
    chart.draw("again", panels, looks, tmp_path / "chart.png")
    assert (tmp_path / "chart.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no times"):
        chart.draw("", [chart.Panel("", {})], looks, tmp_path / "chart.svg")


@pytest.mark.parametrize(("places", "moved"), [([0.1, 0.5], [0.1, 0.5]), ([0.5, 0.5], [0.4, 0.6])])
def test_names_do_not_overlap(places: list[float], moved: list[float]) -> None:
    assert chart.apart(places, [0.1, 0.3]) == pytest.approx(moved, abs=0.001)


def test_long_labels_have_room(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    starts = []
    for label in ("short", "a label that is as long as this one, and then some"):
        panel = chart.Panel("", {label: {"ours": 1e-6, "theirs": 1e-3}})
        chart.draw("", [panel], {"theirs": "square", "ours": "circle"}, tmp_path / "chart.svg")
        root = ElementTree.parse(tmp_path / "chart.svg").getroot()
        (found,) = (text for text in root.iter(f"{SVG}text") if text.text == label)
        end = float(found.get("x") or 0)
        starts.append(end - 72 * chart.inches(label))
    assert min(starts) > 0


def test_chart_needs_its_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: True)
    with pytest.raises(argparse.ArgumentTypeError, match="there is no directory"):
        chart.file(str(tmp_path / "nowhere" / "plot.svg"))


def test_long_note_is_broken_into_lines(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    panel = chart.Panel("", {"row": {"ours": 1e-6, "theirs": 1e-3}})
    looks = {"theirs": "square", "ours": "circle"}
    chart.draw("", [panel], looks, tmp_path / "chart.svg", "a package 1.0; " * 20)
    root = ElementTree.parse(tmp_path / "chart.svg").getroot()
    lines = ["".join(element.itertext()) for element in root.iter(f"{SVG}text")]
    assert 60 < max(map(len, lines)) <= chart.NOTE
