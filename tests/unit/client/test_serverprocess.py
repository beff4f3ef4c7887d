"""How a manager ends its server, and what it says of one that has ended."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

import pytest

from fastmgr import basemanager, managers
from fastmgr.managers import SyncManager

# The end


def block_termination() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


class Deaf(managers.Server):
    """Does not hear that it should end."""

    def shutdown(self, c: Any) -> None:
        c.send(("#RETURN", None))


class DeafManager(SyncManager):
    _Server = Deaf


def test_server_that_does_not_end_is_terminated() -> None:
    manager = DeafManager(shutdown_timeout=0.1)
    manager.start()
    server = manager._process
    manager.shutdown()
    assert server.exitcode == -signal.SIGTERM
    assert manager._state.value == managers.State.SHUTDOWN


def test_server_that_will_not_end_is_killed() -> None:
    manager = DeafManager(shutdown_timeout=0.1)
    manager.start(block_termination)
    server = manager._process
    begin = time.monotonic()
    manager.shutdown()
    assert time.monotonic() - begin < 5
    assert server.exitcode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("serializer", "calls"), [("pickle", 0), ("pickle", 1), ("pickle", 100), ("xmlrpclib", 1)]
)
def test_server_that_does_not_answer_is_killed(
    serializer: str, calls: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(basemanager, "ANSWER_TIMEOUT", 0.1)
    manager = SyncManager(serializer=serializer, shutdown_timeout=0.1)
    manager.start()
    for _ in range(calls):
        manager._number_of_objects()
    server, address = manager._process, manager.address
    os.kill(server.pid, signal.SIGSTOP)
    manager.shutdown()
    assert server.exitcode == -signal.SIGKILL
    os.unlink(address)


def test_representation_says_whether_the_server_lives() -> None:
    manager = SyncManager()
    assert "not started>" in repr(manager)
    manager.start()
    server = manager._process
    try:
        assert f"started, process {server.pid}>" in repr(manager)
        server.kill()
        server.join()
        assert f"process {server.pid}, which has ended (exit code -9)>" in repr(manager)
        manager.join()
        assert "ended>" in repr(manager)
    finally:
        manager.shutdown()
    assert "shut down" in repr(manager)


def test_server_that_is_gone_already() -> None:
    manager = SyncManager()
    manager.start()
    shared = manager.list()
    server = manager._process
    server.kill()
    server.join()
    with pytest.raises((OSError, EOFError)) as raised:
        shared.append(1)
    assert manager.address in str(raised.value)
    manager.shutdown()
    assert manager._state.value == managers.State.SHUTDOWN
    # Nobody else removes what a killed server has left.
    with contextlib.suppress(FileNotFoundError):
        os.unlink(manager.address)
