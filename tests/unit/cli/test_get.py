"""What a named object has."""

from __future__ import annotations

import multiprocessing
import re
import sys
from collections.abc import Callable
from typing import Any

import pytest
from support import KEY

from fastmgr.contrib.series import Series

Say = Callable[..., tuple[int, str]]


def test_what_an_object_has(manager: Any, objects: Any, say: Say) -> None:
    for words, expected in [
        (("hits",), "5\n"),
        (("limit",), "1.5\n"),
        (("words",), "spam 1\neggs 2\n"),
        (("words", "eggs"), "2\n"),
        (("row", "1"), "0\n"),
        (("samples", "99"), "99\n"),
        (("settings",), "{'a': [1]}\n"),
    ]:
        assert say("get", manager.address, *words) == (0, expected)
    assert say("get", manager.address, "samples")[1].count("\n") == 100


def test_parts_of_what_a_value_has(manager: Any, say: Say) -> None:
    values = {"dict": {"a": None, 3: "x"}, "list": [1, [2]], "proxy": manager.dict(a=1)}
    kept = [manager.Value("O", value, name=name) for name, value in values.items()]
    for words, expected in [
        (("dict", "a"), "None\n"),
        (("dict", "3"), "x\n"),
        (("list", "1"), "[2]\n"),
        (("proxy", "a"), "1\n"),
    ]:
        assert say("get", manager.address, *words) == (0, expected)
    assert "has no 'b'" in say("get", manager.address, "dict", "b")[1]
    assert "has no '2'" in say("get", manager.address, "list", "2")[1]
    for one in values:
        manager.forget(one)
    del kept


def test_object_in_a_value_is_found_by_the_key_that_is_given(manager: Any, say: Say) -> None:
    """The key is that of the command's server, not the process's own."""
    held = manager.dict(spam=1)
    root = manager.Value("O", held, name="root")
    multiprocessing.current_process().authkey = b"another"
    assert say("get", manager.address, "root") == (0, "{'spam': 1}\n")
    manager.forget("root")
    del root


class Broken:
    """Which no process can unpickle."""

    def __reduce__(self) -> tuple[Any, ...]:
        return int, ("none",)


def test_object_that_cannot_be_read(manager: Any, say: Say) -> None:
    value = manager.Value("O", None, name="broken")
    value.set(Broken())
    for command in ("get", "watch"):
        status, said = say(command, manager.address, "broken")
        assert status == 1 and said.count("\n") == 1
        assert "'broken' has an object that cannot be read here: invalid literal" in said
    said = say("ls", manager.address)[1]
    assert re.search(r"^broken +Value +<unreadable here>$", said, re.MULTILINE)
    manager.forget("broken")


def test_text_is_escaped_in_a_terminal_alone(
    manager: Any, say: Say, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = manager.Value("O", "a\nb\x1b[31m", name="text")
    assert say("get", manager.address, "text") == (0, "a\nb\x1b[31m\n")
    monkeypatch.setattr(type(sys.stdout), "isatty", lambda stream: True)
    assert say("get", manager.address, "text") == (0, r"a\nb\x1b[31m" + "\n")
    manager.forget("text")
    del value


def test_metrics(manager: Any, say: Say) -> None:
    """Their bits are shown by no command, and changed by none."""
    series = Series(manager.address, KEY, "prometheus")
    series.reach()
    for key in (b"hits", b"errors"):
        series.place(key, 1.5)
    assert "prometheus  Counters  <metrics: 2 series>" in say("ls", manager.address)[1]
    for words in [("get",), ("get", "0"), ("incr", "0"), ("watch",)]:
        status, said = say(words[0], manager.address, "prometheus", *words[1:])
        assert status == 1 and "'prometheus' has metrics of prometheus-client (2 series)" in said
    manager.forget("prometheus")


def test_digits_are_a_key_or_an_index(manager: Any, objects: Any, say: Say) -> None:
    replies = manager.Counters({"200": 7, 3: 8}, name="replies")
    assert say("get", manager.address, "replies", "200") == (0, "7\n")
    assert say("get", manager.address, "replies", "3") == (0, "8\n")
    assert say("incr", manager.address, "replies", "200") == (0, "8\n")
    assert replies["200"] == 8
