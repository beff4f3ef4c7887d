"""Draw what ``compare.py`` measured: ``python benchmarks/plot.py RESULTS.json PLOT.svg``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path

from cases import TIMED
from cells import CELLS

from fastmgr.cli import chart

Figures = Mapping[str, Mapping[str, Mapping[str, float]]]

PANELS = {
    "calls": "1 client",
    "clients": "8 clients at once: time of all over the number of operations",
    "shared": "shared memory; mp: multiprocessing itself; method: an empty one, compiled",
}
SERIES = {
    "stock_seconds": ("stock", "square"),
    "plain_seconds": ("mp", "diamond"),
    "compiled_seconds": ("method", "pale bar"),
    "c_seconds": ("C", "bar"),
    "fast_seconds": ("fastmgr", "circle"),
}
"""What each leg is called and looks like. The last is on top, and the bar of C long enough to be
seen behind it."""
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


def draw(figures: Figures, path: Path) -> None:
    """Draw the times, a panel for each section; the name of the file says in which format."""
    chart.draw(
        "Time of one operation: stock manager, fastmgr, and C that only moves the messages",
        [panel(section, figures[section]) for section in PANELS if figures.get(section)],
        dict(SERIES.values()),
        path,
    )


def panel(section: str, cases: Mapping[str, Mapping[str, float]]) -> chart.Panel:
    """Return the rows of a section."""
    shared = section == "shared"
    label = {name: (CELLS if shared else TIMED)[name].label.replace("`", "") for name in cases}
    rows = {
        label[name]: {SERIES[key][0]: found[key] for key in SERIES if key in found}
        for name, found in cases.items()
    }
    columns = {
        heading: [
            shown(found[key] * scale, form) if key in found else "" for found in cases.values()
        ]
        for heading, (key, scale, form) in (SHARED_COLUMNS if shared else COLUMNS).items()
    }
    return chart.Panel(PANELS[section], rows, columns)


def shown(figure: float, form: str) -> str:
    """Return a figure; a small one with more digits."""
    return format(figure, form if figure >= 1 else ".2f" if figure >= 0.1 else ".3f")


def main() -> int:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, help="what compare.py --json printed")
    parser.add_argument("plot", type=chart.file, help="the file to write: .svg, .png or .pdf")
    options = parser.parse_args()
    draw(json.loads(options.results.read_text()), options.plot)
    return 0


if __name__ == "__main__":
    sys.exit(main())
