"""What a proxy does with what a call came to."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from support import ProbeManager, stopped

from fastmgr import OnewayError, oneway


def test_a_one_way_error_tells_all_of_it_after_its_way_through_a_pickle() -> None:
    error = OnewayError(3, "result", "list.pop() of object 1", "IndexError: empty", made=False)
    again = pickle.loads(pickle.dumps(error))
    assert vars(again) == vars(error) and str(again) == str(error)
    assert "and 2 more after it" in str(error) and "make it again" in str(error)


@pytest.mark.parametrize(("method", "made"), [("pop", False), ("count", True)])
def test_a_call_that_takes_something_is_not_made_behind_a_failure(
    manager: ProbeManager, method: str, made: bool
) -> None:
    shared = manager.list([7])
    oneway(shared).remove(8)
    args: tuple[Any, ...] = () if method == "pop" else (7,)
    with pytest.raises(OnewayError) as raised:
        getattr(shared, method)(*args)
    assert isinstance(raised.value.__cause__, ValueError)
    assert (raised.value.made, raised.value.result) == (made, 1 if made else None)
    assert shared[:] == [7]


def test_a_closed_proxy_leaves_the_cell_alone(manager: ProbeManager) -> None:
    counter = manager.Counter(1)
    other = pickle.loads(pickle.dumps(counter))
    assert other.incr() == 2  # which finds the cell
    with stopped(manager._process.pid):
        assert other._seen() == "2"
    other._close()
    other._close()
    assert other._seen() is None
    assert other.incr() == 3 == counter.get()  # the server is asked


def test_what_a_proxy_shows_of_its_cell_takes_no_call(manager: ProbeManager) -> None:
    counter = manager.Counter(41)
    counter.incr()
    with stopped(manager._process.pid):
        assert counter._seen() == "42"
