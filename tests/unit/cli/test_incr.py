"""Adding to named numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Say = Callable[..., tuple[int, str]]


def test_adding(manager: Any, objects: Any, say: Say) -> None:
    assert say("incr", manager.address, "hits") == (0, "6\n")
    assert say("incr", manager.address, "hits", "--by", "-10") == (0, "-4\n")
    assert say("incr", manager.address, "words", "eggs") == (0, "3\n")
    assert say("incr", manager.address, "limit", "--by", "0.5") == (0, "2.0\n")
    assert say("incr", manager.address, "row", "1", "--by", "7") == (0, "7\n")
    assert objects[0].value == -4 and objects[1]["eggs"] == 3
