"""Bytes, system calls and threads: the same on a fast machine and on a slow one."""

import pytest
from counts import (
    BYTE_CASES,
    IDLE_CONNECTIONS,
    SYSCALL_CASES,
    bytes_per_operation,
    can_count_threads,
    can_trace,
    server_threads,
    syscalls_per_operation,
)
from gate import Gate
from legs import FAST, STOCK

Counts = tuple[dict[str, float], dict[str, float]]


@pytest.fixture(scope="module")
def wire_bytes() -> Counts:
    """Bytes of each case, on stock and on fastmgr."""
    return bytes_per_operation(STOCK, BYTE_CASES), bytes_per_operation(FAST, BYTE_CASES)


@pytest.fixture(scope="module")
def syscalls() -> Counts:
    """System calls of each case, on stock and on fastmgr."""
    if not can_trace():
        pytest.skip("strace is not installed, or may not trace")
    stock, fast = (syscalls_per_operation(leg, SYSCALL_CASES) for leg in (STOCK, FAST))
    return (
        {name: sum(calls.values()) for name, calls in stock.items()},
        {name: sum(calls.values()) for name, calls in fast.items()},
    )


@pytest.mark.parametrize("name", BYTE_CASES)
def test_bytes(name: str, wire_bytes: Counts, gate: Gate) -> None:
    """An operation's requests and replies are as short as they were."""
    stock, fast = wire_bytes
    assert stock[name] > 0, "the relay saw nothing"
    gate.count("bytes", name, stock[name], fast[name])


@pytest.mark.parametrize("name", SYSCALL_CASES)
def test_syscalls(name: str, syscalls: Counts, gate: Gate) -> None:
    """An operation enters the kernel as seldom as it did."""
    stock, fast = syscalls
    assert stock[name] > 0, "the trace has no marks"
    gate.count("syscalls", name, stock[name], fast[name])


@pytest.mark.skipif(not can_count_threads(), reason="needs /proc")
def test_idle_threads(gate: Gate) -> None:
    """Idle connections cost no threads."""
    stock, fast = server_threads(STOCK), server_threads(FAST)
    assert stock > IDLE_CONNECTIONS, "stock has a thread for each connection"
    gate.count("threads", "idle", stock, fast)
