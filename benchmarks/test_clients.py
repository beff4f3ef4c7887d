"""Many client processes at the same time."""

from typing import Any

import pytest
from cases import CLIENTS
from fleet import compare_fleets
from gate import Gate
from measure import Effort


@pytest.mark.parametrize("name", CLIENTS)
def test_clients(name: str, stock: Any, fast: Any, gate: Gate, effort: Effort) -> None:
    """Compare the throughput. Processes that take turns are nothing pytest-benchmark can time."""
    gate.ratio("clients", name, compare_fleets(name, stock, fast, effort))
