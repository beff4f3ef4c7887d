"""How wall time is measured: both legs in turn, so that what slows the machine slows both."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from cases import CASES
from legs import FAST, STOCK


@dataclass(frozen=True)
class Effort:
    """How long to measure."""

    alternations: int = 11
    rounds: int = 3
    seconds: float = 0.02  # of one round
    clients: int = 8
    client_seconds: float = 0.15  # of one round of all clients

    @property
    def gated(self) -> bool:
        """Whether the figures mean anything: one alternation only shows that the case runs."""
        return self.alternations > 1


SMOKE = Effort(alternations=1, rounds=1, seconds=0.001, clients=2, client_seconds=0.01)


@dataclass(frozen=True)
class Comparison:
    """Seconds of one operation on each leg, one figure for each alternation."""

    stock: Sequence[float]
    fast: Sequence[float]

    @property
    def ratios(self) -> list[float]:
        """How many times as fast fastmgr was, for each alternation."""
        return [stock / fast for stock, fast in zip(self.stock, self.fast, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return median(self.ratios)

    def as_dict(self) -> dict[str, float]:
        """Return the figures for a report."""
        return {
            "stock_seconds": median(self.stock),
            "fast_seconds": median(self.fast),
            "ratio": self.ratio,
            "ratio_min": min(self.ratios),
            "ratio_max": max(self.ratios),
        }


class Loop:
    """Times an operation in a loop that is long enough for the clock."""

    def __init__(self, run: Callable[[], object], effort: Effort) -> None:
        self.run = run
        self.rounds = effort.rounds
        self.count = 1
        while (spent := self.time(self.count)) < effort.seconds:  # this also warms up
            self.count = max(self.count + 1, int(self.count * min(10, effort.seconds / spent)))

    def time(self, count: int) -> float:
        """Return the seconds of `count` operations."""
        run = self.run
        start = perf_counter()
        for _ in itertools.repeat(None, count):
            run()
        return perf_counter() - start

    def seconds(self) -> float:
        """Return the seconds of one operation: the median of a few rounds."""
        return median(self.time(self.count) / self.count for _ in range(self.rounds))


def alternate(
    stock: Callable[[], float], fast: Callable[[], float], alternations: int
) -> Comparison:
    """Measure A B A B ... and keep the figures in pairs."""
    pairs = [(stock(), fast()) for _ in range(alternations)]
    return Comparison(*zip(*pairs, strict=True))


def compare_case(name: str, stock: Any, fast: Any, effort: Effort) -> tuple[Comparison, Loop]:
    """Measure a case on two started managers; return fastmgr's loop too, to measure it alone."""
    on_stock, on_fast = (CASES[name].prepare(manager) for manager in (stock, fast))
    on_stock.check(STOCK)
    on_fast.check(FAST)
    stock_loop, fast_loop = Loop(on_stock.run, effort), Loop(on_fast.run, effort)
    comparison = alternate(stock_loop.seconds, fast_loop.seconds, effort.alternations)
    on_stock.check(STOCK)
    on_fast.check(FAST)
    return comparison, fast_loop
