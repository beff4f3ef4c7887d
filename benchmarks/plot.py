"""Draw what ``compare.py`` measured: ``python benchmarks/plot.py RESULTS.json PLOT.svg``."""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cases import TIMED
from cells import CELLS

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]

PANELS = {
    "calls": "1 client",
    "clients": "8 clients at once: time of all over the number of operations",
    "shared": "shared memory; mp: multiprocessing itself; method: an empty one, compiled",
}
SERIES: dict[str, tuple[str, dict[str, Any]]] = {
    "stock_seconds": ("stock", {"marker": "s", "s": 42, "facecolor": "white", "edgecolor": "0.25"}),
    "plain_seconds": (
        "mp",
        {"marker": "D", "s": 34, "facecolor": "white", "edgecolor": "#b0413e"},
    ),
    "compiled_seconds": ("method", {"marker": "|", "s": 190, "color": "0.5"}),
    "c_seconds": ("C", {"marker": "|", "s": 190, "color": "black", "linewidths": 2.2}),
    "fast_seconds": ("fastmgr", {"marker": "o", "s": 48, "color": "#1f4e9c"}),
}
"""What each leg is called and looks like: also without colours no two of them are alike. The last
is on top, and the bar of C long enough to be seen behind it."""
COLUMNS: dict[str, tuple[str, float, str]] = {
    "stock, µs": ("stock_seconds", 1e6, ",.1f"),
    "fastmgr, µs": ("fast_seconds", 1e6, ",.1f"),
    "C, µs": ("c_seconds", 1e6, ".1f"),
    "stock / fastmgr": ("ratio", 1, ",.1f"),
    "fastmgr / C": ("of_c", 1, ".2f"),
}
"""The figures beside each row."""
SHARED_COLUMNS: dict[str, tuple[str, float, str]] = {
    "stock, µs": ("stock_seconds", 1e6, ",.1f"),
    "fastmgr, ns": ("fast_seconds", 1e9, ",.0f"),
    "mp, ns": ("plain_seconds", 1e9, ",.0f"),
    "stock / fastmgr": ("ratio", 1, ",.0f"),
    "mp / fastmgr": ("of_plain", 1, ".1f"),
}
"""Those of what takes nanoseconds."""
LEFT, ACROSS, COLUMN, MARGIN = 2.75, 4.6, 1.0, 0.2  # inches, from left to right
TOP, ROW, GAP, BOTTOM = 0.75, 0.3, 0.75, 0.6  # inches, from top to bottom
WIDTH = LEFT + ACROSS + COLUMN * len(COLUMNS) + MARGIN
HEADING = -0.95
"""Where names and headings stand, in rows."""
NAMES_APART = 0.65 / ACROSS
SECONDS = {
    1e-8: "10 ns",
    1e-7: "100 ns",
    1e-6: "1 µs",
    1e-5: "10 µs",
    1e-4: "100 µs",
    1e-3: "1 ms",
    1e-2: "10 ms",
    1e-1: "0.1 s",
}


def missing() -> str | None:
    """Return what to do before anything can be drawn, if there is something to do."""
    if importlib.util.find_spec("matplotlib") is None:
        return "a plot needs matplotlib: python -m pip install --group plot"
    return None


def draw(figures: Figures, path: Path) -> None:
    """Draw the times, a panel for each section; the name of the file says in which format."""
    # Nothing else needs it, and who does not plot need not have it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    panels = [section for section in PANELS if figures.get(section)]
    if not panels:
        raise ValueError("there are no times to draw")
    rows = [len(figures[section]) + 1 for section in panels]  # one for the names
    height = TOP + ROW * sum(rows) + GAP * (len(rows) - 1) + BOTTOM
    times = [
        found[key]
        for section in panels
        for found in figures[section].values()
        for key in SERIES
        if key in found
    ]
    decades = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    limits = (10.0 ** decades[0] / 1.1, 10.0 ** decades[1] * 1.1)
    # The same file for the same figures.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"font.size": 9.5, "svg.hashsalt": "fastmgr"}):
        figure = Figure(figsize=(WIDTH, height))
        figure.text(
            0.15 / WIDTH,
            1 - 0.3 / height,
            "Time of one operation: stock manager, fastmgr, and C that only moves the messages",
            fontsize=12,
            fontweight="bold",
            verticalalignment="center",
        )
        top = height - TOP
        for section, count in zip(panels, rows, strict=True):
            top -= ROW * count
            box = (LEFT / WIDTH, top / height, ACROSS / WIDTH, ROW * count / height)
            axes = figure.add_axes(box, xscale="log", xlim=limits, ylim=(count - 1.5, -1.5))
            draw_panel(axes, section, figures[section])
            top -= GAP
        figure.axes[-1].set_xlabel("logarithmic; further left is faster")
        figure.savefig(path, dpi=150, metadata=metadata)


