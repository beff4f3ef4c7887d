"""The compiled methods of dicts do what the methods do that they stand before."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from support.valkeys import server

from fastmgr import SyncManager
from fastmgr.kinds.verbs import DictVerbs


@pytest.fixture(scope="module")
def manager() -> Iterator[SyncManager]:
    with server() as one:
        manager = SyncManager.from_address(one.url())
        yield manager
        manager._session.close()


PLAIN: dict[Any, Any] = {
    "a": 1, 1: "one", "": None, -5: 2.5, "é": b"\0", "big": 10**30,
    (1, "x"): [1, {2}], 2.5: 3, b"k": float("inf"),
}  # fmt: skip


def test_items_are_got(manager: SyncManager) -> None:
    d = manager.dict(PLAIN)
    nested = d["nested"] = manager.list([1])
    for key, value in PLAIN.items():
        assert d[key] == value and type(d[key]) is type(value)
        assert d.get(key) == value
        assert d.get(key, 3) == value
    assert list(d["nested"]) == [1] and d.get("nested")[0] == 1
    assert list(nested) == [1]
    assert d.get("none") is None and d.get(0, default := object.__name__) == default
    for key in ("none", 0, None):
        with pytest.raises(KeyError) as caught:
            d[key]
        assert caught.value.args == (key,)
    for name, args in (
        ("__getitem__", ()),
        ("get", ()),
        ("get", (1, 2, 3)),
        ("incr", (1, 2, 3, 4)),
    ):
        with pytest.raises(TypeError):
            d._callmethod(name, args)
    with pytest.raises(TypeError, match="unhashable"):
        d[[]]


KEYS = st.sampled_from(["a", "b", 1, "c"])
WHOLE = st.integers(-3, 3) | st.sampled_from([2**53 - 1, -(2**53) + 1])
START = st.dictionaries(
    st.sampled_from(["a", "b", 1, (2,)]),
    st.sampled_from([0, 5, -7, 2**53, 2**63 - 2, -(2**63), 2**70, 0.1, "text", None]),
    max_size=4,
)
#: Floats are added by the server too; a sum that only Python can make comes after its batch.
OTHER = st.sampled_from([0.5, 1e-3, -1, 2**53, 2**62, True])
NUMBERS = st.dictionaries(KEYS, st.sampled_from([0, 5, -7, 0.1, 1e300, "text"]), max_size=4)
CASES = st.one_of(
    st.tuples(START, st.lists(st.tuples(KEYS, WHOLE), max_size=40)),
    st.tuples(NUMBERS, st.lists(st.tuples(KEYS, st.one_of(WHOLE, OTHER)), max_size=3)),
)


def outcome(call: Any, *args: Any) -> Any:
    try:
        return call(*args)
    except Exception as error:
        return type(error)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(CASES)
def test_sums_in_a_pipeline_are_those_of_a_dict(
    manager: SyncManager, case: tuple[dict[Any, Any], list[tuple[Any, Any]]]
) -> None:
    """Each result, the dict afterwards, and the order of its keys."""
    start, calls = case
    model = dict(start)
    expected = [outcome(DictVerbs.incr, model, *call) for call in calls]
    for together in (True, False):
        d = manager.dict(start)
        if together:
            with manager.pipeline("return") as pipe:
                for call in calls:
                    pipe(d).incr(*call)
            results = [type(r) if isinstance(r, Exception) else r for r in pipe.results]
        else:
            results = [outcome(d.incr, *call) for call in calls]
        assert [(type(r), r) for r in results] == [(type(r), r) for r in expected]
        assert list(d.items()) == list(model.items())


def test_many_sums_are_few_requests(manager: SyncManager) -> None:
    d = manager.dict()
    before = manager._session.run(["INFO", "commandstats"]).decode()
    with manager.pipeline() as pipe:
        for i in range(1000):
            pipe(d).incr("k", i % 3)
    after = manager._session.run(["INFO", "commandstats"]).decode()
    assert pipe.results == [sum(n % 3 for n in range(i + 1)) for i in range(1000)]

    def calls(text: str) -> int:
        lines = [one for one in text.splitlines() if one.startswith("cmdstat_fcall:")]
        return int(lines[0].partition("calls=")[2].partition(",")[0])

    assert calls(after) - calls(before) < 100  # what is returned meanwhile is in it
