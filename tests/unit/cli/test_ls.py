"""The list of the named objects of a server."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from support import valkeys

Say = Callable[..., tuple[int, str]]


def test_list(manager: Any, objects: Any, say: Say) -> None:
    status, said = say("ls", manager.address)
    assert status == 0
    assert said.splitlines() == [
        "hits      Counter   5",
        "limit     Value     1.5",
        "row       Counters  {0: 0, 1: 0}",
        "samples   Array     [0, 1, 2, 3, 4, 5, ...]",
        "settings  Value     {'a': [1]}",
        "words     Counters  {'spam': 1, 'eggs': 2}",
    ]
    said = say("ls", manager.address, "--json")[1]
    facts = {fact["name"]: fact for fact in map(json.loads, said.splitlines())}
    assert facts["samples"] == {"name": "samples", "type": "Array", "value": [*range(100)]}
    assert facts["words"]["value"] == {"spam": 1, "eggs": 2}


def test_long_rows_are_shortened_in_their_order(manager: Any, say: Say) -> None:
    row = manager.Counters(["z", "y", "x", "w", "v"], name="letters")
    assert say("ls", manager.address)[1] == (
        "letters  Counters  {'z': 0, 'y': 0, 'x': 0, 'w': 0, ...}\n"
    )
    manager.forget("letters")
    del row


def test_an_object_in_a_value(manager: Any, say: Say) -> None:
    held = manager.dict(spam=1)
    root = manager.Value("O", held, name="root")
    name = f"<dict {held._token.id}>"
    assert say("ls", manager.address)[1] == f"root  Value  {name}\n"
    assert json.loads(say("ls", manager.address, "--json")[1])["value"] == name
    manager.forget("root")
    del root


def test_names_that_would_command_the_terminal(manager: Any, say: Say) -> None:
    name = "\x1b[31mred\nname"
    row = manager.Counters({name: 1}, name=name)
    assert say("ls", manager.address)[1].startswith(r"\x1b[31mred\nname  Counters  {")
    assert say("get", manager.address, name) == (0, "\\x1b[31mred\\nname 1\n")
    said = say("watch", manager.address, name, "--count", "1")[1]
    assert said.endswith(r"  \x1b[31mred\nname \x1b[31mred\nname  1" + "\n")
    manager.forget(name)
    del row


def test_list_of_nothing(manager: Any, say: Say) -> None:
    assert say("ls", manager.address) == (0, "nothing has a name there\n")
    assert say("ls", manager.address, "--json") == (0, "")


@pytest.mark.parametrize("kind", valkeys.KINDS)
def test_on_a_valkey_server(kind: str, say: Say) -> None:
    with valkeys.manager(kind) as manager:
        counter, value = manager.Counter(5, name="hits"), manager.Value("i", 3, name="limit")
        counters = manager.Counters(["a"], name="words")
        said = say("ls", manager.address)[1]
        assert said.splitlines() == [
            "hits   Counter   5", "limit  Value", "words  Counters  {'a': 0}"
        ]  # fmt: skip
        assert say("incr", manager.address, "hits") == (0, "6\n")
        assert say("get", manager.address, "words", "a") == (0, "0\n")
        assert (counter.value, value.value) == (6, 3) and counters["a"] == 0
