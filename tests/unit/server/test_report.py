"""The report of a server, as plain values."""

from __future__ import annotations

import threading
from heapq import nlargest
from typing import Any

import pytest
from support import DEADLINE, poll, together

from fastmgr.monitor import ORDERS
from fastmgr.server import report as module


@pytest.mark.parametrize("most", [-1, "all", None])
def test_how_many_objects_is_a_number(serving: Any, most: Any) -> None:
    with pytest.raises(ValueError, match="number of objects"):
        serving.report(None, most)


def test_objects_come_in_order_and_no_more_than_asked_for(serving: Any) -> None:
    for i in range(600):
        entry = serving.table.add([0] * i, {"append"}, None, True)
        entry.refcount = i
    report = serving.report(None, 3, "references")
    assert [one["size"] for one in report["objects"]] == [599, 598, 597]
    assert report["server"]["objects"] == 600
    for by in ORDERS:
        assert len(serving.report(None, 3, by)["objects"]) == 3
    with pytest.raises(ValueError, match="is needed"):
        serving.report(None, 3, "beauty")


def test_many_who_ask_at_once_get_one_report(serving: Any) -> None:
    """Each report takes the interpreter's lock from the loop; one is begun after all have asked."""
    reporter = serving._prepare().reporter
    reports: list[Any] = []

    def ask(number: int) -> Any:
        return serving.report(None, 6 if number == 8 else 5)

    with reporter.lock:
        askers = threading.Thread(target=lambda: reports.extend(together(9, ask)), daemon=True)
        askers.start()
        poll(lambda: reporter.asking == 9, "all have asked")
    askers.join(DEADLINE)
    assert len({id(one) for one in reports[:8]}) == 1
    assert reports[8] is not reports[0], "it asked for more"
    assert ask(0) is not reports[0], "it has asked later"
    assert reporter.asking == 0


def test_the_most_used_are_not_chosen_again_and_again(
    serving: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = []

    def choose(most: int, of: Any) -> list[Any]:
        chosen.append(len(of))
        return nlargest(most, of)

    monkeypatch.setattr(module, "nlargest", choose)
    for _ in range(2000):
        serving.table.add([], {"append"}, None, True)
    assert len(serving.report(None, 500, "calls")["objects"]) == 500
    assert sum(chosen) < 3 * 2000
