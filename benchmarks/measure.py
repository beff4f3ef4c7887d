"""How wall time is measured: all legs in turn, so that what slows the machine slows them all."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import median
from time import perf_counter
from typing import Any

from cases import TIMED
from echo import Echo, compiler
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
    """Seconds of one operation on each leg, one figure for each alternation; C is not in all."""

    stock: Sequence[float]
    fast: Sequence[float]
    c: Sequence[float] = ()

    @property
    def ratios(self) -> list[float]:
        """How many times as fast fastmgr was, for each alternation."""
        return [stock / fast for stock, fast in zip(self.stock, self.fast, strict=True)]

    @property
    def ratio(self) -> float:
        """The median of the ratios."""
        return median(self.ratios)

    @property
    def parts_of_c(self) -> list[float]:
        """What part of C's time fastmgr took, for each alternation: below 1 it was the faster."""
        return [fast / c for fast, c in zip(self.fast, self.c, strict=True)] if self.c else []

    @property
    def of_c(self) -> float:
        """The median of these."""
        return median(self.parts_of_c)

    def as_dict(self) -> dict[str, float]:
        """Return the figures for a report."""
        figures = {
            "stock_seconds": median(self.stock),
            "fast_seconds": median(self.fast),
            "fast_per_second": 1 / median(self.fast),
            "ratio": self.ratio,
            "ratio_min": min(self.ratios),
            "ratio_max": max(self.ratios),
        }
        if self.c:
            figures |= {"c_seconds": median(self.c), "of_c": self.of_c}
        return figures


class Loop:
    """Times an operation in a loop that is long enough for the clock."""

    def __init__(self, run: Callable[[], object], effort: Effort, batch: int = 1) -> None:
        self.run = run
        self.batch = batch
        self.rounds = effort.rounds
        self.count = 1
        while (spent := self.time(self.count)) < effort.seconds:  # this also warms up
            self.count = max(self.count + 1, int(self.count * min(10, effort.seconds / spent)))

    def time(self, count: int) -> float:
        """Return the seconds of `count` batches of operations."""
        run = self.run
        start = perf_counter()
        for _ in itertools.repeat(None, count):
            run()
        return perf_counter() - start

    def seconds(self) -> float:
        """Return the seconds of one operation: the median of a few rounds."""
        return median(self.time(self.count) / self.count / self.batch for _ in range(self.rounds))


Timer = Callable[[], float]


def alternate(stock: Timer, fast: Timer, alternations: int, c: Timer | None = None) -> Comparison:
    """Measure A B C A B C ... and keep the figures of each turn together."""
    legs = (stock, fast) if c is None else (stock, fast, c)
    turns = [[leg() for leg in legs] for _ in range(alternations)]
    return Comparison(*zip(*turns, strict=True))


@contextlib.contextmanager
def in_c(name: str, effort: Effort, pairs: int = 1) -> Iterator[Timer | None]:
    """Give what times a case's operation in C; None if it has none there, or nothing compiles."""
    case = TIMED[name]
    if case.reply is None or not compiler():
        yield None
        return
    seconds, rounds = (effort.seconds, effort.rounds) if pairs == 1 else (effort.client_seconds, 1)
    with Echo(pairs, case.reply, seconds, rounds) as echo:
        yield lambda: case.calls * echo.seconds()


def compare_case(name: str, stock: Any, fast: Any, effort: Effort) -> tuple[Comparison, Loop]:
    """Measure a case on two started managers; return fastmgr's loop too, to measure it alone."""
    case = TIMED[name]
    on_stock, on_fast = (case.prepare(manager) for manager in (stock, fast))
    on_stock.check(STOCK)
    on_fast.check(FAST)
    stock_loop, fast_loop = (Loop(on.run, effort, case.batch) for on in (on_stock, on_fast))
    with in_c(name, effort) as c:
        comparison = alternate(stock_loop.seconds, fast_loop.seconds, effort.alternations, c)
    on_stock.check(STOCK)
    on_fast.check(FAST)
    return comparison, fast_loop
