"""Lines about what has changed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from fastmgr.cli import watch

Say = Callable[..., tuple[int, str]]


@pytest.fixture
def at_each_look(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], object]]:
    """What happens between two looks, in place of waiting."""
    steps: list[Callable[[], object]] = []
    monkeypatch.setattr(watch, "sleep", lambda seconds: steps.pop(0)())
    return steps


def test_a_line_for_each_change(
    manager: Any, objects: Any, say: Say, at_each_look: list[Any]
) -> None:
    hits, words = objects[:2]
    at_each_look += [lambda: hits.incr(3), lambda: None, lambda: words.incr("eggs")]
    status, said = say("watch", manager.address, "hits", "words", "--count", "5")
    assert status == 0
    lines = [
        re.sub(r"^\d\d:\d\d:\d\d  |(?<=\+)[\d.,e+]+(?=/s)", "", line) for line in said.split("\n")
    ]
    assert lines == [
        "hits  5",
        "words spam  1",
        "words eggs  2",
        "hits  8  +/s",
        "words eggs  3  +/s",
        "",
    ]


def test_json(manager: Any, objects: Any, say: Say, at_each_look: list[Any]) -> None:
    limit, settings = objects[3:5]
    at_each_look += [lambda: limit.set(1.0), lambda: settings.set({"b": 2})]
    words = ("limit", "settings", "--count", "4", "--json")
    facts = [json.loads(line) for line in say("watch", manager.address, *words)[1].splitlines()]
    assert [(fact["name"], fact["value"]) for fact in facts] == [
        ("limit", 1.5), ("settings", {"a": [1]}), ("limit", 1.0), ("settings", {"b": 2})
    ]  # fmt: skip
    assert facts[2]["per_second"] < 0 and facts[3]["per_second"] is None


def test_what_is_not_there(manager: Any, objects: Any, say: Say) -> None:
    status, said = say("watch", manager.address, "hits", "none")
    assert status == 1 and "there is no name 'none'" in said


@pytest.mark.parametrize("count", ["0", "-1", "few"])
def test_counts_that_are_none(count: str, manager: Any, say: Say) -> None:
    with pytest.raises(SystemExit):
        say("watch", manager.address, "hits", "--count", count)


def test_an_object_that_goes_away(
    manager: Any, objects: Any, say: Say, at_each_look: list[Any]
) -> None:
    """It has a proxy here, and so its last value; the name may be another's by now."""
    at_each_look += [lambda: manager.forget("hits"), objects[0].incr]
    assert say("watch", manager.address, "hits", "--count", "2")[0] == 0


def test_an_object_in_a_value(manager: Any, say: Say, at_each_look: list[Any]) -> None:
    held = manager.dict(spam=1)
    root = manager.Value("O", held, name="root")
    at_each_look += [lambda: None, lambda: held.incr("spam")]
    said = say("watch", manager.address, "root", "--count", "2")[1]
    manager.forget("root")
    assert [line.split("  ", 1)[1] for line in said.splitlines()] == [
        "root  {'spam': 1}", "root  {'spam': 2}"
    ]  # fmt: skip
    del root
