"""A chart of times: marks on one logarithmic scale, figures beside them. It needs matplotlib."""

import argparse
import importlib.util
import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

#: How a contender's times are marked: also without colours no two marks look alike.
LOOKS: Mapping[str, Mapping[str, Any]] = {
    "square": {"marker": "s", "s": 42, "facecolor": "white", "edgecolor": "0.25"},
    "diamond": {"marker": "D", "s": 34, "facecolor": "white", "edgecolor": "#b0413e"},
    "pale bar": {"marker": "|", "s": 190, "color": "0.5"},
    "bar": {"marker": "|", "s": 190, "color": "black", "linewidths": 2.2},
    "circle": {"marker": "o", "s": 48, "color": "#1f4e9c"},
}
ACROSS, COLUMN, MARGIN = 4.6, 1.0, 0.2  # inches; labels are left of the scale, columns right
TOP, ROW, GAP, BOTTOM = 0.75, 0.3, 0.75, 0.6  # inches, from top to bottom
HEADING = -0.95  # where names and headings stand, in rows
NAMES_APART = 0.15  # inches between one contender's name and the next
NOTE, NOTE_LINE = 90, 0.16  # how many characters of a note are in a line; its height in inches
FONT_SIZE = 9.5
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True)
class Panel:
    """Some rows of a chart: each contender's seconds, by label, and what is written beside them."""

    title: str
    rows: Mapping[str, Mapping[str, float]]
    columns: Mapping[str, Sequence[str]] = field(default_factory=dict)


def file(text: str) -> Path:
    """Return the path of a chart that can be written: the type of a command line's option."""
    path = Path(text)
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise argparse.ArgumentTypeError(
            f"{text}: the name has to end with .svg, .png or .pdf, which says the format"
        )
    if importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError(
            f"{text}: a plot needs matplotlib: python -m pip install matplotlib"
        )
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no directory {path.parent}")
    return path


def draw(
    title: str, panels: Sequence[Panel], looks: Mapping[str, str], path: Path, note: str = ""
) -> None:
    """Draw the panels under each other; the name of the file says in which format.

    `looks` has the key in `LOOKS` of each contender's mark; the last contender is drawn on top.
    `note` is written below the scale.
    """
    # Nothing else needs it, and a user who does not plot need not have it.
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    times = [at for panel in panels for found in panel.rows.values() for at in found.values()]
    if not times:
        raise ValueError("there are no times to draw")
    decades = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    limits = (10.0 ** decades[0] / 1.1, 10.0 ** decades[1] * 1.1)
    counts = [len(panel.rows) + 1 for panel in panels]  # one for the contenders' names
    left = 2 * MARGIN + max(inches(label) for panel in panels for label in panel.rows)
    width = left + ACROSS + COLUMN * max(len(panel.columns) for panel in panels) + MARGIN
    below = [*textwrap.wrap(note, NOTE), "logarithmic; further left is faster"]
    bottom = BOTTOM + NOTE_LINE * max(0, len(below) - 2)
    height = TOP + ROW * sum(counts) + GAP * (len(counts) - 1) + bottom
    # The same file for the same figures.
    metadata = {"Date": None} if path.suffix == ".svg" else None
    with rc_context({"font.size": FONT_SIZE, "svg.hashsalt": "fastmgr", "svg.fonttype": "none"}):
        figure = Figure(figsize=(width, height))
        place: dict[str, Any] = {"fontweight": "bold", "va": "center"}
        figure.text(0.15 / width, 1 - 0.3 / height, plain(title), fontsize=12, **place)
        top = height - TOP
        for panel, count in zip(panels, counts, strict=True):
            top -= ROW * count
            box = (left / width, top / height, ACROSS / width, ROW * count / height)
            axes = figure.add_axes(box, xscale="log", xlim=limits, ylim=(count - 1.5, -1.5))
            draw_panel(axes, panel, looks)
            top -= GAP
        figure.axes[-1].set_xlabel(plain("\n".join(below)))
        figure.savefig(path, dpi=150, metadata=metadata)


def draw_panel(axes: Any, panel: Panel, looks: Mapping[str, str]) -> None:
    axes.set_title(plain(panel.title), loc="left", fontsize=10.5, fontweight="bold")
    axes.set_yticks(range(len(panel.rows)), map(plain, panel.rows))
    low, high = (round(math.log10(at)) for at in axes.get_xlim())
    axes.set_xticks([10.0**decade for decade in range(low, high + 1)])
    axes.set_xticklabels([tick(decade) for decade in range(low, high + 1)])
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", which="major", color="0.8")
    axes.grid(axis="x", which="minor", color="0.93", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("left", "right", "top"):
        axes.spines[side].set_visible(False)
    for row, found in enumerate(panel.rows.values()):
        ends = (min(found.values()), max(found.values()))
        axes.plot(ends, (row, row), color="0.6", linewidth=1.2, zorder=1)
        for order, (name, look) in enumerate(looks.items()):
            if name in found:
                axes.scatter(found[name], row, zorder=2 + order, **LOOKS[look])
    name_contenders(axes, next(iter(panel.rows.values())))
    for column, (heading, texts) in enumerate(panel.columns.items(), 1):
        place = {"transform": axes.get_yaxis_transform(), "ha": "right", "va": "center"}
        right = 1 + column * COLUMN / ACROSS
        axes.text(right, HEADING, heading, fontsize=8, color="0.3", **place)
        for row, text in enumerate(texts):
            axes.text(right, row, text, **place)


def name_contenders(axes: Any, first: Mapping[str, float]) -> None:
    """Write each contender's name over its mark in the first row, aside where two would overlap."""
    low, high = axes.get_xlim()
    marks = {name: math.log(at / low) / math.log(high / low) for name, at in first.items()}
    in_order = sorted(marks, key=lambda name: marks[name])
    widths = [(inches(name, "bold") + NAMES_APART) / ACROSS for name in in_order]
    places = apart([marks[name] for name in in_order], widths)
    for name, place in zip(in_order, places, strict=True):
        axes.annotate(
            name,
            (marks[name], -0.25),
            (place, HEADING),
            xycoords=axes.get_yaxis_transform(),
            fontweight="bold",
            ha="center",
            va="center",
            arrowprops={"arrowstyle": "-", "color": "0.6", "linewidth": 0.8, "shrinkB": 0},
        )


def inches(text: str, weight: str = "normal") -> float:
    """Return how wide a text is."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(weight=weight)
    width: float = TextPath((0, 0), plain(text), FONT_SIZE, font).get_extents().width
    return width / 72


def apart(places: list[float], widths: list[float]) -> list[float]:
    """Move what would overlap its neighbour to both sides."""
    moved = list(places)
    for _ in range(100):  # moving two may bring one of them near to a third
        for i, (left, right) in enumerate(itertools.pairwise(moved)):
            push = max(0.0, (widths[i] + widths[i + 1]) / 2 - (right - left)) / 2
            moved[i], moved[i + 1] = left - push, right + push
    return moved


def tick(decade: int) -> str:
    """Return a power of ten of seconds as people say it."""
    size, unit = next(((s, u) for s, u in UNITS if 10.0**decade > s * 0.999), UNITS[-1])
    return f"{10.0**decade / size:g} {unit}"


def plain(text: str) -> str:
    """Return a text that matplotlib takes for no formula."""
    return text.replace("$", r"\$")
