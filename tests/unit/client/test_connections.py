"""The connections of a session: one for each thread, and one that keeps the session alive."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from support import KEY, ProbeManager, call_in_subprocess, settle

from fastmgr.client.connections import authkeys
from fastmgr.client.sessions import ClientSession, session_with


@pytest.fixture(scope="module")
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


def test_a_session_outlives_the_threads_that_have_called(manager: ProbeManager) -> None:
    """The server ends a session without connections, and with it would go the object."""
    session: Any = ClientSession(manager.address, "pickle", KEY)
    made: list[Any] = []
    thread = threading.Thread(target=lambda: made.append(session.create("list", (), {})))
    thread.start()
    thread.join()
    assert session.control("number_of_objects") == 1
    made.clear()
    settle(manager, 0)
    session.close()


def test_connect_gives_the_thread_another_connection(manager: ProbeManager) -> None:
    shared = manager.list([1])
    first = shared._session_of().stock_connection()
    shared._connect()
    assert shared._session_of().stock_connection() is not first
    assert shared[:] == [1]


def test_a_key_that_has_opened_an_address_is_remembered(manager: ProbeManager) -> None:
    session_with(manager.address, "pickle", KEY).connect()
    assert authkeys[manager.address] == KEY


def test_a_server_that_was_shut_down_is_said_to_be() -> None:
    with ProbeManager(authkey=KEY) as manager:
        shared = manager.list()
        address = str(manager.address)
    with pytest.raises(OSError, match=rf"the manager at '{address}' has been shut down"):
        shared.append(1)


def exit_with_proxies(address: str) -> int:
    session: Any = ClientSession(address, "pickle", KEY)
    exit_with_proxies.kept = session.create("list", (), {})  # type: ignore[attr-defined]
    return os.getpid()


def test_the_end_of_a_process_gives_back_what_it_held(manager: ProbeManager) -> None:
    call_in_subprocess(exit_with_proxies, manager.address)
    settle(manager, 0)
