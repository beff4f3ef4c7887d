"""The plot of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from redis_pipeline import Result

COLOURS = ("#0072b2", "#d55e00", "#e69f00")
BAR = 0.27
"""How wide a bar is; the workloads of a panel are 1 apart."""


def plot(results: Sequence[Result], path: str, caption: str) -> None:
    """Draw medians as bars, with a line from the lowest figure to the highest."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    panels: dict[str, list[Result]] = {"One call at a time": [], "Pipelines": []}
    for result in results:
        panels["Pipelines" if result.workload.batch > 1 else "One call at a time"].append(result)
    panels = {title: shown for title, shown in panels.items() if shown}
    figure, axes = pyplot.subplots(
        1,
        len(panels),
        figsize=(12, 5),
        layout="constrained",
        squeeze=False,
        width_ratios=[len(shown) for shown in panels.values()],
    )
    for axis, (title, shown) in zip(axes[0], panels.items(), strict=True):
        draw_panel(axis, shown)
        axis.set_title(title)
        axis.set_ylabel("thousand calls a second")
    axes[0][-1].legend(frameon=False)
    figure.suptitle("Adding 1 to a shared counter from Python, over a Unix socket")
    figure.supxlabel(f"{caption}. The scales of the panels differ.", fontsize=8)
    figure.savefig(path, dpi=150)


def draw_panel(axis: Any, results: Sequence[Result]) -> None:
    """Draw the bars of some workloads, side by side for each."""
    legs = list(results[0].rates)
    for place, (leg, colour) in enumerate(zip(legs, COLOURS, strict=False)):
        rates = [[rate / 1000 for rate in result.rates[leg]] for result in results]
        heights = [median(figures) for figures in rates]
        spread = [
            [middle - min(figures) for middle, figures in zip(heights, rates, strict=True)],
            [max(figures) - middle for middle, figures in zip(heights, rates, strict=True)],
        ]
        bars = axis.bar(
            [i + (place - (len(legs) - 1) / 2) * BAR for i in range(len(results))],
            heights,
            0.92 * BAR,
            color=colour,
            label=leg,
            yerr=spread,
            ecolor="#555555",
        )
        labels = [f"{height:.3g}" if height < 100 else f"{height:,.0f}" for height in heights]
        axis.bar_label(bars, labels, padding=2, fontsize=8)
    names = [result.workload.label.replace("`", "").replace(", ", ",\n") for result in results]
    axis.set_xticks(range(len(results)), names, fontsize=8)
    axis.spines[["top", "right"]].set_visible(False)
    axis.margins(y=0.1)
