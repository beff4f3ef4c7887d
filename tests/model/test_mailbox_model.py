"""The protocol of mailboxes, explored, and what the exploration would not miss."""

from __future__ import annotations

from dataclasses import replace

import pytest
from mailbox_model import Config, Mutation, Result, explore, main

pytestmark = pytest.mark.timeout(60)

# More than any of these has, so that one that has grown is noticed before it takes all day.
MOST = 60_000


def holds(config: Config) -> Result:
    result = explore(config, MOST)
    assert result.violation is None, "\n".join([*result.trace, result.violation])
    return result


ONE = {
    "calls": Config(("ccccc",), deaths=1),
    "all kinds of calls": Config(("wcpqlLoxcc",)),
    "to a worker and back": Config(("wcc",), deaths=1),
    "parked": Config(("cpcqc",), deaths=1),
    "parked by a worker": Config(("wcpc",), deaths=1),
    "the reply by a worker": Config(("cucqc",), deaths=1),
    "too large": Config(("clcLlc",), deaths=1),
    "large ones by a worker": Config(("wlLc",), deaths=1),
    "without a reply": Config(("ccoocc",), deaths=1),
    "without a reply, by a worker": Config(("ccxcocc",), deaths=1),
    "never open": Config(("wcpoc",), room=0, deaths=1),
}

TWO = {
    "calls": Config(("ccc", "cc")),
    "a death": Config(("cc", "cc"), deaths=1),
    "room for one": Config(("ccc", "ccc"), room=1),
    "parked": Config(("cpc", "cc")),
    "without a reply": Config(("coc", "cc")),
    "too large": Config(("clc", "cc")),
    "a worker": Config(("wc", "c")),
    "a worker, and room for none": Config(("wc", "oc"), room=0, deaths=1),
}


@pytest.mark.parametrize("name", ONE)
def test_one_client(name: str) -> None:
    holds(ONE[name])


@pytest.mark.parametrize("name", TWO)
def test_two_clients(name: str) -> None:
    holds(TWO[name])


# What is broken on purpose, where that is to be seen, and how

BROKEN = {
    Mutation.LOOP_SLEEPS_OPEN: (Config(("cc",)), "for ever"),
    Mutation.WORKER_SLEEPS_OPEN: (Config(("wcc",)), "for ever"),
    Mutation.SHUTS_BLINDLY: (Config(("cc",)), "for ever"),
    Mutation.WORKER_SHUTS_BLINDLY: (Config(("wcc",)), "for ever"),
    Mutation.SLEEPS_SILENTLY: (Config(("cc",)), "for ever"),
    Mutation.SLEEPS_BLINDLY: (Config(("cc",)), "for ever"),
    Mutation.ANSWERS_SLEEPERS: (Config(("cc",)), "for ever"),
    Mutation.ANSWERS_FIRST: (Config(("cc",)), "while the other writes it"),
    Mutation.POSTS_BLINDLY: (Config(("cc",)), "for ever"),
    Mutation.OPENS_PLAINLY: (Config(("cpc",)), "for ever"),
    Mutation.STARTS_OPEN: (Config(("c",)), "for ever"),
    Mutation.ENTRUSTS_OPEN: (Config(("wcc",)), "not to read"),
    Mutation.GIVES_BACK_OPEN: (Config(("wccc",), room=0), "for ever"),
    Mutation.GIVES_BACK_BLINDLY: (Config(("wccc",), room=0), "for ever"),
    Mutation.FORGETS_AHEAD: (Config(("ccoc",)), "made earlier"),
    Mutation.UNWATCHED: (Config(("w",), deaths=1), "comes to know"),
}


@pytest.mark.parametrize("mutation", Mutation, ids=lambda mutation: mutation.value)
def test_what_is_broken_is_found(mutation: Mutation) -> None:
    """By what it does to the clients, not only by what looks wrong within."""
    config, problem = BROKEN[mutation]
    holds(config)
    broken = explore(replace(config, mutation=mutation, inner=False), MOST)
    assert broken.violation is not None and problem in broken.violation
    assert broken.trace


def test_what_is_broken_is_seen_within_as_well() -> None:
    config, _ = BROKEN[Mutation.ANSWERS_FIRST]
    broken = explore(replace(config, mutation=Mutation.ANSWERS_FIRST), MOST)
    assert broken.violation is not None and "out of turn" in broken.violation


def test_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cc", "--deaths", "1"]) == 0
    assert "every property holds" in capsys.readouterr().out
    assert main(["cc", "--mutation", "sleeps-blindly"]) == 1
    assert "then: client 0 waits for ever" in capsys.readouterr().out
