"""Sessions in the stdlib's dialect."""

from __future__ import annotations

from collections.abc import Callable
from multiprocessing import managers as stock
from typing import Any

import pytest
from support import KEY

from fastmgr.client import stock as module


def test_a_release_that_another_thread_sends_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """To connect takes time, in which the other thread sends all that is due."""
    connect = module.stock_client
    others: list[Callable[[], None]] = []

    def interrupted(*how: Any) -> Any:
        while others:
            others.pop()()
        return connect(*how)

    with stock.SyncManager(authkey=KEY) as server:
        session = module.StockSession(server.address, "pickle", KEY)
        created = session.create("dict", (), {})
        assert server._number_of_objects() == 1  # type: ignore[attr-defined]
        monkeypatch.setattr(module, "stock_client", interrupted)
        others.append(session.flush)
        session.close()
        assert not others
        assert server._number_of_objects() == 0  # type: ignore[attr-defined]
        del created
