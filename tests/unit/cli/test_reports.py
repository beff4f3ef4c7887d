"""Reports in words, and as JSON."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from multiprocessing import managers as stock

import pytest
from support import KEY
from support.reports import CLIENTS, LOCKS, OBJECTS, hostile, report

from fastmgr.cli import reports
from fastmgr.cli.options import Refusal
from fastmgr.cli.reports import Source, about_deadlock, about_thing, about_waits, as_json, title
from fastmgr.cli.waitfor import deadlocks, waits
from fastmgr.monitor import Report

Say = Callable[..., tuple[int, str]]


def test_titles() -> None:
    assert [title(one) for one in (*LOCKS, *OBJECTS[:2])] == [
        "Lock a1", "table", "jobs", "dict b1", "hits"
    ]  # fmt: skip


def test_deadlock_in_words() -> None:
    (found,) = deadlocks(waits(LOCKS, CLIENTS))
    assert list(about_deadlock(found)) == [
        "deadlock: 2 threads",
        "  other (4001) waits for Lock a1 for 2.5 s, which one (4000) holds",
        "  one (4000) waits for table for 2.5 s, which other (4001) holds",
        "  behind it: third (4002) waits for Lock a1 for 2.5 s, which one (4000) holds",
    ]


def test_waits_in_words() -> None:
    assert list(about_waits(report())) == [
        "one (4000) is waited for",
        "  └ other (4001) waits for Lock a1 for 2.5 s",
        "  └ third (4002) waits for Lock a1 for 2.5 s",
    ]
    assert list(about_waits(report(locks=()))) == ["nobody waits for what another holds"]


def test_one_thing_in_words() -> None:
    assert list(about_thing(OBJECTS[0], report())) == ["nobody holds it, or waits for it"]
    assert list(about_thing(OBJECTS[2], report())) == [
        "held by one (4000) for 2.5 s",
        "1. waits: other (4001) for 2.5 s",
        "2. waits: third (4002) for 2.5 s",
        "└ one (4000) waits for table for 2.5 s, which other (4001) holds",
        "  └ other (4001) waits for Lock a1 for 2.5 s, which one (4000) holds",
    ]
    assert list(about_thing(CLIENTS[1], report())) == ["peer: 10.0.0.7", "threads: MainThread"]


def test_names_that_would_command_the_terminal() -> None:
    said = hostile()
    things = [*said.objects, *said.clients, *said.locks]
    lines = [line for thing in things for line in about_thing(thing, said)]
    (found,) = deadlocks(waits(said.locks, said.clients))
    lines += [*about_deadlock(found), *about_waits(said), *map(title, said.locks)]
    assert len(lines) > 12 and all(line.isprintable() for line in lines)


def test_reports_as_json() -> None:
    plain = json.loads(json.dumps(as_json(report())))
    assert plain["server"]["calls"] == 1043 and plain["objects"][1]["name"] == "hits"
    (found,) = plain["deadlocks"]
    assert [wait["waiter"]["process"] for wait in found["waits"]] == ["other", "one"]
    assert [wait["lock"]["id"] for wait in found["behind"]] == ["00a1"]


def test_servers_that_report_nothing(say: Say) -> None:
    with stock.SyncManager(authkey=KEY) as manager:
        status, said = say("locks", manager.address)
        assert said.startswith(f"python -m fastmgr locks: {manager.address}: the server")
        assert status == 1 and "reports nothing: it is the standard library's" in said
    status, said = say("top", "valkey://localhost", "--once")
    assert status == 2 and "its own tools look into it" in said and said.count("\n") == 1


class FakeMonitor:
    """A connection that is lost after one report."""

    made = 0

    def __init__(self, address: str, authkey: bytes, timeout: float) -> None:
        assert authkey == KEY
        type(self).made += 1
        self.says: Iterator[Report] = iter([report()])

    def report(self, by: str) -> Report:
        for said in self.says:
            return said
        raise EOFError

    def close(self) -> None:
        pass


def test_lost_connections_are_made_anew(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reports, "Monitor", FakeMonitor)
    options = argparse.Namespace(address="/socket", authkey_file=None, command="top")
    with Source(options) as source:
        assert source.report().pid == 77
        with pytest.raises(Refusal, match="closed the connection"):
            source.report()
        assert source.report().pid == 77
    assert FakeMonitor.made == 2
