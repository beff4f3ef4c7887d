"""What the doctor finds, and what it says is to be done."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing import managers as stock
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager
from support.valkeys import program

import fastmgr
from fastmgr.cli import doctor

Say = Callable[..., tuple[int, str]]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is slow, and none lacks anything."""
    for name in ("SLOW_STEP", "SLOW_CALL", "BUSY"):
        monkeypatch.setattr(doctor, name, float("inf"))
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", 0)
    monkeypatch.setattr(doctor, "FEW_DESCRIPTORS", 0)
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})


def test_this_machine(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMGR_VALKEY_PASSWORD", "swordfish")
    status, said = say("doctor")
    assert status == 0 and f"fastmgr {fastmgr.__version__}" in said and "open files:" in said
    assert "FASTMGR_AUTHKEY is set\n" in said
    assert KEY.decode() not in said and "swordfish" not in said


@pytest.mark.skipif(sys.platform != "linux", reason="as Linux has it")
def test_what_a_machine_lacks(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "LITTLE_MEMORY", float("inf"))
    monkeypatch.setattr(doctor, "BUSY", -1.0)
    monkeypatch.setattr(doctor, "FEW_DESCRIPTORS", float("inf"))
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0})
    status, said = say("doctor")
    wrong = [line for line in said.splitlines() if line.startswith("! ")]
    assert status == 1 and len(wrong) == 4
    assert "--shm-size" in said and "processors: 1: " in said and "raise it" in said


def test_server_that_shares_memory(manager: Any, say: Say) -> None:
    status, said = say("doctor", manager.address)
    assert status == 0, said
    assert f"process {manager._process.pid}" in said and "shared memory: yes" in said
    assert "a small call takes" in said


def test_slow_server(manager: Any, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLOW_STEP", "SLOW_CALL"):
        monkeypatch.setattr(doctor, name, 0.0)
    status, said = say("doctor", manager.address)
    assert status == 1 and "manager.pipeline()" in said and "keeps this processor busy" in said


def test_why_no_memory_is_shared(say: Say, tmp_path: Path) -> None:
    with ProbeManager(("127.0.0.1", 0), KEY) as manager:
        status, said = say("doctor", "{}:{}".format(*manager.address))
        assert status == 1 and "! shared memory: no" in said and "use a Unix socket" in said
    with ProbeManager(authkey=KEY, arena=False) as manager:
        assert "the server offers none" in say("doctor", manager.address)[1]
    with ProbeManager(authkey=KEY, arena=str(tmp_path / "arena")) as manager:
        assert f"kept in {tmp_path / 'arena'}" in say("doctor", manager.address)[1]


def test_versions_that_differ(manager: Any, say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fastmgr, "__version__", "0.0")
    assert "another version than here" in say("doctor", manager.address)[1]


def test_servers_that_cannot_be_asked(say: Say, tmp_path: Path) -> None:
    assert "nobody serves there" in say("doctor", str(tmp_path / "socket"))[1]
    with stock.SyncManager(authkey=KEY) as manager:
        status, said = say("doctor", manager.address)
        assert status == 1 and "standard library's" in said


def test_engine(say: Say) -> None:
    program("valkey")
    with fastmgr.SyncManager(address="valkey+embedded://") as manager:
        status, said = say("doctor", manager.address)
        assert status == 0 and "an engine keeps" in said and "a small call takes" in said


def test_lines_fit_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    for is_terminal in (True, False):
        monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream, yes=is_terminal: yes)
        doctor.Findings().say("load: 9.9", "more is to be run than there are processors")
    assert capsys.readouterr().out.splitlines() == [
        "! load: 9.9: more is to be run than",
        "    there are processors",
        "! load: 9.9: more is to be run than there are processors",
    ]
