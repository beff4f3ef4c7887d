"""Clients that do nothing: the same on a fast machine and on a slow one."""

import pytest
from gate import Gate
from idle import can_measure_idle, idle_costs


@pytest.mark.skipif(not can_measure_idle(), reason="needs /proc")
def test_idle_clients(gate: Gate) -> None:
    """An idle client costs the server little memory and no thread."""
    costs = idle_costs()
    assert costs["threads"][0] == 1, "stock has a thread for each connection"
    for name, (stock, fast) in costs.items():
        gate.count("idle", name, stock, fast)
