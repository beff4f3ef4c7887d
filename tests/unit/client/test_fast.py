"""A client's session: it finds out which dialect the server speaks."""

from __future__ import annotations

import contextlib
import multiprocessing.managers as stock
import pickle
import threading
from pathlib import Path
from typing import Any

import pytest
from support import KEY, ProbeManager

from fastmgr import SyncManager, oneway
from fastmgr.client import fast
from fastmgr.client.fast import ClientSession
from fastmgr.client.stock import StockSession


def test_an_empty_pipeline_and_looks_at_a_session_make_no_connection() -> None:
    session: Any = ClientSession("/nowhere/at/all", "pickle", KEY)
    assert session.pipeline([]) == ([], [])
    assert session.held() == [] and session.stock_connection() is None
    assert session.hurry(1.0) is False
    with pytest.raises(AttributeError):
        session.forget_connection()
    with pytest.raises(FileNotFoundError):
        session.control("dummy")


def test_a_stock_servers_session_does_what_a_session_does() -> None:
    with stock.SyncManager(authkey=KEY) as manager:
        session: Any = ClientSession(manager.address, "pickle", KEY)
        ident, exposed, reference = session.create("list", ([1],), {})
        assert "append" in exposed and session.held() == [ident]
        assert session.control("number_of_objects") == 1
        assert session.stock_connection() is session.stock_connection() is not None
        assert session.lost_connection() is None
        session.forget_connection()
        assert session.stock_connection() is None
        del reference
        assert session.held() == []
        session.close()
        session.retire()
        assert session.retired


def test_a_thread_whose_one_way_calls_may_be_under_way_is_not_hurried(
    manager: ProbeManager,
) -> None:
    shared = manager.list()
    session = shared._session_of()
    assert session.hurry(60.0)
    oneway(shared).append(1)
    assert not session.hurry(60.0)
    assert shared[:] == [1]  # whose reply says that all before it were served
    assert session.hurry(60.0)


def test_a_process_holds_an_object_once(manager: ProbeManager) -> None:
    shared = manager.list()
    session = shared._session_of()
    other = pickle.loads(pickle.dumps(shared))
    assert session.held().count(shared._id) == 1
    del shared
    assert other._id in session.held()


def test_threads_that_are_told_otherwise_at_once_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stock server has answered one, and the fast one in its place another."""
    address = str(tmp_path / "server")
    stock_manager, manager = stock.SyncManager(address, KEY), SyncManager(address, KEY)
    stock_manager.start()
    session: Any = ClientSession(address, "pickle", KEY)
    made: list[Any] = []

    def open_late(*args: Any) -> StockSession:
        stock_manager.shutdown()
        manager.start()
        thread = threading.Thread(target=lambda: made.append(session.create("list", (), {})))
        thread.start()
        thread.join()
        return StockSession(*args)

    monkeypatch.setattr(fast, "StockSession", open_late)
    with contextlib.closing(session):
        made.append(session.create("list", (), {}))
        assert len(session.held()) == 2
    manager.shutdown()
