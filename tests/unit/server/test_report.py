"""The report of a server, as plain values."""

from __future__ import annotations

from typing import Any

import pytest

from fastmgr.monitor import ORDERS


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
