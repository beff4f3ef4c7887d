"""Objects that are not there, and servers that do not tell what there is."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from multiprocessing import managers as stock
from pathlib import Path
from typing import Any

import pytest
from support import KEY

Say = Callable[..., tuple[int, str]]


REFUSALS = [
    (("get", "none"), "there is no name 'none'"),
    (("get", "words", "ham"), "has no 'ham'"),
    (("get", "samples", "100"), "has no '100'"),
    (("get", "hits", "1"), "has no parts"),
    (("incr", "none"), "there is no name 'none'"),
    (("incr", "words"), "say which"),
    (("incr", "words", "ham"), "has no 'ham'"),
    (("incr", "hits", "--by", "1.5"), "1.5 is not added"),
    (("incr", "hits", "--by", str(2**63)), "hits"),
]


@pytest.mark.parametrize(("words", "why"), REFUSALS, ids=[" ".join(words) for words, _ in REFUSALS])
def test_refusals(words: Any, why: str, manager: Any, objects: Any, say: Say) -> None:
    status, said = say(words[0], manager.address, *words[1:])
    assert status in (1, 2) and why in said and said.count("\n") == 1
    assert not say("get", manager.address, "hits")[0]


def test_servers_that_cannot_tell(say: Say, tmp_path: Path) -> None:
    assert "nobody serves there" in say("ls", str(tmp_path / "socket"))[1]
    with stock.SyncManager(authkey=KEY) as manager:
        status, said = say("ls", manager.address)
        assert status == 1 and "it is the standard library's, or an older one" in said


def test_server_that_does_not_answer(say: Say, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTMGR_CONNECT_TIMEOUT", "0.1")
    with socket.create_server(("127.0.0.1", 0)) as silent:
        status, said = say("ls", f"127.0.0.1:{silent.getsockname()[1]}")
    assert status == 1 and re.search(r"no answer within [\d.]+ s", said)


def test_server_whose_key_is_not_given(
    manager: Any, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("FASTMGR_AUTHKEY")
    assert "the server has a key, and none is given" in say("ls", manager.address)[1]
    monkeypatch.setenv("FASTMGR_AUTHKEY", "another")
    assert "the key is not the server's" in say("ls", manager.address)[1]
