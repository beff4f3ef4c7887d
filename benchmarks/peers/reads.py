"""Compare reading what nobody has changed: ``python benchmarks/peers/reads.py``.

One process reads and writes an item of a shared dict: of the standard library's manager, of
fastmgr, and of UltraDict, which has a copy of the dict in each process. The legs are measured in
turns.
"""

import argparse
import statistics
import timeit
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from multiprocessing.managers import SyncManager as StockManager
from typing import Any

from fastmgr.managers import SyncManager

VALUES: dict[str, object] = {"an int": 1, "a list of ten ints": list(range(1000, 1010))}
ALTERNATIONS = 5
SECONDS = 0.05


def legs(stack: ExitStack) -> dict[str, Any]:
    """Return a shared dict of each leg; UltraDict where it is installed."""
    made = {
        "multiprocessing": stack.enter_context(StockManager()).dict(),
        "fastmgr": stack.enter_context(SyncManager()).dict(),
    }
    if find_spec("UltraDict") is not None:
        import UltraDict  # type: ignore[import-not-found]

        made["UltraDict"] = UltraDict.UltraDict()
        stack.callback(made["UltraDict"].unlink)
    return made


def nanoseconds(operation: Callable[[], object]) -> float:
    """Return the time of one operation, made for about `SECONDS`."""
    timer = timeit.Timer(operation)
    number = max(100, int(SECONDS / (timer.timeit(200) / 200)))
    return timer.timeit(number) / number * 1e9


def operations(shared: Any, value: object) -> dict[str, Callable[[], object]]:
    """Return what is measured of one leg."""
    shared["key"] = value
    return {
        "read": lambda: shared["key"],
        "write": lambda: shared.__setitem__("key", value),
        "write, then read": lambda: (shared.__setitem__("key", value), shared["key"]),
    }


def main() -> None:
    """Print a table: the medians of all alternations, in nanoseconds."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--alternations", type=int, default=ALTERNATIONS)
    alternations = parser.parse_args().alternations
    with ExitStack() as stack:
        shared = legs(stack)
        print("| ns | " + " | ".join(shared) + " |")
        print("|---" * (len(shared) + 1) + "|")
        for label, value in VALUES.items():
            of = {leg: operations(one, value) for leg, one in shared.items()}
            for name in next(iter(of.values())):
                found: dict[str, list[float]] = {leg: [] for leg in shared}
                for _ in range(alternations):
                    for leg, timed in of.items():
                        found[leg].append(nanoseconds(timed[name]))
                medians = (f"{statistics.median(times):,.0f}" for times in found.values())
                print(f"| {name} {label} | " + " | ".join(medians) + " |")


if __name__ == "__main__":
    main()
