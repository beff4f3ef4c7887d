"""The examples in docs/deploy do what docs/valkey.md says, as far as this machine lets them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from multiprocessing import AuthenticationError
from pathlib import Path
from typing import Any

import pytest
from support import DEADLINE, poll, valkeys

import fastmgr

DEPLOY = Path(__file__).resolve().parents[2] / "docs" / "deploy"


@pytest.fixture(params=valkeys.KINDS)
def environment(request: pytest.FixtureRequest) -> Iterator[dict[str, str]]:
    """Where the processes of the compose file are: its server runs with its options."""
    text = (DEPLOY / "valkey-compose.yml").read_text()
    options = re.search(r"command: valkey-server (.*)", text)
    query = re.search(r"FASTMGR_ADDRESS: valkey://valkey:6379/0(\?.*)", text)
    assert options is not None and query is not None
    pairs = re.findall(r"--(\S+) (\S+)", options[1])
    named = {name.replace("-", "_"): value for name, value in pairs}
    with valkeys.server(request.param, port=valkeys.free_port(), **named) as server:
        yield {**os.environ, "FASTMGR_ADDRESS": server.tcp() + "/0" + query[1]}


def run(environment: dict[str, str], *texts: str) -> dict[str, int]:
    command = [sys.executable, str(DEPLOY / "worker.py"), *texts]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=DEADLINE, check=False
    )
    assert done.returncode == 0, done.stderr
    counts: dict[str, int] = eval(done.stdout)
    return counts


def test_workers_share_what_the_server_keeps(environment: dict[str, str]) -> None:
    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, str(DEPLOY / "worker.py")], env=environment)

    def number_waiting(manager: Any) -> int:
        return len(valkeys.ValkeyCensus(manager._session).waiting())

    workers = [start(), start()]
    try:
        assert run(environment, "spam eggs", "spam") == {"spam": 2, "eggs": 1}
        with fastmgr.SyncManager(address=environment["FASTMGR_ADDRESS"]) as manager:
            poll(lambda: number_waiting(manager) == 2, "both workers wait")
        workers[0].kill()
        workers[0].wait(DEADLINE)
        assert run(environment, "spam") == {"spam": 3, "eggs": 1}
        workers[1].terminate()
        assert workers[1].wait(DEADLINE) == 0
        workers.append(start())
        assert run(environment, "ham") == {"spam": 3, "eggs": 1, "ham": 1}
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(DEADLINE)


@pytest.mark.parametrize("kind", valkeys.KINDS)
def test_user_of_the_page_can_do_all_in_its_namespace_and_nothing_else(kind: str) -> None:
    (line,) = re.findall(r"^valkey-cli (ACL .*)$", (DEPLOY.parent / "valkey.md").read_text(), re.M)
    with valkeys.server(kind, port=valkeys.free_port()) as server:
        assert server.ask(*shlex.split(line)) == b"+OK\r\n"
        address = server.tcp().replace("//", "//app:secret@") + "?ns="
        with fastmgr.SyncManager(address=address + "shop") as manager:
            d, q, lock = manager.dict(a=1), manager.Queue(), manager.Lock()
            with lock, lock.fenced(), manager.pipeline() as pipe:
                pipe(d).incr("a")
                pipe(q).put(manager.list())
            assert q.get(timeout=DEADLINE)[:] == []
            assert not manager.Event().wait(0.01)
            assert manager._number_of_objects() == 3
            assert manager._debug_info()
        with (
            pytest.raises(AuthenticationError),
            fastmgr.SyncManager(address=address + "x") as other,
        ):
            other.dict()
