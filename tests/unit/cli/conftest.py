"""Named objects on a server, and what the commands say of them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import KEY, ProbeManager

from fastmgr.__main__ import main

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Say:
    """What a command says: its status, and its output or its complaint."""
    monkeypatch.setenv("FASTMGR_AUTHKEY", KEY.decode())
    this = multiprocessing.current_process()  # a command gives it another name, and a key
    monkeypatch.setattr(this, "name", this.name)
    monkeypatch.setattr(this, "authkey", this.authkey)

    def say(*words: str) -> tuple[int, str]:
        status = main(words)
        said = capsys.readouterr()
        return status, said.out + said.err

    return say


@pytest.fixture(scope="module")
def manager() -> Iterator[ProbeManager]:
    with ProbeManager(authkey=KEY) as manager:
        yield manager


@pytest.fixture
def objects(manager: Any) -> Iterator[Any]:
    kept = [
        manager.Counter(5, name="hits"),
        manager.Counters({"spam": 1, "eggs": 2}, name="words"),
        manager.Counters(2, name="row"),
        manager.Value("d", 1.5, name="limit"),
        manager.Value("O", {"a": [1]}, name="settings"),
        manager.Array("i", range(100), name="samples"),
    ]
    yield kept
    for name in manager.names():
        manager.forget(name)
