"""What explorations have in common: what they find, and how it is told."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass, field


class Violation(Exception):
    """A property does not hold."""


@dataclass
class Result:
    """What an exploration has found."""

    states: int = 0
    steps: int = 0
    seconds: float = 0.0
    violation: str | None = None
    trace: list[str] = field(default_factory=list)


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: all states are kept, and would be gone through each time."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def report(result: Result) -> int:
    """Print what was found; return the exit status."""
    print(f"{result.states} states, {result.steps} steps, {result.seconds:.1f} s")
    if result.violation is None:
        print("every property holds")
        return 0
    for number, label in enumerate(result.trace, 1):
        print(f"{number:4}  {label}")
    print(f"then: {result.violation}")
    return 1
