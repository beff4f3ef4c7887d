"""Connections that wait at a listening socket."""

from __future__ import annotations

import contextlib
import socket
import sys
from pathlib import Path

import pytest

from fastmgr.link import backlog
from fastmgr.link.backlog import backlog_of

linux = pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")


def listening(family: socket.AddressFamily, folder: Path) -> socket.socket:
    listener = socket.socket(family)
    listener.bind(str(folder / "socket") if family == socket.AF_UNIX else ("127.0.0.1", 0))
    listener.listen(8)
    return listener


@linux
@pytest.mark.parametrize("family", [socket.AF_UNIX, socket.AF_INET])
def test_those_that_wait(family: socket.AddressFamily, tmp_path: Path) -> None:
    with listening(family, tmp_path) as listener, contextlib.ExitStack() as stack:
        for number in range(3):
            assert backlog_of(listener) == number
            client = stack.enter_context(socket.socket(family))
            client.connect(listener.getsockname())
        listener.accept()[0].close()
        assert backlog_of(listener) == 2
    with pytest.raises(OSError):
        backlog_of(listener)


@linux
def test_socket_that_the_kernel_does_not_know() -> None:
    assert backlog._of_unix(0xFFFFFFFE) is None


def test_other_systems(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    with listening(socket.AF_UNIX, tmp_path) as listener:
        assert backlog_of(listener) is None
