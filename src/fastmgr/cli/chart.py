"""A chart of times on a logarithmic scale, as an SVG or a PNG.

It is laid out once, as lines, marks and texts. An SVG of them needs nothing else; a PNG needs
matplotlib.
"""

import argparse
import importlib.util
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

__all__ = ["Chart", "file", "write"]

WIDTH, LEFT, RIGHT = 960.0, 210.0, 710.0
TOP, ROW, BOTTOM = 100.0, 30.0, 45.0
GREY, PALE, BLACK = "#666666", "#dddddd", "#000000"
LOOKS = (("square", "#b0413e"), ("bar", "#000000"), ("circle", "#1f4e9c"))
"""Also without colours no two contenders look alike. The last is drawn on top."""
UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"), (1e-9, "ns"))


@dataclass(frozen=True)
class Chart:
    """What is drawn.

    Attributes
    ----------
    title, subtitle : str
    contenders : sequence of str
        Up to three, in the order in which they are drawn over each other.
    rows : sequence of tuple
        A label, the seconds of each contender that has any, and what stands beside them.
    """

    title: str
    subtitle: str
    contenders: Sequence[str]
    rows: Sequence[tuple[str, Mapping[str, float], str]]


@dataclass(frozen=True)
class Line:
    """A straight line."""

    start: tuple[float, float]
    end: tuple[float, float]
    color: str


@dataclass(frozen=True)
class Mark:
    """A square, a bar or a circle."""

    shape: str
    at: tuple[float, float]
    color: str


@dataclass(frozen=True)
class Text:
    """A text; `at` is the middle of its left end, its middle or its right end."""

    text: str
    at: tuple[float, float]
    anchor: str = "start"
    size: float = 13.0
    color: str = BLACK
    bold: bool = False


Shape = Line | Mark | Text


def file(text: str) -> Path:
    """Return the path of a chart that can be written: the type of a command line's option."""
    path = Path(text)
    if path.suffix not in (".svg", ".png"):
        raise argparse.ArgumentTypeError(f"{text}: the name has to end with .svg or .png")
    if path.suffix == ".png" and importlib.util.find_spec("matplotlib") is None:
        raise argparse.ArgumentTypeError(
            f"{text}: a .png needs matplotlib (python -m pip install matplotlib); an .svg does not"
        )
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"{text}: there is no directory {path.parent}")
    return path


def write(chart: Chart, path: Path) -> None:
    """Write the chart in the format that the file's name says.

    Parameters
    ----------
    chart : Chart
    path : Path
        Ends with ``.svg`` or ``.png``.

    Raises
    ------
    OSError
        The file cannot be written.
    """
    height = TOP + ROW * len(chart.rows) + BOTTOM
    if path.suffix == ".svg":
        path.write_text(svg(layout(chart), height), encoding="utf-8")
    else:
        draw(layout(chart), height, path)


def layout(chart: Chart) -> Iterator[Shape]:
    """Give everything that is drawn, what is below first."""
    times = [seconds for _, found, _ in chart.rows for seconds in found.values()]
    low, high = math.floor(math.log10(min(times))), math.ceil(math.log10(max(times)))
    bottom = TOP + ROW * len(chart.rows)

    def across(seconds: float) -> float:
        return LEFT + (RIGHT - LEFT) * (math.log10(seconds) - low) / max(high - low, 1)

    yield Text(chart.title, (20, 24), size=17, bold=True)
    yield Text(chart.subtitle, (20, 48), color=GREY)
    looks = dict(zip(chart.contenders, LOOKS, strict=False))
    for place, (name, (shape, color)) in enumerate(looks.items()):
        yield Mark(shape, (LEFT + 8 + 150 * place, 76), color)
        yield Text(name, (LEFT + 22 + 150 * place, 76))
    for decade in range(low, high + 1):
        at = across(10.0**decade)
        yield Line((at, TOP), (at, bottom), PALE)
        yield Text(tick(decade), (at, bottom + 18), "middle", 12, GREY)
    for number, (label, found, beside) in enumerate(chart.rows):
        y = TOP + ROW * (number + 0.5)
        yield Text(label, (LEFT - 16, y), "end")
        yield Line((across(min(found.values())), y), (across(max(found.values())), y), GREY)
        for name, (shape, color) in looks.items():
            if name in found:
                yield Mark(shape, (across(found[name]), y), color)
        yield Text(beside, (RIGHT + 20, y))


def tick(decade: int) -> str:
    """Return a power of ten of seconds as people say it."""
    size, unit = next(((s, u) for s, u in UNITS if 10.0**decade > s * 0.999), UNITS[-1])
    return f"{10.0**decade / size:g} {unit}"


def svg(shapes: Iterator[Shape], height: float) -> str:
    """Return an SVG of the shapes."""
    box = f"0 0 {WIDTH:g} {height:g}"
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{box}" width="{WIDTH:g}" '
        f'height="{height:g}" font-family="sans-serif">',
        '<rect width="100%" height="100%" fill="#ffffff"/>',
    ]
    for shape in shapes:
        if isinstance(shape, Line):
            (x, y), (to_x, to_y) = shape.start, shape.end
            ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
            lines.append(f'<line {ends} stroke="{shape.color}"/>')
        elif isinstance(shape, Text):
            x, y = shape.at
            weight = ' font-weight="bold"' if shape.bold else ""
            lines.append(
                f'<text x="{x:.1f}" y="{y:.1f}" dy="0.35em" text-anchor="{shape.anchor}" '
                f'font-size="{shape.size:g}" fill="{shape.color}"{weight}>'
                f"{escape(shape.text)}</text>"
            )
        elif shape.shape == "circle":
            x, y = shape.at
            lines.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{shape.color}"/>')
        else:
            (x, y), half = shape.at, 6 if shape.shape == "square" else 2
            fill = "#ffffff" if shape.shape == "square" else shape.color
            lines.append(
                f'<rect x="{x - half:.1f}" y="{y - 6:.1f}" width="{2 * half}" height="12" '
                f'fill="{fill}" stroke="{shape.color}"/>'
            )
    return "\n".join([*lines, "</svg>\n"])


def draw(shapes: Iterator[Shape], height: float, path: Path) -> None:
    """Write a PNG of the shapes."""
    # Nothing else needs it, and who does not want a PNG need not have it.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / 72, height / 72))
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(height, 0))
    axes.set_axis_off()
    sides = {"start": "left", "middle": "center", "end": "right"}
    marks = {"square": "s", "bar": "|", "circle": "o"}
    for order, shape in enumerate(shapes):
        if isinstance(shape, Line):
            x, y = zip(shape.start, shape.end, strict=True)
            axes.plot(x, y, color=shape.color, linewidth=1, zorder=order)
        elif isinstance(shape, Text):
            axes.text(
                *shape.at,
                shape.text.replace("$", r"\$"),  # which would begin a formula
                color=shape.color,
                fontsize=shape.size * 0.9,
                fontweight="bold" if shape.bold else "normal",
                horizontalalignment=sides[shape.anchor],
                verticalalignment="center",
            )
        else:
            fill = "white" if shape.shape == "square" else shape.color
            axes.plot(
                *shape.at,
                marker=marks[shape.shape],
                markersize=12,
                markeredgewidth=4 if shape.shape == "bar" else 1,
                markerfacecolor=fill,
                markeredgecolor=shape.color,
                zorder=order,
            )
    figure.savefig(path, dpi=144)
