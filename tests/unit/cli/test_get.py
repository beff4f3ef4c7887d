"""What a named object has."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

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


def test_digits_are_a_key_or_an_index(manager: Any, objects: Any, say: Say) -> None:
    replies = manager.Counters({"200": 7, 3: 8}, name="replies")
    assert say("get", manager.address, "replies", "200") == (0, "7\n")
    assert say("get", manager.address, "replies", "3") == (0, "8\n")
    assert say("incr", manager.address, "replies", "200") == (0, "8\n")
    assert replies["200"] == 8
