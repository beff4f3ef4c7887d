"""Forks among busy threads: the child holds what it inherited, and its calls are its own."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from types import FunctionType
from typing import Any

import pytest
from support import DEADLINE, ProbeManager, in_thread, poll, settle, stopped
from support.managers import references
from support.processes import in_child

from fastmgr.client import fast as _fast
from fastmgr.link import sockets


def test_raw_fork_among_busy_threads(manager: ProbeManager) -> None:
    shared = manager.dict()
    stop = threading.Event()
    failures: list[BaseException] = []

    def work(i: int) -> None:
        try:
            while not stop.is_set():
                mine = manager.list([i])
                shared[i] = mine[0]
                assert shared[i] == i
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    try:
        for i in range(5):

            def use(i: int = i) -> Any:
                shared["child", i] = i
                fresh = manager.list([i])
                fresh.append(shared["child", i])
                return fresh[:]

            assert in_child(use) == (0, repr([i, i]))
    finally:
        stop.set()
        for thread in threads:
            thread.join(DEADLINE)
    assert failures == []
    assert [shared["child", i] for i in range(5)] == [0, 1, 2, 3, 4]
    # The children ended without a word, and held what they had inherited.
    settle(manager, 1)
    poll(lambda: references(manager) == {shared._id: 1}, "the counts are exact")


def test_child_holds_what_it_inherited(manager: ProbeManager) -> None:
    shared = manager.list([1])
    ident = shared._id
    to_child_read, to_child_write = os.pipe()
    from_child_read, from_child_write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            assert shared[:] == [1]
            os.write(from_child_write, b"r")
            os.read(to_child_read, 1)
            os.write(from_child_write, b"y" if shared[:] == [1] else b"n")
        finally:
            os._exit(0)
    try:
        assert os.read(from_child_read, 1) == b"r"
        assert references(manager) == {ident: 2}
        del shared
        gc.collect()
        poll(lambda: references(manager) == {ident: 1}, "only the child holds it")
        os.write(to_child_write, b"x")
        assert os.read(from_child_read, 1) == b"y"
    finally:
        os.close(to_child_write)
        os.waitpid(pid, 0)
        for fd in (to_child_read, from_child_read, from_child_write):
            os.close(fd)
    settle(manager, 0)


def test_child_of_a_client_whose_server_stands_still(manager: ProbeManager) -> None:
    """It begins soon, and is known to the server later."""
    shared = manager.list([1])
    with stopped(manager._process.pid):
        begun = time.monotonic()
        assert in_child(lambda: len(shared._session_of().held())) == (0, "1")
        assert time.monotonic() - begun < sockets.HANDSHAKE_TIMEOUT / 2
    assert in_child(lambda: shared[:]) == (0, "[1]")


@pytest.mark.parametrize("error", [TypeError("odd"), OSError("lost")])
def test_child_that_fails_otherwise_than_by_its_connection_says_so(
    manager: ProbeManager, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    shared = manager.list([1])
    said: list[object] = []

    def fail(*args: object) -> object:
        raise error

    # As if it were in the module.
    fail = FunctionType(fail.__code__, vars(sockets), closure=fail.__closure__)
    monkeypatch.setattr(_fast, "connect", fail)
    monkeypatch.setattr(sys, "unraisablehook", lambda about: said.append(about.exc_value))
    assert in_child(lambda: said) == (0, repr([error] * (type(error) is TypeError)))
    assert shared[:] == [1]


def test_child_forked_in_a_thread(manager: ProbeManager) -> None:
    shared = manager.list([1])
    assert in_thread(in_child, lambda: shared[:]) == (0, "[1]")
    assert shared[:] == [1]


def test_fork_while_a_call_is_under_way(manager: ProbeManager) -> None:
    """The child has a copy of a connection on which the reply is still to come."""
    shared = manager.Queue()
    waiting = manager.Value("i", 0)
    got: list[object] = []

    def get() -> None:
        waiting.value = 1
        got.append(shared.get())

    thread = threading.Thread(target=get)
    thread.start()
    poll(lambda: waiting.value == 1, "the thread is about to wait")
    assert in_child(lambda: shared.put("from the child")) == (0, "None")
    thread.join(DEADLINE)
    assert got == ["from the child"]


def test_grandchildren(manager: ProbeManager) -> None:
    shared = manager.list()

    def child() -> object:
        shared.append("child")
        return in_child(lambda: shared.append("grandchild"))

    assert in_child(child) == (0, repr((0, "None")))
    assert shared[:] == ["child", "grandchild"]
    poll(lambda: references(manager) == {shared._id: 1}, "the counts are exact")
