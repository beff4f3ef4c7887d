"""How a proxy of a named object finds it again in a server that was restarted."""

from __future__ import annotations

from pathlib import Path

import pytest
from support import DEADLINE, KEY, ProbeManager, connected

from fastmgr.kinds import makers
from fastmgr.kinds.counters import Counter, Counters
from fastmgr.server import names as module
from fastmgr.server.names import Finder, Names, named_handle

pytestmark = pytest.mark.timeout(90)


def test_counters_of_a_restarted_server_are_found_by_its_names(tmp_path: Path) -> None:
    address = str(tmp_path / "socket")
    first = ProbeManager(address, KEY)
    first.start()
    other = connected(address)
    old = other.Counters(["a", "b"], name="cs")
    assert old.incr("b") == 1
    first._process.kill()
    first._process.join(DEADLINE)
    with ProbeManager(address, KEY) as again:
        new = again.Counters(["b", "c", "a"], name="cs")
        assert [old.incr("b", 5), old.incr("b"), new["b"]] == [5, 6, 6]
        assert old.as_dict() == {"b": 6, "c": 0, "a": 0}
    first.shutdown()


def test_neither_unknown_handles_nor_new_names_cost_a_look_at_all_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    computed = []

    def compute(typeid: str, name: str) -> int:
        computed.append(name)
        return named_handle(typeid, name)

    monkeypatch.setattr(module, "named_handle", compute)
    names, finder, registry = Names(), Finder(), {"Counter": (makers.Counter,)}
    for number in range(100):
        handle = named_handle("Counter", name := f"name {number}")
        assert finder.find(handle, names, registry) is None
        counter = names.get(name, Counter, ())
        assert finder.find(handle, names, registry) == ("Counter", counter)
    assert len(computed) == 100
    for number in range(100):
        assert names.forget(f"name {number}")
        assert finder.find(named_handle("Counter", f"name {number}"), names, registry) is None
    names.get("name 5", Counters, (1,))
    again = names.get("again", Counter, ())
    assert finder.find(named_handle("Counter", "again"), names, registry) == ("Counter", again)
    assert finder.find(named_handle("Counter", "name 5"), names, registry) is None
    assert len(finder._found) == 1
