"""A run of the tests that is killed leaves no server."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import pytest
from support import Script, kill, poll, process_gone, say
from support.clusters import Node
from support.valkeys import new_folder, run_folder, server

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the reaper looks into /proc")


def run() -> None:
    """Start a server and a node of a cluster."""
    with server("valkey") as one:
        node = Node("valkey", new_folder())
        say([[one.process.pid, node.process.pid], run_folder()])  # type: ignore[union-attr]
        sys.stdin.read()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGABRT])
def test_servers_end_with_the_run_that_is_killed(number: int) -> None:
    with Script(run) as script:
        pids, folder = script.line()
        assert not any(process_gone(pid) for pid in pids)
        kill(script.pid, number)
        poll(lambda: all(process_gone(pid) for pid in pids), "the servers end")
        poll(lambda: not Path(folder).exists(), "their folder is removed")
