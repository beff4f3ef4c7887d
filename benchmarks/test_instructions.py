"""Instructions: the same on a busy machine and on an idle one."""

import pytest
from gate import Gate
from instructions import (
    CALL_CASES,
    CODEC_CASES,
    can_count_instructions,
    instructions_per_operation,
)
from measure import Effort

Counts = dict[str, tuple[float, float]]


@pytest.fixture(scope="module")
def instructions(effort: Effort) -> Counts:
    """Instructions of each case, on stock and on fastmgr; of calls only in a full run."""
    if not can_count_instructions():
        pytest.skip("valgrind is not installed, or does not work")
    return instructions_per_operation(calls=effort.gated)


@pytest.mark.parametrize("name", CODEC_CASES + CALL_CASES)
def test_instructions(name: str, instructions: Counts, gate: Gate, effort: Effort) -> None:
    """A value is encoded and decoded, and a call made and served, with as little work as before."""
    if name in CALL_CASES and not effort.gated:
        pytest.skip("counted only in a full run")
    gate.count("instructions", name, *instructions[name])
