"""What users' code raises is told, whatever it is, with its traceback."""

from __future__ import annotations

import asyncio
import multiprocessing
import sys
from collections.abc import Iterator
from multiprocessing import managers as stdlib
from typing import Any

import pytest
from support import KEY

import fastmgr
from fastmgr.managers import RemoteError


class Rude:
    """Raises what no handler of `Exception` catches, wherever it can."""

    def __init__(self, what: str = "") -> None:
        if what:
            self.do(what)

    def do(self, what: str) -> Any:
        if what == "cancel":
            raise asyncio.CancelledError("from a method")
        if what == "exit":
            sys.exit("from a method")
        raise KeyboardInterrupt("from a method")

    def reply(self, what: str) -> Any:
        return Unreadable(what)

    @property
    def broken(self) -> Any:
        raise AttributeError("the property's own error")


class Guesser:
    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"what is said of {name}")


class Unreadable:
    def __init__(self, what: str) -> None:
        self.what = what

    def __reduce__(self) -> Any:
        return Rude().do(self.what)


class Bomb:
    """Raises where it is unpickled."""

    def __reduce__(self) -> Any:
        return Rude, ("interrupt",)


EXPOSED = ("do", "reply", "broken", *(f"method_{i}" for i in range(40)))


class RudeManager(fastmgr.SyncManager):
    """With what is rude; and the same for the stdlib's clients."""


class StockRudeManager(stdlib.SyncManager):
    """The same for a client of the stdlib."""


for made in (RudeManager, StockRudeManager):
    made.register("Rude", Rude, exposed=EXPOSED)
    made.register("Guesser", Guesser, exposed=["made_up"])


@pytest.fixture(scope="module")
def rude_server() -> Iterator[RudeManager]:
    with RudeManager(authkey=KEY) as server:
        yield server


@pytest.fixture(params=[RudeManager, StockRudeManager], ids=["fast", "stock"])
def rude_client(request: pytest.FixtureRequest, rude_server: RudeManager) -> Iterator[Any]:
    before = multiprocessing.current_process().authkey
    multiprocessing.current_process().authkey = KEY
    client = request.param(rude_server.address, KEY)
    client.connect()
    yield client
    multiprocessing.current_process().authkey = before


REMOTE = (RemoteError, stdlib.RemoteError)


@pytest.mark.parametrize(
    "what, error", [("interrupt", "KeyboardInterrupt"), ("cancel", "CancelledError"),
                    ("exit", "SystemExit")]
)  # fmt: skip
def test_what_is_no_exception_is_told(rude_client: Any, what: str, error: str) -> None:
    """With its traceback; the connection and its server's thread go on."""
    rude = rude_client.Rude()
    for call in (lambda: rude.do(what), lambda: rude_client.Rude(what)):
        with pytest.raises(REMOTE, match=f"(?s)in do.*{error}.*from a method"):
            call()
    if isinstance(rude_client, RudeManager):
        with pytest.raises(RemoteError, match=f"(?s)Unserializable.*{error}"):
            rude.reply(what)
        with pytest.raises(RemoteError, match="KeyboardInterrupt"):
            rude.do(Bomb())
    with pytest.raises(REMOTE, match=error):
        rude.do(what)


def test_attribute_errors_of_users_code_are_told(rude_client: Any) -> None:
    """An exposed name that cannot be had says why."""
    with pytest.raises(REMOTE, match=r"(?s)in broken.*the property's own error"):
        rude_client.Rude()._callmethod("broken")
    with pytest.raises(REMOTE, match=r"(?s)in __getattr__.*what is said of made_up"):
        rude_client.Guesser()._callmethod("made_up")


def test_error_of_what_is_not_exposed_lists_some_names_in_order(rude_client: Any) -> None:
    rude = rude_client.Rude()
    with pytest.raises(REMOTE) as caught:
        rude._callmethod("something")
    shown = ", ".join(map(repr, sorted(EXPOSED)[:30]))
    assert f"is not in exposed={{{shown}, ... and 13 more}}\n" in str(caught.value)