def draw_panel(axes: Any, section: str, cases: Mapping[str, Mapping[str, float]]) -> None:
    """Draw a row for each case."""
    labelled = CELLS if section == "shared" else TIMED
    axes.set_title(PANELS[section], loc="left", fontsize=10.5, fontweight="bold")
    labels = [labelled[name].label.replace("`", "") for name in cases]
    axes.set_yticks(range(len(labels)), labels)
    low, high = axes.get_xlim()
    ticks = {at: text for at, text in SECONDS.items() if low <= at <= high}
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="major", color="0.8")
    axes.grid(axis="x", which="minor", color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)

    for row, found in enumerate(cases.values()):
        ends = (found["stock_seconds"], found["fast_seconds"])
        axes.plot(ends, (row, row), color="0.6", linewidth=1.2, zorder=1)
        for order, (key, (_, look)) in enumerate(SERIES.items()):
            if key in found:
                axes.scatter(found[key], row, zorder=2 + order, **look)
    name_series(axes, next(iter(cases.values())))
    write_columns(axes, cases, SHARED_COLUMNS if section == "shared" else COLUMNS)


def name_series(axes: Any, first: Mapping[str, float]) -> None:
    """Write each leg's name over its mark in the first row, aside where two would overlap."""
    low, high = axes.get_xlim()
    names = {
        name: math.log(first[key] / low) / math.log(high / low)
        for key, (name, _) in SERIES.items()
        if key in first
    }
    in_order = sorted(names, key=lambda name: names[name])
    places = apart([names[name] for name in in_order])
    for name, place in zip(in_order, places, strict=True):
        axes.annotate(
            name,
            (names[name], -0.25),
            (place, HEADING),
            xycoords=axes.get_yaxis_transform(),
            fontweight="bold",
            horizontalalignment="center",
            verticalalignment="center",
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.8, "shrinkB": 0},
        )


def apart(places: list[float]) -> list[float]:
    """Move what is too near to its neighbour to both sides."""
    moved = list(places)
    for _ in range(100):  # moving two may bring one of them near to a third
        for i, (left, right) in enumerate(itertools.pairwise(moved)):
            push = max(0.0, NAMES_APART - (right - left)) / 2
            moved[i], moved[i + 1] = left - push, right + push
    return moved


def write_columns(
    axes: Any,
    cases: Mapping[str, Mapping[str, float]],
    columns: Mapping[str, tuple[str, float, str]],
) -> None:
    """Write the figures beside the rows."""
    place = {
        "transform": axes.get_yaxis_transform(),
        "horizontalalignment": "right",
        "verticalalignment": "center",
    }
    for column, (heading, (key, scale, form)) in enumerate(columns.items(), 1):
        right = 1 + column * COLUMN / ACROSS
        axes.text(right, HEADING, heading, fontsize=8, color="0.3", **place)
        for row, found in enumerate(cases.values()):
            if key in found:
                axes.text(right, row, shown(found[key] * scale, form), **place)


def shown(figure: float, form: str) -> str:
    """Return a figure; a small one with more digits."""
    return format(figure, form if figure >= 1 else ".2f" if figure >= 0.1 else ".3f")


def main() -> int:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what compare.py --json printed")
    parser.add_argument("plot", type=Path, help="the file to write: .svg, .png or .pdf")
    options = parser.parse_args()
    if problem := missing():
        parser.error(problem)
    draw(json.loads(options.results.read_text()), options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
