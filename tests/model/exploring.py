"""What explorations have in common: what they find, and how it is told."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol


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


class Run(Protocol):
    """One run of a model whose memory is no value: each run begins anew."""

    def step(self, name: str) -> str:
        """Make an actor's next step, and say what it was."""

    def check(self) -> None:
        """Raise a `Violation` where the run may not have come to this."""

    def state(self) -> Any:
        """Return what decides how the run goes on."""

    def choices(self) -> list[str]:
        """Return who may make a step now."""

    def close(self) -> None:
        """Give the memory back."""


def explore_runs(begin: Callable[[], Run], most: int) -> Result:
    """Try every order of steps; each order is a run of its own."""
    result = Result()
    begun = time.monotonic()
    seen: set[Any] = set()
    stack: list[tuple[str, ...]] = [()]
    with uncollected():
        while stack:
            path = stack.pop()
            run = begin()
            trace: list[str] = []
            try:
                for name in path:
                    trace.append(run.step(name))
                    result.steps += 1
                run.check()
            except Violation as violation:
                result.violation, result.trace = str(violation), [*trace, path[-1]]
                break
            key, choices = run.state(), run.choices()
            run.close()
            if key not in seen:
                seen.add(key)
                assert len(seen) < most, "more states than expected"
                stack.extend((*path, name) for name in choices)
    result.states = len(seen)
    result.seconds = time.monotonic() - begun
    return result


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
