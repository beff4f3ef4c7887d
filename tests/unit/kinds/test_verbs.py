"""The verbs that read, change and write in one step, by both dialects and on engines."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from fractions import Fraction

import pytest
from support import valkeys
from support.servers import HookedManager

from fastmgr import managers
from fastmgr.managers import SyncManager


@pytest.fixture(scope="module", params=["fast", "stock dialect", *valkeys.PLACES])
def manager(request: pytest.FixtureRequest) -> Iterator[managers.SyncManager]:
    if request.param in valkeys.PLACES:
        with valkeys.manager(request.param) as manager:
            yield manager
        return
    with (SyncManager if request.param == "fast" else HookedManager)() as manager:
        yield manager


def test_dict_incr(manager: SyncManager) -> None:
    d = manager.dict(a=1)
    assert [d.incr("a"), d.incr("a", 4), d.incr("a", amount=-10)] == [2, 6, -4]
    assert [d.incr("new"), d.incr("other", 2, default=40)] == [1, 42]
    assert d.incr(("any", "key"), 0.5) == 0.5
    assert d.copy() == {"a": -4, "new": 1, "other": 42, ("any", "key"): 0.5}


def test_dict_incr_of_what_cannot_be_added_changes_nothing(manager: SyncManager) -> None:
    d = manager.dict(a="text")
    with pytest.raises(TypeError):
        d.incr("a")
    with pytest.raises(TypeError):
        d.incr([], 1)
    assert d.copy() == {"a": "text"}


def test_dict_exchange(manager: SyncManager) -> None:
    d = manager.dict(a=1)
    assert d.exchange("a", [2]) == 1
    assert d.exchange("a", None) == [2]
    with pytest.raises(KeyError, match="missing"):
        d.exchange("missing", 1)
    assert d.copy() == {"a": None}


def test_dict_compare_exchange(manager: SyncManager) -> None:
    d = manager.dict(a=1)
    assert d.compare_exchange("a", 2, 3) is False
    assert d.compare_exchange("a", 1, 3) is True
    with pytest.raises(KeyError, match="missing"):
        d.compare_exchange("missing", None, 1)
    assert d.copy() == {"a": 3}


def test_a_missing_key_is_in_the_error(manager: SyncManager) -> None:
    shared = manager.dict()
    for call in (
        lambda key: shared.exchange(key, 1),
        lambda key: shared.compare_exchange(key, 1, 2),
    ):
        for key in (None, "a", (1, 2)):
            with pytest.raises(KeyError) as caught:
                call(key)
            assert caught.value.args == (key,)


def test_list_incr(manager: SyncManager) -> None:
    items = manager.list([1, 2.5])
    assert [items.incr(0), items.incr(-1, 2)] == [2, 4.5]
    with pytest.raises(IndexError):
        items.incr(2)
    assert items[:] == [2, 4.5]


def test_value(manager: SyncManager) -> None:
    value = manager.Value("i", 1)
    assert [value.incr(), value.incr(5), value.exchange(0)] == [2, 7, 7]
    assert value.compare_exchange(1, 2) is False
    assert value.compare_exchange(0, 2) is True
    assert value.value == 2


def test_namespace(manager: SyncManager) -> None:
    namespace = manager.Namespace(a=1)
    assert [namespace.incr("a"), namespace.incr("a", 3)] == [2, 5]
    assert namespace.incr("b", default=10) == 11
    assert [namespace.incr("missing"), manager.dict().incr("missing")] == [1, 1]
    assert (namespace.a, namespace.b, namespace.missing) == (5, 11, 1)


def test_values_of_other_types(manager: SyncManager) -> None:
    d = manager.dict(a=Fraction(1, 3))
    assert d.incr("a", Fraction(1, 6)) == Fraction(1, 2)


def test_other_types_have_no_verbs(manager: SyncManager) -> None:
    with pytest.raises(managers.RemoteError, match="AttributeError"):
        manager.Event()._callmethod("incr")


def test_nothing_is_lost_between_the_dialects(manager: SyncManager) -> None:
    """The loop and worker threads change the same dict."""
    if "://" in str(manager.address):
        pytest.skip("an engine has one dialect")
    d = manager.dict()
    rounds = 500

    def count_by_proxy() -> None:
        for _ in range(rounds):
            d.incr("n")

    def count_as_stock_clients_do() -> None:
        with manager._Client(manager.address, authkey=manager._authkey) as conn:
            managers.dispatch(conn, None, "accept_connection", ("stock",))
            for _ in range(rounds):
                managers.dispatch(conn, d._id, "incr", ("n",))

    threads = [
        threading.Thread(target=target)
        for target in (count_by_proxy, count_as_stock_clients_do) * 2
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert d["n"] == len(threads) * rounds
